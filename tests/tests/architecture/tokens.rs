//! Rust source as tokens with their lines. Comments are left out.

/// A token: an identifier, a number, `::`, a literal in quotes, or one other character.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Token<'a> {
    pub text: &'a str,
    pub line: usize,
}

impl Token<'_> {
    /// Returns whether this is an identifier or a keyword.
    pub fn is_word(&self) -> bool {
        self.text.starts_with(is_start)
    }
}

/// Splits source into tokens.
pub fn tokens(source: &str) -> Vec<Token<'_>> {
    let mut reader = Reader { rest: source, line: 1 };
    std::iter::from_fn(|| reader.next()).collect()
}

struct Reader<'a> {
    rest: &'a str,
    line: usize,
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let first = self.rest.chars().next()?;
            if first.is_whitespace() {
                self.take(first.len_utf8());
            } else if self.rest.starts_with("//") {
                self.take(self.rest.find('\n').unwrap_or(self.rest.len()));
            } else if self.rest.starts_with("/*") {
                self.take(block_comment(self.rest));
            } else {
                let line = self.line;
                let len = token(self.rest);
                let text = self.take(len);
                // A raw identifier is the same name.
                let text = text.strip_prefix("r#").filter(|name| name.starts_with(is_start)).unwrap_or(text);
                return Some(Token { text, line });
            }
        }
    }

    fn take(&mut self, len: usize) -> &'a str {
        let (taken, rest) = self.rest.split_at(len);
        self.line += taken.matches('\n').count();
        self.rest = rest;
        taken
    }
}

/// Returns the length of the token that begins a text.
fn token(text: &str) -> usize {
    for prefix in ["", "b", "c"] {
        let Some(rest) = text.strip_prefix(prefix) else { continue };
        if rest.starts_with('"') {
            return prefix.len() + quoted(rest, '"');
        }
        if let Some(hashes) =
            rest.strip_prefix('r').map(|rest| rest.len() - rest.trim_start_matches('#').len())
            && rest[1 + hashes..].starts_with('"')
        {
            let end = format!("\"{}", "#".repeat(hashes));
            let start = prefix.len() + 1 + hashes + 1;
            return text[start..].find(&end).map_or(text.len(), |found| start + found + end.len());
        }
    }
    if text.starts_with("b'") {
        return 1 + quoted(&text[1..], '\'');
    }
    if let Some(rest) = text.strip_prefix('\'') {
        let mut chars = rest.chars();
        let first = chars.next();
        return match (first, chars.next()) {
            (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text, '\''),
            // A lifetime.
            _ => 1 + word(rest),
        };
    }
    if text.starts_with("::") {
        return 2;
    }
    if text.starts_with("r#") && text[2..].starts_with(is_start) {
        return 2 + word(&text[2..]);
    }
    match word(text) {
        0 => text.chars().next().map_or(0, char::len_utf8),
        len => len,
    }
}

/// Returns how many bytes at the beginning belong to a word or a number.
fn word(text: &str) -> usize {
    text.find(|c: char| !is_start(c) && !c.is_numeric()).unwrap_or(text.len())
}

fn is_start(c: char) -> bool {
    c == '_' || c.is_alphabetic()
}

/// Returns the length of a literal with escapes, with both of its quotes.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    text.len()
}

/// Returns the length of a block comment. Block comments nest.
fn block_comment(text: &str) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < text.len() {
        let rest = &text[at..];
        if rest.starts_with("/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if rest.starts_with("*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                break;
            }
        } else {
            at += rest.chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(source: &str) -> Vec<&str> {
        tokens(source).into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn comments_are_left_out_and_literals_are_one_token() {
        assert_eq!(texts("a /* b /* c */ d */ e // f\ng"), ["a", "e", "g"]);
        assert_eq!(texts(r#"x("use crate::y; \" {", b'\'', '{')"#).len(), 8);
        assert_eq!(
            texts(r##"r#"a " } "# + br"\" + c"z""##),
            [r##"r#"a " } "#"##, "+", r#"br"\""#, "+", "c\"z\""]
        );
        assert_eq!(texts("'a: 'x' '\\u{1F511}' '🔑'"), ["'a", ":", "'x'", "'\\u{1F511}'", "'🔑'"]);
    }

    #[test]
    fn paths_numbers_and_raw_identifiers() {
        assert_eq!(
            texts("a::b 1.0..2 r#type x:y"),
            ["a", "::", "b", "1", ".", "0", ".", ".", "2", "type", "x", ":", "y"]
        );
    }

    #[test]
    fn lines_are_counted_through_literals_and_comments() {
        let lines: Vec<_> = tokens("a\n\"\n\n\" b /*\n*/ c").into_iter().map(|token| token.line).collect();
        assert_eq!(lines, [1, 2, 4, 5]);
    }
}
