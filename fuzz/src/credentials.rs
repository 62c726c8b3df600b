//! The server's room for certificates, private keys and API keys.

#[path = "../../kms-server/src/credentials/apikey.rs"]
pub mod apikey;
#[path = "../../kms-server/src/credentials/certificate.rs"]
pub mod certificate;
#[path = "../../kms-server/src/credentials/private_key.rs"]
pub mod private_key;
