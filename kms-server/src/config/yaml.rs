//! The reader of YAML.
//!
//! Every scalar is the text that is written, as for Go's reader where it expects a text: `off`, `7373` and an identity that
//! happens to look like a number mean themselves.

use std::collections::BTreeMap;

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::node::{KeyPath, Node, Place, Table, Value, dotted};
use super::problem::{Problem, Warning};
use super::schema::TOP_LEVEL;

/// The maximal number of values that the aliases of a file repeat. Values that are written out do not count.
const MAX_REPEATED: usize = 100_000;

/// The maximal nesting of a file.
const MAX_DEPTH: usize = 64;

/// The key that merges the entries of another mapping into one.
const MERGE: &str = "<<";

/// The key of the format's version. Its value is a text even where it looks like a null.
const VERSION: &str = "version";

/// The content of a file.
#[derive(Debug)]
pub struct Document {
    /// The values. A key without a value is left out.
    pub tree: Node,
    /// The warning of what follows the first document. Only the first one counts, as in KES.
    pub ignored: Option<Warning>,
}

/// Reads the content of a file.
pub fn read(text: &str, file: &str) -> Result<Document, Problem> {
    let place = |line: Option<usize>| line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
    let mut outcome = Reader::read(text);
    if outcome.is_err()
        && let Some(text) = without_tabs_in_flow(text)
    {
        outcome = Reader::read(&text).or(outcome);
    }
    let (tree, next) = outcome.map_err(|Mistake { line, path, message }| {
        Problem::new(place(line), dotted(&path), format!("invalid YAML: {message}"))
    })?;
    let ignored = next.map(|line| {
        let message = "a second document begins here and is passed over with all that follows, as by KES";
        Warning::no_effect(Problem::new(place(Some(line)), "", message))
    });
    Ok(Document { tree, ignored })
}

/// Replaces tabs at the beginning of lines within brackets and braces by spaces; `None` if there are none.
///
/// Such tabs mean nothing in YAML, but the parser takes them for an indentation.
fn without_tabs_in_flow(text: &str) -> Option<String> {
    let mut replaced = String::with_capacity(text.len());
    let (mut depth, mut quote, mut comment) = (0_usize, None, false);
    let (mut at_line_start, mut before, mut found) = (true, ' ', false);
    for c in text.chars() {
        let begins_token = before.is_whitespace() || "[{,:-".contains(before);
        let mut written = c;
        match c {
            '\n' | '\r' => (at_line_start, comment) = (true, false),
            '\t' if at_line_start && depth > 0 && quote.is_none() => {
                written = ' ';
                found = true;
            }
            _ if comment => {}
            // A doubled quote ends the text and begins it again at once.
            _ if quote == Some(c) && before != '\\' => quote = None,
            _ if quote.is_some() => {}
            '"' | '\'' if begins_token => quote = Some(c),
            '#' if before.is_whitespace() => comment = true,
            '[' | '{' if depth > 0 || begins_token => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        at_line_start = matches!(c, '\n' | '\r') || at_line_start && matches!(c, ' ' | '\t');
        before = c;
        replaced.push(written);
    }
    found.then_some(replaced)
}

struct Mistake {
    line: Option<usize>,
    path: KeyPath,
    message: String,
}

struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    /// The values of the anchors; `None` for an anchor without a value.
    anchors: BTreeMap<usize, Option<Node>>,
    repeated: usize,
}

impl<'a> Reader<'a> {
    /// Reads the first document. Returns its tree, and the line where another document begins.
    fn read(text: &'a str) -> Result<(Node, Option<usize>), Mistake> {
        let events = Parser::new_from_str(text);
        let mut reader = Self { events, anchors: BTreeMap::new(), repeated: 0 };
        let tree = reader.document()?;
        Ok((tree, reader.next_document()))
    }

    fn document(&mut self) -> Result<Node, Mistake> {
        let (node, span) = loop {
            let (event, span) = self.next(&[])?;
            match event {
                Event::StreamEnd => return Ok(Node::empty()),
                Event::StreamStart | Event::DocumentStart(..) => {}
                event => break (self.node(event, &span, &mut KeyPath::new())?, span),
            }
        };
        // The document may end in the middle of a line: then the next event is an error.
        self.next(&[])?;
        match node.map(|node| node.value) {
            None => Ok(Node::empty()),
            Some(Value::Table(table)) => Ok(Node::implied(table)),
            Some(_) => Err(mistake(&span, &[], "expected keys with values")),
        }
    }

