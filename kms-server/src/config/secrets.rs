//! Which keys hold secrets.

/// Returns whether the value at a path is a secret, by the path and the text.
pub fn is_secret(path: &[String], text: &str) -> bool {
    let parts: Vec<_> = path.iter().map(String::as_str).collect();
    match parts.as_slice() {
        // It is the file of a token if it has a '/'.
        [.., "kubernetes", "jwt"] => !text.contains('/'),
        [.., "postgres", "url"] | [.., "token", "value"] | [.., "credentials", "token"] => true,
        [.., last] => ["password", "secret", "secretkey"].contains(last),
        [] => false,
    }
}
