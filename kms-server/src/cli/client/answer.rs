//! The bodies of answers.

use std::collections::BTreeMap;

use http::StatusCode;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::error::ClientError;

/// The patterns of a policy as a server sends them. Each has an object, which has no meaning yet.
pub type Patterns = BTreeMap<String, Value>;

/// Parses the body of an answer as JSON.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, ClientError> {
    let unexpected =
        |_| ClientError::Answer("the server's answer is not the JSON that was expected".to_owned());
    serde_json::from_slice(body).map_err(unexpected)
}

/// Returns the message in the body of an error, or the name of the status if there is none.
pub fn message(body: &[u8], status: StatusCode) -> String {
    #[derive(Deserialize)]
    struct Body {
        message: String,
    }
    match serde_json::from_slice::<Body>(body) {
        Ok(body) if !body.message.is_empty() => body.message,
        _ => status.to_string().to_lowercase(),
    }
}
