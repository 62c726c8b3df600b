//! One connection: how it is made, and the warnings that the server sent over it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kms_core::ErrorKind;
use kms_core::primitives::quote;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::{ChannelBinding as DriverBinding, SslMode};
use tokio_postgres::error::{DbError, Severity};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{AsyncMessage, Client, Config, Notification, Row, SimpleQueryMessage};

use crate::config::{ChannelBinding, Host, NoPassword, PassFile, PostgresConfig, TlsMode};
use crate::error::Failure;
use crate::tls::Tls;

/// The most warnings that are kept. One alone decides already.
const MOST_WARNINGS: usize = 16;
/// When the system begins to ask an idle connection whether it is there, how often it asks, and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(10), Duration::from_secs(5), 3);
/// The time after which sent bytes that nobody confirms end the connection.
const UNCONFIRMED: Duration = Duration::from_secs(25);

/// A value of a query with its type, so that one round trip suffices.
pub type Value<'a> = (&'a (dyn ToSql + Sync), Type);

/// Whether a server takes writes is asked in each transaction anew; this is what it said when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A server that takes writes.
    Primary,
    /// Any server.
    Any,
}

/// A connection with its warnings.
pub struct Connection {
    client: Client,
    warnings: Arc<Warnings>,
    task: JoinHandle<()>,
    /// Whether something was asked whose answer was not awaited.
    is_spoilt: bool,
}

impl Connection {
    /// Connects to the first of `hosts` that is what is wanted, beginning with number `first`. Returns its number, too.
    ///
    /// Notifications go to `heard`.
    pub async fn to_one_of(
        hosts: &[Host],
        first: usize,
        wanted: Wanted,
        config: &PostgresConfig,
        tls: &Tls,
        heard: Option<&mpsc::Sender<Notification>>,
    ) -> Result<(Self, usize), Failure> {
        let mut failures: Vec<(String, Failure)> = Vec::new();
        for index in (0..hosts.len()).map(|index| (first + index) % hosts.len()) {
            let Some(host) = hosts.get(index) else { continue };
            match Self::to(host, wanted, config, tls, heard.cloned()).await {
                Ok(connection) => return Ok((connection, index)),
                Err(failure) => failures.push((host.to_string(), failure)),
            }
        }
        Err(combined(failures))
    }

    async fn to(
        host: &Host,
        wanted: Wanted,
        config: &PostgresConfig,
        tls: &Tls,
        heard: Option<mpsc::Sender<Notification>>,
    ) -> Result<Self, Failure> {
        let (driver, without) = driver_config(host, config)?;
        let connecting = async {
            let connected = driver.connect(tls.clone()).await.map_err(|error| Failure::of(&error));
            // Where no password was found, this is why the login has none.
            let (client, connection) = connected.map_err(|failure| match (failure, &without) {
                (Failure::Login(why), Some(without)) => Failure::Login(format!("{why} ({without})")),
                (failure, _) => failure,
            })?;
            let warnings = Arc::new(Warnings::default());
            let task = tokio::spawn(drive(connection, Arc::clone(&warnings), heard));
            let connection = Self { client, warnings, task, is_spoilt: false };
            if wanted == Wanted::Primary && !connection.takes_writes().await? {
                return Err(Failure::ReadOnly);
            }
            Ok(connection)
        };
        // The driver bounds the time for one address; this bounds all of it, since a server may accept and say nothing.
        let most = config.connect_timeout.saturating_mul(2);
        timeout(most, connecting).await.unwrap_or(Err(Failure::Timeout(most.as_millis())))
    }

    /// Asks whether transactions over this connection may write.
    pub async fn takes_writes(&self) -> Result<bool, Failure> {
        let rows =
            self.query("SELECT pg_catalog.current_setting('transaction_read_only') = 'off'", &[]).await?;
        let first = rows.first().ok_or_else(|| Failure::Internal("a SELECT without a row".to_owned()))?;
        Ok(first.try_get(0)?)
    }

    /// Sends statements without values, and returns the first column of the first row.
    pub async fn run_for_one(&self, statements: &str) -> Result<String, Failure> {
        let messages = self.client.simple_query(statements).await?;
        let first = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        first.map(ToOwned::to_owned).ok_or_else(|| Failure::Internal("a SELECT without a value".to_owned()))
    }

    /// Sends a query with its values in one round trip, without a prepared statement.
    pub async fn query(&self, statement: &str, values: &[Value<'_>]) -> Result<Vec<Row>, Failure> {
        Ok(self.client.query_typed(statement, values).await?)
    }

    /// Sends statements without values.
    pub async fn run(&self, statements: &str) -> Result<(), Failure> {
        Ok(self.client.batch_execute(statements).await?)
    }

    /// Forgets the warnings so far.
    pub fn begin_watch(&self) {
        self.warnings.lock().clear();
    }

    /// Returns the warnings since [`begin_watch`](Self::begin_watch), as one text; `None` if there was none.
    pub fn warned(&self) -> Option<String> {
        let warnings = self.warnings.lock();
        if warnings.is_empty() { None } else { Some(warnings.join("; ")) }
    }

    /// Returns whether the connection ended.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.is_spoilt
    }

    /// Cuts the connection. Otherwise the driver would wait for an answer that nobody wants, perhaps from a server that is
    /// gone.
    pub fn spoil(&mut self) {
        self.is_spoilt = true;
        self.task.abort();
    }
}

