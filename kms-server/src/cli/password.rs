//! Passwords and passphrases, which users type at the terminal unseen.

use std::path::Path;

use age::secrecy::SecretString;
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

/// Prompts for the passphrase that opens an archive.
pub fn ask_passphrase(archive: &Path) -> Result<SecretString, Failure> {
    let passphrase = ask_at_terminal(&format!("Enter passphrase for {}:", archive.display()), archive)?;
    Ok(SecretString::from(passphrase.as_str()))
}

/// Prompts twice for a new passphrase, which will open an archive.
pub fn ask_for_new_passphrase(archive: &Path) -> Result<SecretString, Failure> {
    let passphrase = ask_at_terminal(&format!("Enter passphrase for {}:", archive.display()), archive)?;
    if passphrase.is_empty() {
        return Err(Failure::new("the passphrase is empty"));
    }
    if passphrase != ask_at_terminal("Confirm passphrase:", archive)? {
        return Err(Failure::new("passphrases don't match"));
    }
    Ok(SecretString::from(passphrase.as_str()))
}

/// Prompts for the passphrase of a file.
fn ask_at_terminal(text: &str, file: &Path) -> Result<Zeroizing<String>, Failure> {
    rpassword::prompt_password(text).map(Zeroizing::new).map_err(|error| {
        Failure::new(format!("{}: there is no terminal to ask for the passphrase: {error}", file.display()))
    })
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
