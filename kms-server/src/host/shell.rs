//! Quoting for shells, and for files of variables.

use std::path::Path;

/// Quotes a path so that a shell reads it as one word.
pub fn shell_quote(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+,:@%=".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Quotes a path so that a shell and systemd's `EnvironmentFile=` read the same value.
///
/// systemd knows no quotes inside of a value. So these are double quotes around all of it, in which both escape the same
/// four characters.
pub fn variable_quote(path: &Path) -> String {
    let plain = shell_quote(path);
    if !plain.starts_with('\'') {
        return plain;
    }
    let mut quoted = String::from("\"");
    for char in path.display().to_string().chars() {
        if matches!(char, '"' | '\\' | '$' | '`') {
            quoted.push('\\');
        }
        quoted.push(char);
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_one_word_to_a_shell() {
        for (path, shell, variable) in [
            ("/a/b-c_d.crt", "/a/b-c_d.crt", "/a/b-c_d.crt"),
            ("/a b", "'/a b'", "\"/a b\""),
            ("/it's", r"'/it'\''s'", "\"/it's\""),
            (r#"/"$a`\"#, r#"'/"$a`\'"#, r#""/\"\$a\`\\""#),
        ] {
            assert_eq!(shell_quote(Path::new(path)), shell);
            assert_eq!(variable_quote(Path::new(path)), variable);
        }
    }
}
