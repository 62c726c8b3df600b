//! Checks that clients accept the server's certificate.

use kms_core::store::Finding;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use jiff::{SignedDuration, Timestamp};
use kms_trust::Trusted;

use crate::credentials::certificate::{self, Facts};
use crate::settings::TlsSettings;

const SUBJECT: &str = "certificate";

/// The remaining validity below which the check warns.
const ENDS_SOON: SignedDuration = SignedDuration::from_hours(30 * 24);

/// The way to a certificate that clients accept.
const REMEDY: &str = "make another with \
    'kms identity new --key FILE --cert FILE --dns NAME --ip ADDRESS', or have your CA issue one";

/// Checks the files in the section `tls`.
pub fn check(tls: &TlsSettings) -> Vec<Finding> {
    let mut findings = match certificate::read_pair(&tls.cert, &tls.key, tls.password()) {
        Err(message) => vec![Finding::problem(SUBJECT, message)],
        Ok(pair) => {
            let mut findings = Vec::new();
            if pair.matches() == Ok(false) {
                let (key, cert) = (tls.key.display(), tls.cert.display());
                findings.push(Finding::problem(SUBJECT, format!("{key} is not the private key of {cert}")));
            }
            match Facts::of(&pair.chain[0]) {
                Err(error) => {
                    findings.push(Finding::problem(SUBJECT, format!("{}: {error}", tls.cert.display())));
                }
                Ok(facts) => findings.extend(check_facts(&facts, &tls.cert)),
            }
            findings
        }
    };
    findings.extend(check_private(&tls.key));
    findings.extend(
        tls.ca
            .as_deref()
            .and_then(|ca| Trusted::of(ca).err())
            .map(|error| Finding::problem(SUBJECT, format!("tls.ca: {error}"))),
    );
    findings
}

fn check_facts(facts: &Facts, cert: &Path) -> Vec<Finding> {
    let (file, now) = (cert.display(), Timestamp::now());
    let mut findings = Vec::new();
    if facts.is_ca {
        let message =
            format!("{file}: it is a CA (CA:TRUE), MinIO and other clients may refuse it: {REMEDY}");
        findings.push(Finding::problem(SUBJECT, message));
    }
    if facts.names_nothing() {
        let message = format!("{file}: it has no subject alternative name, MinIO will refuse it: {REMEDY}");
        findings.push(Finding::problem(SUBJECT, message));
    }
    if facts.not_after < now {
        findings.push(Finding::problem(SUBJECT, format!("{file}: it expired at {}", facts.not_after)));
    } else if facts.not_before > now {
        findings
            .push(Finding::problem(SUBJECT, format!("{file}: it is not valid before {}", facts.not_before)));
    } else if facts.not_after.duration_since(now) < ENDS_SOON {
        findings.push(Finding::warning(SUBJECT, format!("{file}: it expires soon, at {}", facts.not_after)));
    }
    if findings.is_empty() {
        let addresses = facts.ip_addresses.iter().map(ToString::to_string);
        let names: Vec<_> = facts.dns_names.iter().cloned().chain(addresses).collect();
        let message = format!("{file}: for {}, until {}", names.join(", "), facts.not_after);
        findings.push(Finding::good(SUBJECT, message));
    }
    findings
}

/// Warns if every user of this machine can read the private key.
fn check_private(key: &Path) -> Option<Finding> {
    let mode = std::fs::metadata(key).ok()?.permissions().mode() & 0o777;
    (mode & 0o007 != 0).then(|| {
        let message = format!(
            "{}: everybody on this machine may read it (mode {mode:03o}), expected 600",
            key.display()
        );
        Finding::warning(SUBJECT, message)
    })
}
