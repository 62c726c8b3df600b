//! The reader of TOML.

use std::ops::Range;

use figment::Provider as _;
use figment::providers::{Format as _, Toml};
use figment::value::Dict;
use toml_edit::{ImDocument, Item, Key, TableLike, Value};

use super::places::{KeyPath, Lines};
use super::problem::Problem;

/// Reads a file's content into a tree of values, and the line of each key.
pub fn read(text: &str, file: &str) -> Result<(Dict, Lines), Problem> {
    let ends = LineEnds::of(text);
    let document = ImDocument::parse(text).map_err(|error| {
        let place =
            error.span().map_or_else(|| file.to_owned(), |span| format!("{file}:{}", ends.line(&span)));
        Problem::new(place, "", format!("invalid TOML: {}", error.message()))
    })?;
    let mut lines = Lines::new();
    note_table(&ends, document.as_table(), &mut KeyPath::new(), &mut lines);
    let tree = Toml::string(text)
        .data()
        .map_err(|error| Problem::new(file, "", format!("invalid TOML: {error}")))?;
    Ok((tree.into_values().next().unwrap_or_default(), lines))
}

fn note_table(ends: &LineEnds, table: &dyn TableLike, path: &mut KeyPath, lines: &mut Lines) {
    for (name, item) in table.iter() {
        path.push(name.to_owned());
        let key_span = table.get_key_value(name).and_then(|(key, _)| Key::span(key));
        note(ends, key_span.or_else(|| item.span()), path, lines);
        note_item(ends, item, path, lines);
        path.pop();
    }
}

fn note_item(ends: &LineEnds, item: &Item, path: &mut KeyPath, lines: &mut Lines) {
    match item {
        Item::Table(table) => note_table(ends, table, path, lines),
        Item::Value(Value::InlineTable(table)) => note_table(ends, table, path, lines),
        Item::Value(Value::Array(array)) => {
            for (index, value) in array.iter().enumerate() {
                path.push(index.to_string());
                note(ends, value.span(), path, lines);
                if let Value::InlineTable(table) = value {
                    note_table(ends, table, path, lines);
                }
                path.pop();
            }
        }
        Item::ArrayOfTables(tables) => {
            for (index, table) in tables.iter().enumerate() {
                path.push(index.to_string());
                note(ends, table.span(), path, lines);
                note_table(ends, table, path, lines);
                path.pop();
            }
        }
        Item::Value(_) | Item::None => {}
    }
}

fn note(ends: &LineEnds, span: Option<Range<usize>>, path: &KeyPath, lines: &mut Lines) {
    if let Some(span) = span {
        lines.insert(path.clone(), ends.line(&span));
    }
}

/// Where the lines of a text end, so that the line of a value is found without counting from the beginning.
struct LineEnds(Vec<usize>);

impl LineEnds {
    fn of(text: &str) -> Self {
        let bytes = text.bytes().enumerate();
        Self(bytes.filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset).collect())
    }

    /// Counts lines from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        self.0.partition_point(|end| *end < span.start) + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_known_of_keys_and_elements() {
        let text = "\na = 1\n\n[b]\nc = [\n  'x',\n  { d = 1 },\n]\n[[e]]\nf = 1\n[[e]]\nf = 2";
        let (_, lines) = read(text, "f").unwrap();
        for (path, line) in
            [("a", 2), ("b", 4), ("b.c", 5), ("b.c.0", 6), ("b.c.1", 7), ("b.c.1.d", 7), ("e.1.f", 12)]
        {
            assert_eq!(lines[&super::super::places::path(path)], line, "{path}");
        }
        assert!(read("a = 1\n\nb = ", "f").unwrap_err().to_string().starts_with("f:3: invalid TOML"));
    }
}
