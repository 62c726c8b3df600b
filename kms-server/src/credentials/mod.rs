//! Certificates, private keys and API keys, in files and as text.

pub mod apikey;
pub mod certificate;
pub mod private_key;
