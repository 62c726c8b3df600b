//! A fake server whose answers a test chooses.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The address of all fake servers.
pub const ADDRESS: &str = "127.0.0.1";

/// A certificate and its private key in PEM.
pub struct Pair {
    pub certificate: String,
    pub key: String,
}

/// A running server. It ends with the process of the test.
pub struct Fake {
    pub address: SocketAddr,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Fake {
    /// Starts a server that answers every request by `answer`.
    ///
    /// `answer` gets the first line of the request and returns a status and a body.
    pub fn start(pair: &Pair, answer: impl Fn(&str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let chain = vec![CertificateDer::from_pem_slice(pair.certificate.as_bytes()).unwrap()];
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let config = rustls::ServerConfig::builder_with_provider(provider.into())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        let listener = TcpListener::bind((ADDRESS, 0)).unwrap();
        let fake = Self { address: listener.local_addr().unwrap(), requests: Arc::default() };
        let (config, requests, answer) = (Arc::new(config), Arc::clone(&fake.requests), Arc::new(answer));
        std::thread::spawn(move || {
            for tcp in listener.incoming().flatten() {
                let (config, requests, answer) =
                    (Arc::clone(&config), Arc::clone(&requests), Arc::clone(&answer));
                std::thread::spawn(move || {
                    let session = rustls::ServerConnection::new(config).unwrap();
                    let mut tls = rustls::StreamOwned::new(session, tcp);
                    let mut part = [0; 8192];
                    while let Ok(read @ 1..) = tls.read(&mut part) {
                        let text = String::from_utf8_lossy(&part[..read]).into_owned();
                        let first = text.lines().next().unwrap_or_default().to_owned();
                        let (status, body) = answer(&first);
                        requests.lock().unwrap().push(first);
                        let length = body.len();
                        let head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {length}\r\n\r\n");
                        if tls.write_all((head + &body).as_bytes()).is_err() {
                            return;
                        }
                    }
                });
            }
        });
        fake
    }

    /// Returns the first lines of all requests since the last call of this method.
    pub fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}
