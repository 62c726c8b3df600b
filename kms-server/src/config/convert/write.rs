//! Writes a tree as TOML, with comments.

use std::fmt::Write as _;

use toml_edit::Key;

use super::super::former::ROLLBACK;
use super::super::node::{KeyPath, Node, Table, Value};
use super::super::schema::TOP_LEVEL;
use super::comments::Comments;

/// A list is written in one line up to this length.
const MAX_LINE: usize = 100;

/// Returns the document.
pub fn document(tree: &Node, head: &[String], comments: &Comments) -> String {
    let mut writer = Writer { text: String::new(), comments };
    writer.comment(head);
    if let Some(table) = tree.table() {
        writer.entries(table, &mut KeyPath::new());
    }
    writer.text
}

struct Writer<'a> {
    text: String,
    comments: &'a Comments,
}

impl Writer<'_> {
    fn comment(&mut self, lines: &[String]) {
        for line in lines {
            // A control character, such as a line end in the name of a file, would end the comment.
            let line: String = line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
            let _ = writeln!(self.text, "# {}", line.trim_end());
        }
    }

    /// Writes the values of a table, and then the tables in it.
    fn entries(&mut self, table: &Table, path: &mut KeyPath) {
        let entries = in_order(table, path.is_empty());
        for (name, node) in entries.iter().filter(|(_, node)| !is_section(node)) {
            path.push((*name).clone());
            if path.len() == 1 && !self.text.is_empty() {
                self.text.push('\n');
            }
            self.comment(self.comments.above(path));
            let value = inline(node);
            let (key, len) = (key(name), value.len());
            match &node.value {
                Value::List(elements) if len > MAX_LINE || elements.len() > 3 => {
                    let _ = writeln!(self.text, "{key} = [");
                    for element in elements {
                        let _ = writeln!(self.text, "    {},", inline(element));
                    }
                    self.text.push_str("]\n");
                }
                _ => drop(writeln!(self.text, "{key} = {value}")),
            }
            path.pop();
        }
        for (name, node) in entries.iter().filter(|(_, node)| is_section(node)) {
            path.push((*name).clone());
            match &node.value {
                Value::Table(below) => {
                    // A table that only holds others needs no line of its own.
                    if below.is_empty() || below.values().any(|node| !is_section(node)) {
                        self.section("[", "]", path);
                    } else if !self.comments.above(path).is_empty() {
                        self.text.push('\n');
                        self.comment(self.comments.above(path));
                    }
                    self.entries(below, path);
                }
                Value::List(elements) => {
                    for (index, element) in elements.iter().enumerate() {
                        if index == 0 {
                            self.section("[[", "]]", path);
                        } else {
                            let _ = writeln!(self.text, "\n[[{}]]", joined(path));
                        }
                        if let Some(below) = element.table() {
                            self.element(below, path);
                        }
                    }
                }
                _ => {}
            }
            path.pop();
        }
    }

    /// Writes a table of a list. Comments are about the list as a whole, and none is about a part of an element.
    fn element(&mut self, table: &Table, path: &mut KeyPath) {
        let none = Comments::default();
        let mut writer = Writer { text: String::new(), comments: &none };
        writer.entries(table, path);
        self.text.push_str(&writer.text);
    }

    fn section(&mut self, open: &str, close: &str, path: &[String]) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        self.comment(self.comments.above(path));
        let _ = writeln!(self.text, "{open}{}{close}", joined(path));
    }
}

/// Returns the entries: at the top in the order of the schema, elsewhere in that of the file.
fn in_order(table: &Table, is_top: bool) -> Vec<(&String, &Node)> {
    let mut entries: Vec<_> = table.iter().collect();
    let place = |name: &String, node: &Node| match TOP_LEVEL.iter().position(|known| known == name) {
        Some(_) if is_top && name == ROLLBACK => 0,
        Some(at) if is_top => 1 + at,
        _ => node.place.line().unwrap_or_default(),
    };
    entries.sort_by_key(|(name, node)| place(name, node));
    entries
}

/// Returns whether a value has a section of its own.
fn is_section(node: &Node) -> bool {
    match &node.value {
        Value::Table(_) => true,
        Value::List(elements) => !elements.is_empty() && elements.iter().all(|node| node.table().is_some()),
        _ => false,
    }
}

fn inline(node: &Node) -> String {
    match &node.value {
        Value::Text(text) => toml_edit::Value::from(text.as_str()).to_string(),
        Value::Boolean(boolean) => boolean.to_string(),
        Value::Integer(number) => number.to_string(),
        Value::Float(number) => toml_edit::Value::from(*number).to_string(),
        // No setting is a date, so no tree with one comes here.
        Value::Date(_) => "\"\"".to_owned(),
        Value::List(elements) => {
            format!("[{}]", elements.iter().map(inline).collect::<Vec<_>>().join(", "))
        }
        Value::Table(table) => {
            let entries = table.iter().map(|(name, node)| format!("{} = {}", key(name), inline(node)));
            format!("{{ {} }}", entries.collect::<Vec<_>>().join(", "))
        }
    }
}

fn key(name: &str) -> String {
    Key::new(name).to_string()
}

fn joined(path: &[String]) -> String {
    path.iter().map(|name| key(name)).collect::<Vec<_>>().join(".")
}
