//! Messages about a text in PEM that cannot be read.
//!
//! No message quotes the text: where a private key was pasted into one line, the key itself is the wrong line.

use rustls_pki_types::pem;

use crate::file::describe_io_error;

/// Describes in a few words why a PEM file that should hold a `what` cannot be used.
pub fn describe_pem_error(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => describe_io_error(error),
        pem::Error::NoItemsFound => {
            format!("it holds no {what} that can be used, expected PEM without a password")
        }
        error => format!("it is no PEM file of a {what}: {}", wrong_in_pem(error)),
    }
}

/// Describes an error of PEM without a quote of the text.
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
