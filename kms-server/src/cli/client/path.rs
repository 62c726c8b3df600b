//! Paths of requests.

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

/// The characters that a path may hold as they are, beside letters and digits.
const UNRESERVED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'*');

/// Returns the path of a route that is followed by a name.
pub fn path_of(route: &str, name: &str) -> String {
    format!("/v1/{route}/{}", utf8_percent_encode(name, UNRESERVED))
}
