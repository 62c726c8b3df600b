//! The caller of a request: the client of the connection, or the one for whom a proxy speaks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::request::Parts;
use kms_core::Identity;

use super::state::Api;
use crate::access::expiry::Expiry;
use crate::access::forwarded;
use crate::access::identify::{Peer, Refusal};
use crate::access::policy::AccessRules;
use crate::conn::watch::Watch;

/// The client of one connection, as all of its requests see it.
pub struct Client {
    pub(super) api: Arc<Api>,
    pub(super) peer: Peer,
    pub(super) remote: SocketAddr,
    pub(super) is_http2: bool,
    pub(super) watch: Arc<Watch>,
}

impl Client {
    /// Creates the client of a connection after its handshake.
    pub fn new(api: Arc<Api>, peer: Peer, remote: SocketAddr, is_http2: bool, watch: Arc<Watch>) -> Self {
        if let Err(refusal) = peer.identity {
            refusal.tell(remote.ip());
        }
        Self { api, peer, remote, is_http2, watch }
    }

    /// Returns the address of the client.
    pub fn remote(&self) -> SocketAddr {
        self.remote
    }

    /// Returns the notes about its connection.
    pub fn watch(&self) -> &Arc<Watch> {
        &self.watch
    }

    /// Returns whether these rules allow it anything.
    pub(super) fn is_known(&self, access: &AccessRules) -> bool {
        self.peer.identity.as_ref().is_ok_and(|peer| access.knows(peer))
    }
}

/// The caller of a request: the client of the connection, or the one for whom a proxy speaks.
///
/// Accounts and effects outlive the connection, so they keep a copy of this and know nothing else of the client.
#[derive(Clone)]
pub struct Caller {
    pub identity: Result<Identity, Refusal>,
    pub expiry: Option<Expiry>,
    pub ip: IpAddr,
}

impl Caller {
    /// Finds the caller of the request with this head.
    pub fn new(client: &Client, access: &AccessRules, head: &Parts, path: &str) -> Self {
        let (Peer { identity, expiry }, ip) = (client.peer, client.remote.ip());
        let Some(proxies) = identity.as_ref().ok().and_then(|peer| access.proxy(peer)) else {
            return Self { identity, expiry, ip };
        };
        let (Peer { identity, expiry }, ip) = forwarded::client(&head.headers, path, proxies, ip);
        Self { identity, expiry, ip }
    }
}
