//! Texts of other systems, for errors.

use std::error::Error as StdError;

/// The most characters of another system's text that an error quotes.
const MAX_QUOTE: usize = 300;

/// Returns a received text as one short line, and marks where it was cut.
pub fn quote(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut quoted: String = line.chars().filter(|c| !c.is_control()).take(MAX_QUOTE + 1).collect();
    if quoted.chars().count() > MAX_QUOTE {
        quoted.pop();
        quoted.push('…');
    }
    quoted
}

/// Joins the texts of an error and its sources, each once.
pub fn texts(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let more = source.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_short_and_in_one_line() {
        assert_eq!(
            quote("1 error occurred:\n\t* permission denied\n\n"),
            "1 error occurred: * permission denied"
        );
        let long = quote(&"x".repeat(10_000));
        assert!(long.ends_with('…') && long.chars().count() == MAX_QUOTE + 1);
        assert_eq!(quote(&"x".repeat(MAX_QUOTE)), "x".repeat(MAX_QUOTE));
    }

    #[test]
    fn each_text_of_a_chain_stands_once() {
        let inner = std::io::Error::other("no route");
        let outer = std::io::Error::other(inner);
        assert_eq!(texts(&outer), "no route");
    }
}
