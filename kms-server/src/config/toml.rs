//! The reader of TOML.

use std::ops::Range;

use toml_edit::{ImDocument, Item, Key, TableLike};

use super::node::{Date, Node, Place, Table, Value};
use super::problem::Problem;

/// Reads the content of a file.
pub fn read(text: &str, file: &str) -> Result<Node, Problem> {
    let lines = LineEnds::of(text);
    let document = ImDocument::parse(text).map_err(|error| {
        let place =
            error.span().map_or_else(|| file.to_owned(), |span| format!("{file}:{}", lines.line(&span)));
        Problem::new(place, "", format!("invalid TOML: {}", error.message()))
    })?;
    Ok(Node::implied(lines.table(document.as_table())))
}

/// The offsets at which the lines of a text end, by which a line is found without counting from the beginning.
struct LineEnds(Vec<usize>);

impl LineEnds {
    fn of(text: &str) -> Self {
        let bytes = text.bytes().enumerate();
        Self(bytes.filter(|(_, byte)| *byte == b'\n').map(|(offset, _)| offset).collect())
    }

    /// Returns the line in which a span begins, counted from 1.
    fn line(&self, span: &Range<usize>) -> usize {
        self.0.partition_point(|end| *end < span.start) + 1
    }

    fn node(&self, span: Option<Range<usize>>, value: Value) -> Node {
        Node { value, place: span.map_or(Place::Implied, |span| Place::Line(self.line(&span))) }
    }

    fn table(&self, table: &dyn TableLike) -> Table {
        let entry = |(name, item): (&str, &Item)| {
            let key_span = table.get_key_value(name).and_then(|(key, _)| Key::span(key));
            Some((name.to_owned(), self.node(key_span.or_else(|| item.span()), self.item(item)?)))
        };
        table.iter().filter_map(entry).collect()
    }

    fn item(&self, item: &Item) -> Option<Value> {
        Some(match item {
            Item::None => return None,
            Item::Value(value) => self.value(value),
            Item::Table(table) => Value::Table(self.table(table)),
            Item::ArrayOfTables(tables) => {
                let element =
                    |table: &toml_edit::Table| self.node(table.span(), Value::Table(self.table(table)));
                Value::List(tables.iter().map(element).collect())
            }
        })
    }

    fn value(&self, value: &toml_edit::Value) -> Value {
        match value {
            toml_edit::Value::String(text) => Value::Text(text.value().clone()),
            toml_edit::Value::Boolean(boolean) => Value::Boolean(*boolean.value()),
            toml_edit::Value::Integer(number) => Value::Integer(*number.value()),
            toml_edit::Value::Float(number) => Value::Float(*number.value()),
            toml_edit::Value::Datetime(_) => Value::Date(Date::default()),
            toml_edit::Value::InlineTable(table) => Value::Table(self.table(table)),
            toml_edit::Value::Array(elements) => {
                let element = |value: &toml_edit::Value| self.node(value.span(), self.value(value));
                Value::List(elements.iter().map(element).collect())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Key as _;
    use super::*;

    #[test]
    fn lines_are_known_of_keys_and_elements() {
        let text = "\na = 1\n\n[b]\nc = [\n  'x',\n  { d = 1 },\n]\n[[e]]\nf = 1\n[[e]]\nf = 2";
        let tree = read(text, "f").unwrap();
        for (path, line) in
            [("a", 2), ("b", 4), ("b.c", 5), ("b.c.0", 6), ("b.c.1", 7), ("b.c.1.d", 7), ("e.1.f", 12)]
        {
            assert_eq!(tree.find(&path.path()).unwrap().place, Place::Line(line), "{path}");
        }
        assert!(read("a = 1\n\nb = ", "f").unwrap_err().to_string().starts_with("f:3: invalid TOML"));
    }
}
