//! The parts of an event, for JSON.

use std::collections::BTreeMap;

use serde::Serialize;

/// The parts of an event, for JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Parts {
    message: String,
    /// The part of the program that logged it.
    kind: String,
    /// An error, and its sources one by one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    error: Vec<String>,
    /// What the event is about, such as `identity` and `path`.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    fields: BTreeMap<&'static str, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repeated: Option<More>,
}

/// How often a line came again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct More {
    more: u64,
    seconds: u64,
}

impl Parts {
    /// Creates the parts of an event of the module `target`.
    pub fn new(
        target: &str,
        message: String,
        error: Vec<String>,
        fields: Vec<(&'static str, String)>,
    ) -> Self {
        let fields = fields.into_iter().collect();
        Self { message, kind: kind(target).to_owned(), error, fields, repeated: None }
    }

    /// Creates the parts of a line about the log itself.
    pub fn of_log(message: &str) -> Self {
        Self::new(module_path!(), message.to_owned(), Vec::new(), Vec::new())
    }

    /// Notes how often the line came again.
    #[must_use]
    pub fn repeated(self, more: u64, seconds: u64) -> Self {
        Self { repeated: Some(More { more, seconds }), ..self }
    }
}

/// Returns the room of ARCHITECTURE.md that a module is in: of the server and of the library one of their rooms, of a backend its name.
fn kind(target: &str) -> &str {
    let mut names = target.split("::");
    let first = names.next().unwrap_or_default();
    match first {
        "kms_server" | "kms_core" => names.next().unwrap_or("server"),
        _ => first.strip_prefix("kms_").unwrap_or(first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_a_room() {
        for (target, expected) in [
            ("kms_server::api::call", "api"),
            ("kms_core::ring::cache", "ring"),
            ("kms_vault::auth::keeper", "vault"),
            ("kms_server", "server"),
            ("rustls::conn", "rustls"),
        ] {
            assert_eq!(kind(target), expected);
        }
    }
}
