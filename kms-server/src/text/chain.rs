//! An error and its sources.

use std::error::Error;

/// Returns the text of an error, and those of its sources.
pub fn links(error: &(dyn Error + 'static)) -> Vec<String> {
    let mut links = vec![error.to_string()];
    let mut next = error.source();
    while let Some(source) = next {
        links.push(source.to_string());
        next = source.source();
    }
    links
}
