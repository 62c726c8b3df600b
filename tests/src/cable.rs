//! A cable between a client and a server, which a test can cut: a proxy for TCP.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What happens to bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// They pass.
    Whole,
    /// They vanish, and nobody is told: connections stay half open.
    Dropping,
    /// Connections are closed, and new ones are too.
    Cut,
}

/// A running proxy.
pub struct Cable {
    port: u16,
    to: Arc<AtomicU16>,
    state: Arc<watch::Sender<State>>,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Cable {
    /// Lays a cable to a port of this machine.
    pub async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let (to, state) = (Arc::new(AtomicU16::new(port)), Arc::new(watch::Sender::new(State::Whole)));
        let connections = Arc::new(AtomicUsize::new(0));
        let task =
            tokio::spawn(accept(listener, Arc::clone(&to), Arc::clone(&state), Arc::clone(&connections)));
        Self { port: own_port, to, state, connections, task }
    }

    /// Returns the port of this end.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Changes what happens to bytes from now on.
    pub fn set(&self, state: State) {
        self.state.send_replace(state);
    }

    /// Leads new connections to another port.
    pub fn lead_to(&self, port: u16) {
        self.to.store(port, Ordering::Relaxed);
    }

    /// Returns how many connections there were so far.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.task.abort();
        self.state.send_replace(State::Cut);
    }
}

async fn accept(
    listener: TcpListener,
    to: Arc<AtomicU16>,
    state: Arc<watch::Sender<State>>,
    connections: Arc<AtomicUsize>,
) {
    while let Ok((client, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        let (port, mut seen) = (to.load(Ordering::Relaxed), state.subscribe());
        tokio::spawn(async move {
            if *seen.borrow_and_update() == State::Cut {
                return;
            }
            let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
            let ((from_client, to_client), (from_server, to_server)) =
                (client.into_split(), server.into_split());
            tokio::select! {
                () = pass(from_client, to_server, seen.clone()) => {}
                () = pass(from_server, to_client, seen.clone()) => {}
                _ = seen.wait_for(|state| *state == State::Cut) => {}
            }
        });
    }
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: watch::Receiver<State>) {
    let mut bytes = vec![0; 16 << 10];
    loop {
        let Ok(length @ 1..) = from.read(&mut bytes).await else { return };
        if *state.borrow() == State::Whole && to.write_all(&bytes[..length]).await.is_err() {
            return;
        }
    }
}
