//! Keys, messages and ciphertexts that users pass as arguments or on stdin.

use std::io::{self, BufRead as _, Read as _};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::cli::failure::Failure;
use crate::cli::output::{Output, note};

/// Returns the bytes of a message. If the argument is `-` the message is on stdin.
pub fn message(argument: String) -> Result<Zeroizing<Vec<u8>>, Failure> {
    if argument == "-" { stdin_bytes() } else { Ok(argument.into_bytes().into()) }
}

/// Returns a text in base64. If the argument is `-` the text is on stdin.
pub fn base64_text(argument: &str) -> Result<Zeroizing<String>, Failure> {
    if argument != "-" {
        return Ok(Zeroizing::new(argument.to_owned()));
    }
    let bytes = stdin_bytes()?;
    let text = std::str::from_utf8(&bytes).map_err(|_| Failure::new("stdin: expected base64"))?;
    Ok(Zeroizing::new(text.trim().to_owned()))
}

/// Fails if a text is not base64.
pub fn check_base64(text: &str, what: &str) -> Result<(), Failure> {
    match STANDARD.decode(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(Failure::new(format!("invalid {what}: expected standard base64"))),
    }
}

/// Decodes the bytes of a key.
pub fn decode_key(text: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let invalid = || Failure::new("invalid key: expected 32 bytes in standard base64");
    let bytes = STANDARD.decode(text).map(Zeroizing::new).map_err(|_| invalid())?;
    if bytes.len() == 32 { Ok(bytes) } else { Err(invalid()) }
}

/// Prints a warning, and fails unless the user types `word`.
pub fn confirm(word: &str, what: &str) -> Result<(), Failure> {
    note(what);
    note(format_args!("Type {word} to go on:"));
    let mut line = String::new();
    Output::flush()?;
    let read = io::stdin().lock().read_line(&mut line);
    read.map_err(|error| Failure::new(format!("read stdin: {error}")))?;
    if line.trim() == word { Ok(()) } else { Err(Failure::new("nothing was changed")) }
}

fn stdin_bytes() -> Result<Zeroizing<Vec<u8>>, Failure> {
    let mut bytes = Zeroizing::new(Vec::new());
    io::stdin()
        .lock()
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("cannot read stdin: {error}")))?;
    Ok(bytes)
}
