//! What is done with each input, for every parser of bytes from outside. A property that does not hold panics.
//!
//! The server's parsers are taken in by their files; see `Cargo.toml`.

#![allow(clippy::missing_panics_doc, reason = "a broken property has to panic")]

#[allow(dead_code, missing_docs, reason = "parts of another crate")]
mod access;
mod bodies;
mod config;
mod core;
#[allow(dead_code, missing_docs, reason = "parts of another crate")]
mod credentials;
#[allow(dead_code, reason = "a part of another crate")]
#[path = "../../kms-server/src/access/certificate_header.rs"]
mod header;
#[allow(dead_code, missing_docs, reason = "parts of another crate")]
mod host;
mod http;
mod identity;
#[allow(dead_code, unused_imports, missing_docs, reason = "a part of another crate")]
#[path = "../../kms-server/src/json/mod.rs"]
mod json;
mod postgres;
mod recovery;
mod server;
mod split;
#[allow(dead_code, missing_docs, reason = "parts of another crate")]
mod text;

pub use self::bodies::{audit_escape, request_json};
pub use self::config::{config_toml, config_yaml, policy_glob};
pub use self::core::{aws_header, ciphertext, record};
pub use self::http::{http1_requests, http2_frames};
pub use self::identity::{api_key, certificate, pem, proxy_header};
pub use self::postgres::postgres_login;
pub use self::recovery::{backup_archive, escrow_lines, migrate_note};

/// A target by its name, which is that of its directories of seeds and of kept inputs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 18] = [
    ("record", record),
    ("ciphertext", ciphertext),
    ("aws_header", aws_header),
    ("request_json", request_json),
    ("config_toml", config_toml),
    ("config_yaml", config_yaml),
    ("policy_glob", policy_glob),
    ("certificate", certificate),
    ("api_key", api_key),
    ("http2_frames", http2_frames),
    ("http1_requests", http1_requests),
    ("pem", pem),
    ("proxy_header", proxy_header),
    ("audit_escape", audit_escape),
    ("escrow_lines", escrow_lines),
    ("backup_archive", backup_archive),
    ("migrate_note", migrate_note),
    ("postgres_login", postgres_login),
];
