//! The transport of one connection. It notes in a [`Watch`] what comes and goes, and which HTTP/1.1 requests are refused.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::frames::Frames;
use super::heads::Heads;
use super::requests::{self, Followed, RefusedHead, Requests};
use super::watch::Watch;

/// A TLS connection that is watched.
pub struct WatchedIo {
    tls: TlsStream<TcpStream>,
    watch: Arc<Watch>,
    follows: Follows,
    /// Bytes that may be passed on and were not read yet.
    unread: Bytes,
    /// HTTP/1.1: the received part of an incomplete head.
    held: Vec<u8>,
    heads: Heads,
    writes: u32,
    is_shut_down: bool,
}

/// The tracker of incoming bytes.
enum Follows {
    Http1(Requests),
    Http2(Frames),
}

impl WatchedIo {
    /// Watches a connection that speaks HTTP/1.1.
    pub fn http1(tls: TlsStream<TcpStream>, watch: Arc<Watch>, heads: Heads) -> Self {
        Self::new(tls, watch, heads, Follows::Http1(Requests::new()))
    }

    /// Watches a connection that speaks HTTP/2.
    pub fn http2(tls: TlsStream<TcpStream>, watch: Arc<Watch>, heads: Heads) -> Self {
        Self::new(tls, watch, heads, Follows::Http2(Frames::new()))
    }

    fn new(tls: TlsStream<TcpStream>, watch: Arc<Watch>, heads: Heads, follows: Follows) -> Self {
        let (unread, held) = (Bytes::new(), Vec::new());
        Self { tls, watch, follows, unread, held, heads, writes: 0, is_shut_down: false }
    }

    /// Puts back bytes that were read and not used.
    pub fn unread(&mut self, bytes: Bytes) {
        self.unread =
            if self.unread.is_empty() { bytes } else { [bytes, self.unread.split_off(0)].concat().into() };
    }

