//! Polls one connection with all that belongs to it: its requests, its limits, and the word that it has to end.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::api::Api;
use crate::conn::guard::{Alarm, Guard};
use crate::conn::http2_executor::{Http2Executor, Streams};
use crate::conn::io::WatchedIo;
use crate::conn::own_waker::OwnWaker;
use crate::conn::watch::{Stop, Watch};

/// The number of answers after which a connection that has more to do lets others on its thread have their turn.
const FAIR: usize = 64;

/// The most polls in one turn. Each of them may find that the connection was woken meanwhile.
const MAX_ROUNDS: u32 = 16;

/// Why a connection is no longer polled.
pub enum End {
    /// It has ended.
    Ended,
    /// It is quiet.
    Rested,
}

/// Polls a connection until it has ended, was told to end, exceeds a limit, or becomes quiet.
pub async fn drive<C, E>(
    api: &Api,
    mut connection: Pin<&mut C>,
    graceful_shutdown: fn(Pin<&mut C>),
    executor: Option<&Http2Executor>,
    guard: &mut Guard,
    remote: SocketAddr,
    watch: &Watch,
) -> End
where
    C: Future<Output = Result<(), E>>,
    E: std::fmt::Display,
{
    let (own, mut streams) = (OwnWaker::new(), Streams::default());
    let longest = || api.routes().longest_timeout();
    let mut ending = false;
    let end = poll_fn(|task| {
        let cx = &mut Context::from_waker(own.waker());
        let (mut advanced, mut rounds) = (0, 0);
        loop {
            own.begin(task.waker());
            if let Poll::Ready(end) = connection.as_mut().poll(cx) {
                return Poll::Ready(end.map(|()| End::Ended).map_err(|error| error.to_string()));
            }
            let begun = advanced;
            if let Some(executor) = executor {
                advanced += executor.run(cx, &mut streams, longest);
            }
            rounds += 1;
            let has_had_its_turn = begun >= FAIR || rounds >= MAX_ROUNDS;
            if own.is_woken() && !has_had_its_turn {
                // Mostly, the connection has answers to send.
                continue;
            }
            match watch.told(task.waker()) {
                Some(Stop::Now) => return Poll::Ready(Ok(End::Ended)),
                Some(Stop::WhenIdle) if !ending => {
                    ending = true;
                    graceful_shutdown(connection.as_mut());
                    if watch.is_idle() {
                        guard.ending();
                    }
                    continue;
                }
                _ => {}
            }
            let alarm = guard.poll(cx, watch);
            if guard.has_ticked()
                && let Some(executor) = executor
            {
                executor.part_all(&mut streams, longest);
            }
            match alarm {
                Poll::Pending if own.sleep() => return Poll::Pending,
                Poll::Pending if has_had_its_turn => {
                    task.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Poll::Pending | Poll::Ready(Alarm::Overdue) => {}
                Poll::Ready(Alarm::Rest) if ending => {}
                Poll::Ready(Alarm::Rest) => return Poll::Ready(Ok(End::Rested)),
                Poll::Ready(Alarm::End) => {
                    ending = true;
                    graceful_shutdown(connection.as_mut());
                    guard.ending();
                }
                Poll::Ready(Alarm::Close(why)) => return Poll::Ready(Err(why.to_owned())),
            }
        }
    });
    end.await.unwrap_or_else(|why| {
        tracing::debug!(%remote, "connection closed: {why}");
        End::Ended
    })
}

/// Waits for data on a quiet connection. Returns false if the connection has to end before.
pub async fn rest(io: &mut WatchedIo, guard: &mut Guard, watch: &Watch) -> bool {
    poll_fn(|cx| {
        if io.poll_readable(cx).is_ready() {
            return Poll::Ready(true);
        }
        loop {
            if watch.told(cx.waker()).is_some() {
                return Poll::Ready(false);
            }
            match guard.poll(cx, watch) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Alarm::Rest | Alarm::Overdue) => {}
                Poll::Ready(Alarm::Close(_) | Alarm::End) => return Poll::Ready(false),
            }
        }
    })
    .await
}
