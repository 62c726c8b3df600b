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
    let document = ImDocument::parse(text).map_err(|error| {
        let place =
            error.span().map_or_else(|| file.to_owned(), |span| format!("{file}:{}", line(text, &span)));
        Problem::new(place, "", format!("invalid TOML: {}", error.message()))
    })?;
    let mut lines = Lines::new();
    note_table(text, document.as_table(), &mut KeyPath::new(), &mut lines);
    let tree = Toml::string(text)
        .data()
        .map_err(|error| Problem::new(file, "", format!("invalid TOML: {error}")))?;
    Ok((tree.into_values().next().unwrap_or_default(), lines))
}

fn note_table(text: &str, table: &dyn TableLike, path: &mut KeyPath, lines: &mut Lines) {
    for (name, item) in table.iter() {
        path.push(name.to_owned());
        let key_span = table.get_key_value(name).and_then(|(key, _)| Key::span(key));
        note(text, key_span.or_else(|| item.span()), path, lines);
        note_item(text, item, path, lines);
        path.pop();
    }
}

fn note_item(text: &str, item: &Item, path: &mut KeyPath, lines: &mut Lines) {
    match item {
        Item::Table(table) => note_table(text, table, path, lines),
        Item::Value(Value::InlineTable(table)) => note_table(text, table, path, lines),
        Item::Value(Value::Array(array)) => {
            for (index, value) in array.iter().enumerate() {
                path.push(index.to_string());
                note(text, value.span(), path, lines);
                if let Value::InlineTable(table) = value {
                    note_table(text, table, path, lines);
                }
                path.pop();
            }
        }
        Item::ArrayOfTables(tables) => {
            for (index, table) in tables.iter().enumerate() {
                path.push(index.to_string());
                note(text, table.span(), path, lines);
                note_table(text, table, path, lines);
                path.pop();
            }
        }
        Item::Value(_) | Item::None => {}
    }
}

fn note(text: &str, span: Option<Range<usize>>, path: &KeyPath, lines: &mut Lines) {
    if let Some(span) = span {
        lines.insert(path.clone(), line(text, &span));
    }
}

/// Counts lines from 1.
fn line(text: &str, span: &Range<usize>) -> usize {
    text.as_bytes().iter().take(span.start).filter(|byte| **byte == b'\n').count() + 1
}
