//! Passwords, which users type at the terminal unseen.

use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;

/// Prompts for the password of the private key in the file `key`.
pub fn ask(key: &Path) -> Result<Zeroizing<String>, Failure> {
    prompt("Enter password for private key:", key)
}

/// Prompts twice for a new password, which will encrypt the private key in the file `key`.
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