    /// Waits for something to read, without a buffer to read into.
    ///
    /// Data inside the TLS session counts.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.unread.is_empty() {
            return Poll::Ready(());
        }
        let (tcp, session) = self.tls.get_mut();
        match session.process_new_packets() {
            Ok(state) if state.plaintext_bytes_to_read() == 0 && !state.peer_has_closed() => {
                let ready = tcp.poll_read_ready(cx).map(|_| ());
                if ready.is_pending() {
                    // A session shrinks its buffer only when it is read into. This call makes it give back half of it.
                    let _ = session.read_tls(&mut NothingYet);
                }
                ready
            }
            // There is data or an error, which the next read returns.
            _ => Poll::Ready(()),
        }
    }

    /// Reads whole heads, and parts of bodies.
    fn poll_read_http1(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            if !self.unread.is_empty() {
                let len = self.unread.len().min(buf.remaining());
                buf.put_slice(&self.unread.split_to(len));
                return Poll::Ready(Ok(()));
            }
            let Follows::Http1(requests) = &mut self.follows else { return Poll::Ready(Ok(())) };
            match requests.is_over() {
                None => {}
                // The answer ends the connection, so nothing more is read before it.
                Some(false) => return Poll::Pending,
                Some(true) => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
            }
            let before = buf.filled().len();
            let outcome = Pin::new(&mut self.tls).poll_read(cx, buf);
            if outcome.is_pending() {
                self.note_head();
                return Poll::Pending;
            }
            ready!(outcome)?;
            let bytes = &buf.filled()[before..];
            if bytes.is_empty() {
                return Poll::Ready(Ok(()));
            }
            if self.held.is_empty() {
                let Followed { passed, refused } = requests.follow(bytes);
                if passed == bytes.len() {
                    return Poll::Ready(Ok(()));
                }
                if let Some(RefusedHead { refusal, number, stand_in }) = refused {
                    self.watch.http1_refuse(number, refusal);
                    self.unread = stand_in.into();
                } else if requests.is_over().is_none() {
                    self.held = bytes[passed..].to_vec();
                }
                buf.set_filled(before + passed);
                self.keep_room();
                if passed > 0 {
                    return Poll::Ready(Ok(()));
                }
            } else {
                let old = self.held.len();
                self.held.extend_from_slice(bytes);
                buf.set_filled(before);
                if requests::may_be_whole(&self.held, old) {
                    self.follow_held();
                }
                self.keep_room();
            }
        }
    }

    /// Follows a head that came in parts, and the data that came with its last part.
    fn follow_held(&mut self) {
        let Follows::Http1(requests) = &mut self.follows else { return };
        let mut bytes = std::mem::take(&mut self.held);
        let Followed { passed, refused } = requests.follow(&bytes);
        if refused.is_none() && requests.is_over().is_none() {
            self.held = bytes[passed..].to_vec();
        }
        bytes.truncate(passed);
        if let Some(RefusedHead { refusal, number, stand_in }) = refused {
            self.watch.http1_refuse(number, refusal);
            bytes.extend_from_slice(&stand_in);
        }
        self.unread = bytes.into();
    }

    /// Takes or gives back the permit for an incomplete head. Refuses the request if there is no permit left.
    fn keep_room(&mut self) {
        let Follows::Http1(requests) = &mut self.follows else { return };
        if self.heads.hold(self.held.len()) {
            return;
        }
        self.held = Vec::new();
        let RefusedHead { refusal, number, stand_in } = requests.refuse_for_want_of_room();
        self.watch.http1_refuse(number, refusal);
        self.unread = [self.unread.split_off(0), stand_in.into()].concat().into();
    }

    /// Notes the beginning of a head, if there is one.
    fn note_head(&self) {
        if !self.held.is_empty() {
            self.watch.http1_head_begins();
        }
    }

    fn note_write<T>(&mut self, outcome: Poll<T>) -> Poll<T> {
        if outcome.is_pending() {
            self.watch.write_stalled(self.writes.max(1));
        } else {
            self.writes = self.writes.wrapping_add(1);
            self.watch.written();
        }
        outcome
    }

    /// Reads and discards data until the peer ends the connection or an error occurs.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        loop {
            let mut scratch = ReadBuf::new(&mut scratch);
            match ready!(Pin::new(&mut self.tls.get_mut().0).poll_read(cx, &mut scratch)) {
                Ok(()) if !scratch.filled().is_empty() => {}
                _ => return Poll::Ready(()),
            }
        }
    }
}

/// A source without data.
struct NothingYet;

impl io::Read for NothingYet {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
}

impl AsyncRead for WatchedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let before = buf.filled().len();
        let Follows::Http2(frames) = &mut this.follows else { return this.poll_read_http1(cx, buf) };
        ready!(Pin::new(&mut this.tls).poll_read(cx, buf))?;
        let (open, is_data) = frames.advance(&buf.filled()[before..]);
        this.watch.http2_open(open, is_data);
        if !this.heads.hold(frames.head_len()) {
            return Poll::Ready(Err(io::Error::other("there is no room for its headers")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for WatchedIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tls).poll_write(cx, buf);
        self.note_write(outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.tls).poll_write_vectored(cx, bufs);
        self.note_write(outcome)
    }

    /// Returns false for HTTP/2. Otherwise each answer of more than 256 bytes would be a write, a TLS record and a packet of
    /// its own, even if others wait. Without vectored writes this holds only for answers of more than 1,024 bytes.
    fn is_write_vectored(&self) -> bool {
        matches!(self.follows, Follows::Http1(_)) && self.tls.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.tls).poll_flush(cx);
        if let Poll::Ready(Ok(())) = outcome {
            self.watch.flushed();
            self.note_head();
        } else if outcome.is_pending() {
            self.watch.write_stalled(self.writes.max(1));
        }
        outcome
    }

    /// Ends the TLS session and the sending side.
    ///
    /// If the last answer was sent before the whole request was read, this waits a little for the peer. If the socket were
    /// closed at once, the peer's system would discard the answer.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut_down {
            let outcome = Pin::new(&mut self.tls).poll_shutdown(cx);
            ready!(self.note_write(outcome))?;
            self.is_shut_down = true;
            if self.watch.lingers() {
                self.watch.lingering();
            }
        }
        if self.watch.lingers() {
            ready!(self.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}
