//! What Vault grants: a token, and the terms of its lease.

use zeroize::Zeroizing;

use crate::error::Failure;
use crate::http::{Answer, Fields, secret_text};

/// A token that Vault granted.
pub struct Grant {
    /// The token.
    pub token: Zeroizing<String>,
    /// The terms of its lease.
    pub terms: Terms,
}

/// The terms of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The length in seconds; zero if the lease has no end.
    pub seconds: u64,
    /// Whether the lease can be made longer.
    pub renewable: bool,
}

impl Grant {
    /// Reads the answer to a login or a renewal.
    pub fn of(answer: &Answer) -> Result<Self, Failure> {
        let auth = answer.json::<Fields<'_>>()?.object("auth")?;
        let token = secret_text(auth.needed("client_token")?).filter(|token| !token.is_empty());
        let no_text =
            || Failure::NotVault("'auth.client_token' in its answer is no text, or an empty one".to_owned());
        let token = token.ok_or_else(no_text)?;
        // As in KES, a token without a lease or with a negative one lasts for ever, and one without `renewable` is not
        // renewed.
        let lease: Option<i64> = auth.optional("lease_duration")?;
        let seconds = lease.map_or(0, |seconds| seconds.max(0).unsigned_abs());
        let renewable = auth.optional("renewable")?.unwrap_or(false);
        Ok(Self { token, terms: Terms { seconds, renewable } })
    }
}

impl Terms {
    /// Reads the answer to a lookup of a token.
    pub fn of_known_token(answer: &Answer) -> Result<Self, Failure> {
        let known = answer.json::<Fields<'_>>()?.object("data")?;
        let missing = || Failure::NotVault("the field 'ttl' is missing in its answer".to_owned());
        let seconds: i64 = known.optional("ttl")?.ok_or_else(missing)?;
        let renewable = known.optional("renewable")?.unwrap_or(false);
        Ok(Self { seconds: seconds.max(0).unsigned_abs(), renewable })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str) -> Answer {
        Answer { code: 200, body: Zeroizing::new(body.as_bytes().to_vec()) }
    }

    /// Returns the terms of the token `t`.
    fn granted(body: &str) -> Result<Terms, String> {
        let grant = Grant::of(&answer(body)).map_err(|failure| failure.to_string())?;
        assert_eq!(*grant.token, "t", "{body}");
        Ok(grant.terms)
    }

    fn terms(seconds: u64, renewable: bool) -> Terms {
        Terms { seconds, renewable }
    }

    #[test]
    fn of_a_login_only_the_token_is_needed() {
        for (body, expected) in [
            (r#"{"auth":{"client_token":"t"}}"#, terms(0, false)),
            (
                r#"{"auth":{"client_token":"t","lease_duration":null,"policies":null,"renewable":null}}"#,
                terms(0, false),
            ),
            (
                r#"{"request_id":"x","auth":{"lease_duration":60,"client_token":"t","renewable":true}}"#,
                terms(60, true),
            ),
        ] {
            assert_eq!(granted(body), Ok(expected), "{body}");
        }
    }

    /// Beside each body stands what KES 0.24 reads.
    #[test]
    fn a_login_is_read_as_kes_reads_it() {
        for (body, expected) in [
            (r#"{"auth":{"client_token":"t","lease_duration":-1,"renewable":true}}"#, Some(terms(0, true))),
            (r#"{"Auth":{"Client_Token":"t","LEASE_DURATION":60,"Renewable":true}}"#, Some(terms(60, true))),
            (r#"{"auth":{"client_token":"u","client_token":"t","lease_duration":7}}"#, Some(terms(7, false))),
            (
                r#"{"auth":{"client_token":"t","lease_duration":2147483648000}}"#,
                Some(terms(2_147_483_648_000, false)),
            ),
            (r#"{"auth":{"client_token":"t","lease_duration":60.0}}"#, None),
            (r#"{"auth":{"client_token":"t","lease_duration":99999999999999999999}}"#, None),
            (r#"{"auth":["t",60,true]}"#, None),
            (r#"[["t"]]"#, None),
        ] {
            let told = granted(body);
            assert_eq!(told.clone().ok(), expected, "{body}: {told:?}");
        }
    }

    #[test]
    fn what_is_known_of_a_token_is_read_like_a_login() {
        let known = |body: &str| Terms::of_known_token(&answer(body)).map_err(|failure| failure.to_string());
        assert_eq!(known(r#"{"Data":{"TTL":5,"renewable":true}}"#), Ok(terms(5, true)));
        assert_eq!(known(r#"{"data":{"ttl":-1}}"#), Ok(terms(0, false)));
        for body in [r#"{"data":{}}"#, r#"{"data":{"ttl":null}}"#] {
            assert!(known(body).unwrap_err().contains("'ttl' is missing"), "{body}");
        }
    }

    #[test]
    fn a_login_that_cannot_be_read_is_told_with_its_field_and_no_value() {
        for (body, field) in [
            (r#"{"auth":{"lease_duration":1}}"#, "'client_token' is missing"),
            (r#"{"data":{}}"#, "'auth' is missing"),
            (r#"{"auth":null}"#, "'auth' in its answer has another type"),
            (
                r#"{"auth":{"client_token":"s.secret","lease_duration":"s.other"}}"#,
                "'lease_duration' in its answer has another type",
            ),
            (
                r#"{"auth":{"client_token":"s.secret","renewable":"s.other"}}"#,
                "'renewable' in its answer has another type",
            ),
            (
                "{\"auth\":{\n\"client_token\":\"s.secret\",\n\"lease_duration\":1.5}}",
                "'lease_duration' in its answer has another",
            ),
            ("[]", "it is no JSON object"),
            ("7", "it is no JSON object"),
            (r#""s.secret""#, "it is no JSON object"),
            ("", "it is no JSON"),
            ("<html>s.secret</html>", "it is no JSON"),
            (r#"{"auth":{"client_token":7}}"#, "'auth.client_token'"),
            (r#"{"auth":{"client_token":""}}"#, "'auth.client_token'"),
            (r#"{"auth":{"client_token":"s.secret"#, "it is no JSON"),
        ] {
            let told = granted(body).unwrap_err();
            assert!(told.contains(field), "{field} in {told}");
            assert!(!told.contains("s.") && !told.contains("struct"), "{told}");
        }
    }
}
