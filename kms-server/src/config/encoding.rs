//! The encodings of a config file: UTF-8, and UTF-16 with a byte order mark. KES reads both.

use super::problem::Problem;

const NO_UTF_16: &str = "it is no text in UTF-16";
const NO_UTF_8: &str = "it is no text in UTF-8, expected UTF-8, or UTF-16 with a byte order mark";

/// Decodes the content of `file`. An error names the line of the first invalid character.
pub fn decode(content: Vec<u8>, file: &str) -> Result<String, Problem> {
    match content.as_slice() {
        [0xff, 0xfe, text @ ..] => decode_16(text, u16::from_le_bytes, file),
        [0xfe, 0xff, text @ ..] => decode_16(text, u16::from_be_bytes, file),
        _ => String::from_utf8(content).map_err(|error| {
            let (good, _) = error.as_bytes().split_at(error.utf8_error().valid_up_to());
            problem(good.split(|byte| *byte == b'\n').count(), file, NO_UTF_8)
        }),
    }
}

fn decode_16(content: &[u8], unit: fn([u8; 2]) -> u16, file: &str) -> Result<String, Problem> {
    let (pairs, rest) = content.as_chunks::<2>();
    let mut text = String::with_capacity(content.len());
    let line = |text: &str| text.split('\n').count();
    for character in char::decode_utf16(pairs.iter().map(|pair| unit(*pair))) {
        text.push(character.map_err(|_| problem(line(&text), file, NO_UTF_16))?);
    }
    if rest.is_empty() { Ok(text) } else { Err(problem(line(&text), file, NO_UTF_16)) }
}

fn problem(line: usize, file: &str, message: &str) -> Problem {
    Problem::new(format!("{file}:{line}"), "", message)
}
