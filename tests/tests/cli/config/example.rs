//! A config without mistakes that tests change.

use kms_server::config::{Loaded, load_text};

pub const ADMIN: &str = "0000000000000000000000000000000000000000000000000000000000000001";
pub const APP: &str = "0000000000000000000000000000000000000000000000000000000000000002";

/// A config without mistakes. Tests replace parts of it to get mistakes.
pub const GOOD: &str = r#"address = "127.0.0.1:7373"

[admin]
identity = "0000000000000000000000000000000000000000000000000000000000000001"

[tls]
cert = "server.crt"
key = "server.key"

[policy.app]
allow = ["/v1/key/create/app-*"]
deny = ["/v1/key/delete/*"]
identities = ["0000000000000000000000000000000000000000000000000000000000000002"]

[cache.expiry]
any = "5m"

[[keys]]
name = "my-key"

[keystore.fs]
path = "data"
root_key_file = "root.key"
"#;

pub fn good(text: &str, environment: &[(&str, &str)]) -> Loaded {
    load_text(text, "kms.toml", &environment.iter().copied().collect())
        .unwrap_or_else(|problem| panic!("{problem}"))
}
