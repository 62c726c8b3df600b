//! Certificates, private keys and API keys, as files and texts have them.

pub mod apikey;
pub mod certificate;
pub mod private_key;