    /// Returns the line where another document begins, unless it is empty. A document that cannot be read counts.
    fn next_document(&mut self) -> Option<usize> {
        let mut begins = None;
        loop {
            match self.events.next()? {
                Err(error) => return Some(begins.unwrap_or(error.marker().line())),
                Ok((Event::StreamEnd, _)) => return None,
                Ok((Event::DocumentStart(..), span)) => begins = Some(span.start.line()),
                Ok((Event::DocumentEnd, _)) => {}
                Ok((Event::Scalar(..), span)) if is_empty(&span) => {}
                Ok((_, span)) => return Some(begins.unwrap_or(span.start.line())),
            }
        }
    }

    /// Reads the next event. An error names `path`.
    fn next(&mut self, path: &[String]) -> Result<(Event<'a>, Span), Mistake> {
        match self.events.next() {
            Some(next) => next.map_err(|error| {
                let within =
                    if path.is_empty() { String::new() } else { format!(", within '{}'", dotted(path)) };
                let message = format!("{}{within}", error.info());
                Mistake { line: Some(error.marker().line()), path: KeyPath::new(), message }
            }),
            None => {
                Err(Mistake { line: None, path: KeyPath::new(), message: "it ends in the middle".to_owned() })
            }
        }
    }

    /// Reads the value that begins with `event`; `None` for an empty one.
    fn node(&mut self, event: Event<'a>, span: &Span, path: &mut KeyPath) -> Result<Option<Node>, Mistake> {
        if path.len() > MAX_DEPTH {
            return Err(mistake(span, path, "deeper values than any configuration has"));
        }
        let (value, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                if style != ScalarStyle::Plain && is_switch(path) && is_boolean(&text) {
                    let message = format!("a text, expected {text} without quotes, or on or off");
                    return Err(mistake(span, path, &message));
                }
                let is_null = matches!(&*text, "~" | "null" | "Null" | "NULL") && *path != [VERSION];
                let absent = style == ScalarStyle::Plain && (is_empty(span) || is_null);
                ((!absent).then(|| Value::Text(text.into_owned())), anchor)
            }
            Event::SequenceStart(_, anchor, _) => (Some(Value::List(self.sequence(path)?)), anchor),
            Event::MappingStart(_, anchor, _) => (Some(Value::Table(self.mapping(path)?)), anchor),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor);
                let node =
                    node.ok_or_else(|| mistake(span, path, "a reference to the value that holds it"))?;
                self.repeated += node.as_ref().map_or(1, Node::count);
                if self.repeated > MAX_REPEATED {
                    return Err(mistake(span, path, "more values by reference than any configuration has"));
                }
                return Ok(node.clone());
            }
            _ => return Err(mistake(span, path, "expected a value")),
        };
        let node = value.map(|value| Node::at_line(span.start.line(), value));
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, path: &mut KeyPath) -> Result<Vec<Node>, Mistake> {
        let mut elements = Vec::new();
        loop {
            let (event, span) = self.next(path)?;
            if matches!(event, Event::SequenceEnd) {
                return Ok(elements);
            }
            path.push(elements.len().to_string());
            elements.extend(self.node(event, &span, path)?);
            path.pop();
        }
    }

    fn mapping(&mut self, path: &mut KeyPath) -> Result<Table, Mistake> {
        let (mut table, mut merged, mut seen) = (Table::new(), Vec::new(), BTreeMap::new());
        loop {
            let (event, key_span) = self.next(path)?;
            let (key, is_merge) = match event {
                Event::MappingEnd => break,
                Event::Scalar(..) if is_empty(&key_span) => return Err(mistake(&key_span, path, NO_TEXT)),
                Event::Scalar(key, style, ..) => {
                    let is_merge = key == MERGE && style == ScalarStyle::Plain;
                    (key.into_owned(), is_merge)
                }
                Event::Alias(anchor) => {
                    let node = self.anchors.get(&anchor).and_then(Option::as_ref);
                    let key = node.and_then(Node::text);
                    (key.ok_or_else(|| mistake(&key_span, path, NO_TEXT))?.to_owned(), false)
                }
                _ => return Err(mistake(&key_span, path, NO_TEXT)),
            };
            path.push(key.clone());
            let first = seen.insert(key.clone(), key_span.start.line());
            // Below an unknown key nobody reads the values, so duplicates do no harm.
            if let Some(first) = first.filter(|_| path.len() == 1 || is_known(&path[0])) {
                return Err(mistake(
                    &key_span,
                    path,
                    &format!("duplicate key, the first is in line {first}"),
                ));
            }
            let (event, span) = self.next(path)?;
            let node = self.node(event, &span, path)?;
            path.pop();
            if is_merge {
                let entries = node.and_then(entries_to_merge).ok_or_else(|| {
                    path.push(key);
                    mistake(&span, path, "expected keys with values, or a list of such")
                })?;
                merged.extend(entries);
            } else if let Some(node) = node {
                table.insert(key, Node { place: Place::Line(key_span.start.line()), ..node });
            }
        }
        // A key that is written here wins. Among merged ones the first wins.
        for (key, node) in merged.into_iter().flatten().filter(|(key, _)| !seen.contains_key(key)) {
            table.entry(key).or_insert(node);
        }
        Ok(table)
    }
}

