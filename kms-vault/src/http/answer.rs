//! An answer of Vault.

use kms_core::primitives::quote;
use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use crate::error::Failure;

/// The longest name of a field in a message, in characters.
const MAX_KEY: usize = 80;

/// An answer of Vault: a 2xx, or a 400, 403, 404 or 405 with a body of Vault's.
pub struct Answer {
    /// The HTTP status.
    pub code: u16,
    /// The body. It is wiped when dropped.
    pub body: Zeroizing<Vec<u8>>,
}

/// The object around the data of an answer.
#[derive(Deserialize)]
pub struct Envelope<T> {
    pub data: T,
}

/// The parts of a body that say why there is no data.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Complaint {
    errors: Option<Vec<String>>,
    warnings: Option<Vec<String>>,
    request_id: Option<String>,
}

impl Answer {
    /// Returns whether the request succeeded.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// Returns whether this is Vault's plain "there is nothing at this path": `{"errors": []}` and no more.
    ///
    /// The answers for a wrong engine, for a wrong namespace, and for a deleted version of K/V version 2 are
    /// 404s too, but they say something. So do those of a proxy between us and Vault.
    pub fn is_absent(&self) -> bool {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Nothing {
            errors: [(); 0],
        }
        self.code == 404
            && serde_json::from_slice::<Nothing>(&self.body).is_ok_and(|Nothing { errors: [] }| true)
    }

    /// Creates the failure of an answer that was not expected.
    pub fn failure(&self) -> Failure {
        if !self.is_vaults() {
            return Failure::foreign(self.code);
        }
        let complaint = self.complaint();
        let says: Vec<String> =
            [complaint.errors, complaint.warnings].into_iter().flatten().flatten().collect();
        Failure::Status { code: self.code, says: quote(&says.join("; ")) }
    }

    /// Reads the body as `T`. The error quotes no value from it.
    pub fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Failure> {
        // serde would read an array as an object whose fields have no names.
        let is_object = self.body.trim_ascii_start().first() == Some(&b'{');
        if !is_object && serde_json::from_slice::<IgnoredAny>(&self.body).is_ok() {
            let why = "its answer is not of the expected form: it is no JSON object";
            return Err(Failure::NotVault(why.to_owned()));
        }
        serde_json::from_slice(&self.body).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            let text = error.to_string();
            let missing = text.strip_prefix("missing field `").and_then(|text| text.split_once('`'));
            let why = match (missing, last_key(&self.body, error.line(), error.column())) {
                (Some((field, _)), _) => format!("the field '{field}' is missing"),
                (None, Some(field)) if error.is_data() => format!("the field '{field}' has another type"),
                _ => "it is no JSON".to_owned(),
            };
            Failure::NotVault(format!("its answer is not of the expected form at {place}: {why}"))
        })
    }

    /// Returns whether the body comes from Vault.
    pub fn is_vaults(&self) -> bool {
        let complaint = self.complaint();
        complaint.errors.is_some() || complaint.request_id.is_some()
    }

    fn complaint(&self) -> Complaint {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Finds the last key of an object that ends before a place in a JSON text.
///
/// The value behind the key is not looked at: it may be a secret.
fn last_key(json: &[u8], line: usize, column: usize) -> Option<String> {
    let before: usize =
        json.split_inclusive(|&byte| byte == b'\n').take(line.saturating_sub(1)).map(<[u8]>::len).sum();
    let text = json.get(..(before + column).min(json.len()))?;
    let (mut key, mut at) = (None, 0);
    while let Some(start) = text.get(at..)?.iter().position(|&byte| byte == b'"').map(|found| at + found + 1)
    {
        let mut end = start;
        while *text.get(end).unwrap_or(&b'"') != b'"' {
            end += if text[end] == b'\\' { 2 } else { 1 };
        }
        let after = text.get(end + 1..).unwrap_or_default().iter().find(|byte| !byte.is_ascii_whitespace());
        if after == Some(&b':') {
            key = Some(start..end);
        }
        at = (end + 1).min(text.len());
    }
    let name = str::from_utf8(text.get(key?)?).ok()?;
    Some(name.chars().take(MAX_KEY).collect::<String>().escape_debug().to_string())
}

#[cfg(test)]
mod tests {
    use kms_core::ErrorKind;

    use super::*;

    fn answer(code: u16, body: &str) -> Answer {
        Answer { code, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    /// If another 404 counted as an absent key, a client would make the key anew.
    #[test]
    fn only_vaults_own_404_says_that_there_is_nothing() {
        for body in [r#"{"errors":[]}"#, "{\"errors\": []}\n"] {
            assert!(answer(404, body).is_absent(), "{body}");
        }
        for (code, body) in [
            (404, r#"{"errors":["no handler for route 'kv/key'"]}"#),
            (404, r#"{"errors":["1 error occurred:\n\t* no namespace"]}"#),
            (404, r#"{"errors":[],"warnings":["Invalid path for a versioned K/V secrets engine"]}"#),
            (404, r#"{"errors":[],"data":{"data":null,"metadata":{"destroyed":true}}}"#),
            (404, r#"{"data":{"data":null,"metadata":{"deletion_time":"2024-01-01T00:00:00Z"}}}"#),
            (404, r#"{"errors":null}"#),
            (404, r#"{"errors":{}}"#),
            (404, r#"{"errors":[[]]}"#),
            (404, r#"{"errors":[],"code":404,"message":"no such route"}"#),
            (404, r#"{"request_id":"1","message":"no route matched with those values"}"#),
            (404, r#"{"error":"not found"}"#),
            (404, "{}"),
            (404, "[]"),
            (404, ""),
            (404, "<html>404 Not Found</html>"),
            (404, "default backend - 404"),
            (200, r#"{"errors":[]}"#),
            (400, r#"{"errors":[]}"#),
            (403, r#"{"errors":[]}"#),
            (405, r#"{"errors":[]}"#),
            (410, r#"{"errors":[]}"#),
        ] {
            assert!(!answer(code, body).is_absent(), "{code} {body}");
        }
    }

    #[test]
    fn no_failure_is_told_as_an_absent_key() {
        for code in 100..600 {
            for body in ["", "{}", r#"{"errors":[]}"#, r#"{"errors":["no handler for route"]}"#, "<html>"] {
                let kinds =
                    [answer(code, body).failure().kind(), answer(code, body).failure().kind_of_login()];
                for kind in kinds {
                    let is_fault = matches!(
                        kind,
                        ErrorKind::Denied
                            | ErrorKind::LoginRefused
                            | ErrorKind::Throttled
                            | ErrorKind::Unreachable
                    );
                    assert!(is_fault, "{code} {body}: {kind:?}");
                }
            }
        }
    }
}
