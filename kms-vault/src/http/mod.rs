//! HTTP to Vault: requests, answers, and the client that bounds them in number, size and time.

mod answer;
mod body;
mod call;
mod client;
mod health;
mod json;
mod tls;

pub use answer::{Answer, Envelope};
pub use body::json_body;
pub use call::{Call, Credentials};
pub use client::Client;
pub use json::{Fields, secret_text};
