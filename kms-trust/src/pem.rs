//! What is wrong with a text in PEM, without a word of it: a private key that stands in one line is the line that is wrong.

use rustls_pki_types::pem;

use crate::file::describe_io_error;

/// Says in a few words what is wrong with a PEM file that should hold a `what`.
pub fn describe_pem_error(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => describe_io_error(error),
        pem::Error::NoItemsFound => {
            format!("it holds no {what} that can be used, expected PEM without a password")
        }
        error => format!("it is no PEM file of a {what}: {}", wrong_in_pem(error)),
    }
}

/// Says what is wrong with a text, and quotes nothing of it.
pub fn wrong_in_pem(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "its '-----END' line is missing",
        pem::Error::IllegalSectionStart { .. } => {
            "its '-----BEGIN' line has to end with '-----', and the base64 to begin on the next line"
        }
        pem::Error::Base64Decode(_) => {
            "what stands between its '-----BEGIN' and '-----END' lines is not base64"
        }
        pem::Error::SectionTooLarge => "it is too large",
        _ => "it cannot be read",
    }
}
