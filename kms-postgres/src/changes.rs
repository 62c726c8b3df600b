//! Changes of others, heard over a connection that does nothing else.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use kms_core::KeyName;
use kms_core::store::{Change, Changes};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::Notification;

use crate::config::PostgresConfig;
use crate::connection::{Connection, Wanted};
use crate::error::Failure;
use crate::sql::Sql;
use crate::tls::Tls;

/// How often the server is asked something. A half-open connection never ends by itself.
const ASK: Duration = Duration::from_secs(10);
/// The longest time for its answer.
const ANSWER: Duration = Duration::from_secs(5);
/// The pause before the first new connection. It doubles up to the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// Notifications that wait for the stream. Beyond it the connection is given up, and everything is read again.
const WAITING: usize = 4096;

/// Whether the streams of a store hear something.
#[derive(Debug, Default)]
pub struct Listening {
    streams: AtomicUsize,
    connected: AtomicUsize,
}

impl Listening {
    /// Returns whether there is a stream that hears nothing.
    pub fn is_deaf(&self) -> bool {
        self.connected.load(Ordering::Relaxed) < self.streams.load(Ordering::Relaxed)
    }
}

/// Begins to listen, until the stream is dropped.
pub fn listen(config: Arc<PostgresConfig>, tls: Tls, sql: Arc<Sql>, listening: Arc<Listening>) -> Changes {
    let (tell, told) = mpsc::channel(1);
    let held = Counted::begin(Arc::clone(&listening), |listening| &listening.streams);
    let listener = Listener { config, tls, sql, listening, tell };
    Box::pin(Heard { told, task: tokio::spawn(listener.run()), _held: held })
}

/// A number that is one higher while this lives.
struct Counted(Arc<Listening>, fn(&Listening) -> &AtomicUsize);

impl Counted {
    fn begin(listening: Arc<Listening>, number: fn(&Listening) -> &AtomicUsize) -> Self {
        number(&listening).fetch_add(1, Ordering::Relaxed);
        Self(listening, number)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The stream of changes. The connection ends with it.
struct Heard {
    told: mpsc::Receiver<Change>,
    task: JoinHandle<()>,
    _held: Counted,
}

impl Stream for Heard {
    type Item = Change;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        self.told.poll_recv(cx)
    }
}

impl Drop for Heard {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Listener {
    config: Arc<PostgresConfig>,
    tls: Tls,
    sql: Arc<Sql>,
    listening: Arc<Listening>,
    tell: mpsc::Sender<Change>,
}

impl Listener {
    /// Listens for ever, over one connection after the other.
    async fn run(self) {
        let (mut pause, mut is_told) = (PAUSE.0, false);
        loop {
            let began = Instant::now();
            let failure = self.follow().await;
            // A connection that lasted begins the pauses anew.
            if began.elapsed() > PAUSE.1 {
                (pause, is_told) = (PAUSE.0, false);
            }
            if !is_told {
                is_told = true;
                tracing::warn!(
                    "the connection that listens for changes in PostgreSQL is lost, and is made anew: {failure}"
                );
            }
            sleep(jittered(pause)).await;
            pause = (pause * 2).min(PAUSE.1);
        }
    }

    /// Connects and passes on what comes, until the connection is lost.
    async fn follow(&self) -> Failure {
        let (hear, mut heard) = mpsc::channel(WAITING);
        let hosts = self.config.hosts_to_listen();
        let connected =
            Connection::to_one_of(hosts, 0, Wanted::Primary, &self.config, &self.tls, Some(&hear)).await;
        drop(hear);
        let mut connection = match connected {
            Ok((connection, _)) => connection,
            Err(failure) => return failure,
        };
        let failure = match timeout(ANSWER, connection.run(&self.sql.listen)).await {
            Ok(Ok(())) => {
                let _held = Counted::begin(Arc::clone(&self.listening), |listening| &listening.connected);
                tracing::debug!(channel = self.sql.channel, "listening for changes in PostgreSQL");
                // What changed before the server began to notify this connection is unknown.
                self.pass_on(Change::Missed).await;
                self.hear(&connection, &mut heard).await
            }
            Ok(Err(failure)) => failure,
            Err(_) => Failure::Timeout(ANSWER.as_millis()),
        };
        connection.spoil();
        failure
    }

    async fn hear(&self, connection: &Connection, heard: &mut mpsc::Receiver<Notification>) -> Failure {
        let mut next = Instant::now() + ASK;
        loop {
            tokio::select! {
                notification = heard.recv() => match notification {
                    Some(notification) => self.tell_of(&notification).await,
                    None => return Failure::Lost("the connection ended".to_owned()),
                },
                () = tokio::time::sleep_until(next) => {
                    match timeout(ANSWER, connection.takes_writes()).await {
                        Ok(Ok(true)) => next = Instant::now() + ASK,
                        Ok(Ok(false)) => return Failure::ReadOnly,
                        Ok(Err(failure)) => return failure,
                        Err(_) => return Failure::Timeout(ANSWER.as_millis()),
                    }
                }
            }
        }
    }

    async fn tell_of(&self, notification: &Notification) {
        // Every role of the database may notify. What is no name of a key means nothing.
        if notification.channel() == self.sql.channel
            && let Ok(name) = KeyName::new(notification.payload())
        {
            self.pass_on(Change::Key(name)).await;
        }
    }

    async fn pass_on(&self, change: Change) {
        // The receiver is gone only when this task is about to be ended.
        let _ = self.tell.send(change).await;
    }
}

/// Returns a time between half of `pause` and the whole, so that servers do not come back all at once.
fn jittered(pause: Duration) -> Duration {
    let mut random = [0_u8];
    let _ = kms_core::primitives::fill_random(&mut random); // without randomness all wait equally long
    pause.mul_f64(0.5 + 0.5 * f64::from(random[0]) / 255.0)
}