/// Returns whether a path is that of a boolean of KES. KES reads `on` there as a text, and `true` as a boolean only.
pub fn is_switch(path: &[String]) -> bool {
    matches!(path, [section, _, key] if section == "api" && key == "skip_auth")
}

/// Returns whether a text is a boolean if it has no quotes.
pub fn is_boolean(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

const NO_TEXT: &str = "expected a text as the name of a key";

/// Returns whether a value is missing. The parser gives a missing value as '~'.
fn is_empty(span: &Span) -> bool {
    span.start.index() == span.end.index()
}

/// Returns whether a key at the top level is one of any release.
fn is_known(key: &str) -> bool {
    TOP_LEVEL.contains(&key) || [VERSION, "root"].contains(&key)
}

/// Returns the entries of a mapping, or of each mapping in a list; `None` for any other value.
fn entries_to_merge(node: Node) -> Option<Vec<Table>> {
    let table = |node: Node| if let Value::Table(entries) = node.value { Some(entries) } else { None };
    match node.value {
        Value::List(nodes) => nodes.into_iter().map(table).collect(),
        Value::Table(entries) => Some(vec![entries]),
        _ => None,
    }
}

fn mistake(span: &Span, path: &[String], message: &str) -> Mistake {
    Mistake { line: Some(span.start.line()), path: path.to_vec(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::super::node::Key as _;
    use super::*;

    fn value(text: &str, key: &str) -> Option<String> {
        let tree = read(text, "f.yaml").unwrap().tree;
        tree.find(&key.path()).and_then(Node::text).map(str::to_owned)
    }

    fn line(tree: &Node, key: &str) -> usize {
        match tree.find(&key.path()).unwrap().place {
            Place::Line(line) => line,
            ref other => panic!("{key} is set at {other:?}"),
        }
    }

    fn error(text: &str) -> String {
        read(text, "f.yaml").map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn scalars_mean_what_is_written() {
        for (text, expected) in [
            ("a: off", Some("off")),
            ("a: 012", Some("012")),
            ("a: 1234567890e12", Some("1234567890e12")),
            ("a: 'it''s'", Some("it's")),
            ("a: |\n  one\n  two\n", Some("one\ntwo\n")),
            ("a:", None),
            ("a: ~", None),
            ("a: 'null'", Some("null")),
            ("a: x # comment", Some("x")),
        ] {
            assert_eq!(value(text, "a").as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn lines_are_known_of_keys_and_elements() {
        let tree = read("a:\n  b:\n    - x\n    - c: y\n", "f").unwrap().tree;
        let line = |key: &str| line(&tree, key);
        assert_eq!((line("a"), line("a.b"), line("a.b.0"), line("a.b.1"), line("a.b.1.c")), (1, 2, 3, 4, 4));
    }

    #[test]
    fn anchors_and_merged_keys_are_followed() {
        let text = "x: &x {a: 1, b: 2}\ny:\n  <<: *x\n  b: 3\nz: *x\n";
        assert_eq!(value(text, "y.a").as_deref(), Some("1"));
        assert_eq!(value(text, "y.b").as_deref(), Some("3"));
        assert_eq!(value(text, "z.b").as_deref(), Some("2"));
    }

    #[test]
    fn mappings_are_merged_in_their_order_and_an_alias_may_name_a_key() {
        let text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n";
        let tree = read(text, "f").unwrap().tree;
        let found = ["z.a", "z.b", "z.c"].map(|key| value(text, key));
        assert_eq!(found.map(Option::unwrap), ["1", "2", "4"]);
        assert_eq!(line(&tree, "z.c"), 2);
        assert_eq!(value("x: &k tls\n*k : {key: a}\n", "tls.key").as_deref(), Some("a"));
        assert_eq!(value("x: &x {a: 1}\n'<<': *x\n", "<<.a").as_deref(), Some("1"));
    }

    #[test]
    fn the_first_document_counts_and_others_are_told() {
        for (text, line) in [
            ("a: 1\n---\nb: 2\n", Some(2)),
            ("a: 1\n---\nb: [\n", Some(2)),
            ("---\na: 1\n...\n---\nb\n", Some(4)),
            ("a: 1\n---\n", None),
            ("a: 1\n...\n", None),
            ("a: 1\n", None),
        ] {
            let Document { tree, ignored, .. } = read(text, "f.yaml").unwrap();
            assert_eq!(tree.count(), 1 + 1, "{text}");
            let told = ignored.map(|warning| warning.to_string());
            let place = line.map(|line| format!("f.yaml:{line}: a second document"));
            assert!(told.is_some() == place.is_some(), "{text}: {told:?}");
            assert!(told.unwrap_or_default().starts_with(&place.unwrap_or_default()), "{text}");
        }
    }

    #[test]
    fn tabs_indent_within_brackets_and_nowhere_else() {
        assert_eq!(value("{\n\t\"a\": {\n\t\t\"b\": \"x\\ty\"\n\t}\n}\n", "a.b").as_deref(), Some("x\ty"));
        assert_eq!(value("a: {\n\tb: 'it''s',\n\tc: d } # [\n", "a.b").as_deref(), Some("it's"));
        assert!(error("a: x[1\nb:\n\tc: 1\n").starts_with("f.yaml:3: "));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        assert_eq!(
            error("a: 1\ntls:\n  c: 1\n  c: 2\n"),
            "f.yaml:4: tls.c: invalid YAML: duplicate key, the first is in line 3"
        );
        assert!(error("a: 1\n b: 2\n").starts_with("f.yaml:2: invalid YAML: "));
        let told = error("a: 1\ntls:\n  key: 'x\n");
        assert!(told.starts_with("f.yaml:") && told.ends_with(", within 'tls.key'"), "{told}");
        assert!(error("- a\n").contains("expected keys with values"));
        assert!(error("<<: x\n").contains("f.yaml:1: <<: invalid YAML: expected keys with values"));
        assert!(error("a: [1, 2\n").starts_with("f.yaml:"));
        assert!(error("a: &a [*a]\n").contains("f.yaml:1"));
    }

    #[test]
    fn a_list_may_be_longer_than_what_references_may_repeat() {
        let text = format!("a:\n{}", "- x\n".repeat(MAX_REPEATED + 1));
        let tree = read(&text, "f").unwrap().tree;
        assert_eq!(tree.count(), 1 + MAX_REPEATED + 2);
    }

    #[test]
    fn a_file_cannot_blow_up() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for n in 1..12 {
            let inner = vec![format!("*a{}", n - 1); 10].join(", ");
            text.extend(["a", &n.to_string(), ": &a", &n.to_string(), " [", &inner, "]\n"]);
        }
        assert!(error(&text).contains("more values by reference"));
        let deep = format!("a: {}{}", "[".repeat(200), "]".repeat(200));
        assert!(read(&deep, "f").is_err());
    }
}
