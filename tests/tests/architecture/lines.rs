//! The length of files.

use super::sources::Texts;

/// Longer files cannot be kept in mind.
const MAX_LINES: usize = 500;

/// Returns a line for each file that is too long.
pub fn too_long(texts: &Texts) -> Vec<String> {
    let lengths = texts.iter().map(|(file, text)| (file, text.lines().count()));
    let long = lengths.filter(|(_, lines)| *lines > MAX_LINES);
    long.map(|(file, lines)| format!("{file}: {lines} lines, and a file has at most {MAX_LINES}")).collect()
}

#[test]
fn a_file_of_501_lines_is_told() {
    let text = |lines: usize| "x\n".repeat(lines);
    let texts = Texts::from([("a.rs".to_owned(), text(500)), ("b.rs".to_owned(), text(501))]);
    assert_eq!(too_long(&texts), ["b.rs: 501 lines, and a file has at most 500"]);
}
