//! Whether requests can be served.

use http::StatusCode;
use kms_core::StoreStatus;

/// Whether requests can be served: the status of the answer to a probe, and a message.
pub struct Readiness {
    /// 200 while keys can be served, even if only from an offline copy.
    pub status: StatusCode,
    /// What is wrong, if anything is.
    pub amiss: Option<String>,
}

impl Readiness {
    /// Judges the answer of the key store, and the message about keys of the configuration that are missing.
    pub fn of(store: kms_core::Result<StoreStatus>, wanted: Option<String>) -> Self {
        let (status, of_store) = match store {
            Ok(store) => (StatusCode::OK, store.degraded),
            Err(error) if error.kind().is_outage() => {
                (StatusCode::GATEWAY_TIMEOUT, Some("key store is not reachable".to_owned()))
            }
            Err(_) => (StatusCode::BAD_GATEWAY, Some("key store is unavailable".to_owned())),
        };
        let amiss = match (of_store, wanted) {
            (Some(store), Some(wanted)) => Some(format!("{store}; {wanted}")),
            (store, wanted) => store.or(wanted),
        };
        Self { status, amiss }
    }
}
