//! Passwords, asked for at the terminal, which shows nothing of them.

use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;

/// Asks for the password of the private key in a file.
pub fn ask(key: &Path) -> Result<Zeroizing<String>, Failure> {
    prompt("Enter password for private key:", key)
}

/// Asks for a password that a private key is to be encrypted with, twice.
pub fn ask_for_new(key: &Path) -> Result<Zeroizing<String>, Failure> {
    let password = prompt("Enter password for private key:", key)?;
    if password.is_empty() {
        return Err(Failure::new("the password is empty"));
    }
    if *password != *prompt("Confirm password for private key:", key)? {
        return Err(Failure::new("passwords don't match"));
    }
    Ok(password)
}

fn prompt(text: &str, key: &Path) -> Result<Zeroizing<String>, Failure> {
    let no_terminal = |error| {
        Failure::new(format!(
            "{}: there is no terminal to ask for the password of the private key: {error}",
            key.display()
        ))
    };
    rpassword::prompt_password(text).map(Zeroizing::new).map_err(no_terminal)
}