/// The warnings of a server since the last look.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Warnings {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, notice: &DbError) {
        let harmless = matches!(
            notice.parsed_severity(),
            Some(Severity::Debug | Severity::Log | Severity::Info | Severity::Notice)
        );
        let mut warnings = self.lock();
        if !harmless && warnings.len() < MOST_WARNINGS {
            warnings.push(format!("{} ({})", quote(notice.message()), notice.code().code()));
        }
    }
}

/// Moves the bytes of a connection until it ends.
///
/// The driver hands out messages in the order of the stream, and an answer only when it is polled again. So a warning is
/// noted before anybody hears of the COMMIT behind it.
async fn drive<S, T>(
    mut connection: tokio_postgres::Connection<S, T>,
    warnings: Arc<Warnings>,
    heard: Option<mpsc::Sender<Notification>>,
) where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        match std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            Some(Ok(AsyncMessage::Notice(notice))) => warnings.note(&notice),
            Some(Ok(AsyncMessage::Notification(notification))) => {
                // Whoever listens reads everything again when it cannot follow, so nothing waits here.
                if let Some(heard) = &heard
                    && let Err(mpsc::error::TrySendError::Full(_)) = heard.try_send(notification)
                {
                    return;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                tracing::debug!("a connection to PostgreSQL ended: {}", Failure::of(&error));
                return;
            }
            None => return,
        }
    }
}

/// Returns the driver's settings, and why no password is among them if a password file was looked into.
fn driver_config(host: &Host, config: &PostgresConfig) -> Result<(Config, Option<NoPassword>), Failure> {
    let mut driver = Config::new();
    let (idle, interval, retries) = KEEPALIVE;
    driver
        .host(&host.name)
        .port(host.port)
        .user(&config.user)
        .dbname(&config.database)
        .application_name(&config.application_name)
        .connect_timeout(config.connect_timeout)
        .keepalives_idle(idle)
        .keepalives_interval(interval)
        .keepalives_retries(retries)
        .tcp_user_timeout(UNCONFIRMED)
        .ssl_mode(match config.tls.mode {
            _ if host.is_socket() => SslMode::Disable,
            TlsMode::Disable => SslMode::Disable,
            TlsMode::Prefer => SslMode::Prefer,
            TlsMode::Require | TlsMode::VerifyCa | TlsMode::VerifyFull => SslMode::Require,
        })
        .channel_binding(match config.tls.channel_binding {
            ChannelBinding::Disable => DriverBinding::Disable,
            ChannelBinding::Prefer => DriverBinding::Prefer,
            ChannelBinding::Require => DriverBinding::Require,
        });
    let mut without = None;
    let in_file = |file: &PassFile| file.password(host, &config.database, &config.user);
    match (&config.password, config.pass_file.as_ref().map(in_file)) {
        (Some(password), _) => {
            driver.password(password.read().map_err(Failure::Login)?.expose());
        }
        (None, Some(Ok(password))) => {
            driver.password(password.expose());
        }
        (None, Some(Err(why))) => without = Some(why),
        (None, None) => {}
    }
    Ok((driver, without))
}

/// Makes one failure of those of all hosts. Its kind is that of an outage if any host had one: that host may be the primary.
/// A host that takes no writes is not, so any other refusal says more.
fn combined(mut failures: Vec<(String, Failure)>) -> Failure {
    if failures.len() < 2 {
        let only = failures.pop().map(|(_, failure)| failure);
        return only.unwrap_or_else(|| Failure::Internal("there is no host".to_owned()));
    }
    let kinds = || failures.iter().map(|(_, failure)| failure.kind());
    let kind = kinds()
        .find(|kind| kind.is_outage())
        .or_else(|| kinds().find(|kind| *kind != ErrorKind::ReadOnly))
        .unwrap_or(ErrorKind::ReadOnly);
    let all: Vec<_> = failures.iter().map(|(host, failure)| format!("{host}: {failure}")).collect();
    Failure::NoServer { kind, says: all.join("; ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_hosts_the_failure_counts_that_may_be_the_primarys() {
        let server = |code: &str| Failure::Server { code: code.to_owned(), says: String::new(), fatal: true };
        let lost = || Failure::Lost("refused".to_owned());
        for (failures, kind) in [
            (vec![Failure::ReadOnly, Failure::ReadOnly], ErrorKind::ReadOnly),
            (vec![Failure::ReadOnly, lost()], ErrorKind::Unreachable),
            (vec![server("57P03"), Failure::ReadOnly], ErrorKind::Sealed),
            (vec![Failure::ReadOnly, server("28P01")], ErrorKind::LoginRefused),
            (vec![server("28P01"), lost()], ErrorKind::Unreachable),
            (vec![server("3D000"), server("3D000")], ErrorKind::NotSetUp),
            (vec![server("53300"), Failure::ReadOnly], ErrorKind::Throttled),
            (vec![server("28P01")], ErrorKind::LoginRefused),
        ] {
            let named = failures.into_iter().map(|failure| ("db".to_owned(), failure)).collect();
            let failure = combined(named);
            assert_eq!(failure.kind(), kind, "{failure}");
            assert!(
                failure.is_lost() && !failure.leaves_outcome_unknown() || kind == ErrorKind::LoginRefused
            );
        }
    }
}
