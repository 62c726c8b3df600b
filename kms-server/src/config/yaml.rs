//! The reader of YAML.
//!
//! Every scalar is taken as the text that is written, as Go's reader does where it expects a text: `off`, `7373` and
//! an identity that happens to look like a number mean themselves.

use std::collections::BTreeMap;

use figment::value::{Dict, Tag, Value};
use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use super::places::{KeyPath, Lines, dotted};
use super::problem::Problem;

/// The most values that the aliases of a file repeat. Those that are written out are as many as they are.
const MAX_REPEATED: usize = 100_000;

/// The deepest nesting of a file.
const MAX_DEPTH: usize = 64;

/// The key under which a mapping takes the entries of another one.
const MERGE: &str = "<<";

/// Reads a file's content into a tree of values, and the line of each key. Keys without a value are left out.
pub fn read(text: &str, file: &str) -> Result<(Dict, Lines), Problem> {
    let invalid = |mistake: Mistake| {
        let place = mistake.line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
        Problem::new(place, dotted(&mistake.path), format!("invalid YAML: {}", mistake.message))
    };
    let mut reader = Reader::new(text);
    let tree = reader.document().map_err(invalid)?;
    Ok((tree, reader.lines))
}

struct Mistake {
    line: Option<usize>,
    path: KeyPath,
    message: String,
}

impl From<ScanError> for Mistake {
    fn from(error: ScanError) -> Self {
        Self { line: Some(error.marker().line()), path: KeyPath::new(), message: error.info() }
    }
}

/// A value whose place is known: relative to it, the lines of what it holds.
#[derive(Clone)]
struct Node {
    /// `None` where there is no value.
    value: Option<Value>,
    line: usize,
    lines: Lines,
}

struct Reader<'a> {
    events: Parser<'a, granit_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    lines: Lines,
    repeated: usize,
}

impl<'a> Reader<'a> {
    fn new(text: &'a str) -> Self {
        let events = Parser::new_from_str(text);
        Self { events, anchors: BTreeMap::new(), lines: Lines::new(), repeated: 0 }
    }

    fn document(&mut self) -> Result<Dict, Mistake> {
        let mut root = None;
        loop {
            let (event, span) = self.next()?;
            match event {
                Event::StreamEnd => break,
                Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
                _ if root.is_some() => return Err(mistake(&span, &[], "expected one document in the file")),
                event => root = Some((self.node(event, &span, &mut KeyPath::new())?, span)),
            }
        }
        match root.map(|(node, span)| (node.value, node.lines, span)) {
            None | Some((None, ..)) => Ok(Dict::new()),
            Some((Some(Value::Dict(_, dict)), lines, _)) => {
                self.lines = lines;
                Ok(dict)
            }
            Some((_, _, span)) => Err(mistake(&span, &[], "expected keys with values")),
        }
    }

    fn next(&mut self) -> Result<(Event<'a>, Span), Mistake> {
        match self.events.next() {
            Some(next) => Ok(next?),
            None => {
                Err(Mistake { line: None, path: KeyPath::new(), message: "it ends in the middle".to_owned() })
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: &Span, path: &mut KeyPath) -> Result<Node, Mistake> {
        if path.len() > MAX_DEPTH {
            return Err(mistake(span, path, "deeper values than any configuration has"));
        }
        let line = span.start.line();
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                let absent =
                    style == ScalarStyle::Plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL");
                let value = (!absent).then(|| Value::from(text.into_owned()));
                (Node { value, line, lines: Lines::new() }, anchor)
            }
            Event::SequenceStart(_, anchor, _) => (self.sequence(line, path)?, anchor),
            Event::MappingStart(_, anchor, _) => (self.mapping(line, path)?, anchor),
            Event::Alias(anchor) => {
                let node = self.anchors.get(&anchor);
                let node =
                    node.ok_or_else(|| mistake(span, path, "a reference to the value that holds it"))?;
                self.repeated += 1 + node.lines.len();
                if self.repeated > MAX_REPEATED {
                    return Err(mistake(span, path, "more values by reference than any configuration has"));
                }
                return Ok(node.clone());
            }
            _ => return Err(mistake(span, path, "expected a value")),
        };
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn sequence(&mut self, line: usize, path: &mut KeyPath) -> Result<Node, Mistake> {
        let (mut values, mut lines) = (Vec::new(), Lines::new());
        loop {
            let (event, span) = self.next()?;
            if matches!(event, Event::SequenceEnd) {
                let value = Some(Value::Array(Tag::Default, values));
                return Ok(Node { value, line, lines });
            }
            let index = values.len().to_string();
            path.push(index.clone());
            let node = self.node(event, &span, path)?;
            path.pop();
            if let Some(value) = node.value {
                place(&mut lines, &index, node.line, node.lines);
                values.push(value);
            }
        }
    }

    fn mapping(&mut self, line: usize, path: &mut KeyPath) -> Result<Node, Mistake> {
        let (mut dict, mut lines) = (Dict::new(), Lines::new());
        let mut merged = Vec::new();
        let mut seen = BTreeMap::new();
        loop {
            let (event, key_span) = self.next()?;
            let key = match event {
                Event::MappingEnd => break,
                Event::Scalar(key, ..) => key.into_owned(),
                _ => return Err(mistake(&key_span, path, "expected a text as the name of a key")),
            };
            path.push(key.clone());
            if let Some(first) = seen.insert(key.clone(), key_span.start.line()) {
                return Err(mistake(
                    &key_span,
                    path,
                    &format!("duplicate key, the first is in line {first}"),
                ));
            }
            let (event, span) = self.next()?;
            let node = self.node(event, &span, path)?;
            path.pop();
            match node.value {
                Some(Value::Dict(_, entries)) if key == MERGE => merged.push((entries, node.lines)),
                Some(value) => {
                    place(&mut lines, &key, key_span.start.line(), node.lines);
                    dict.insert(key, value);
                }
                None => {}
            }
        }
        for (entries, entry_lines) in merged {
            for (key, value) in entries {
                if seen.contains_key(&key) {
                    continue;
                }
                let from = entry_lines.range(vec![key.clone()]..);
                let below = from.take_while(|(path, _)| path.first() == Some(&key));
                lines.extend(below.map(|(path, line)| (path.clone(), *line)));
                dict.insert(key, value);
            }
        }
        Ok(Node { value: Some(Value::Dict(Tag::Default, dict)), line, lines })
    }
}

/// Adds the lines of a value under its key.
fn place(lines: &mut Lines, key: &str, line: usize, below: Lines) {
    lines.insert(vec![key.to_owned()], line);
    for (mut path, line) in below {
        path.insert(0, key.to_owned());
        lines.insert(path, line);
    }
}

fn mistake(span: &Span, path: &[String], message: &str) -> Mistake {
    Mistake { line: Some(span.start.line()), path: path.to_vec(), message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, key: &str) -> Option<String> {
        let (tree, _) = read(text, "f.yaml").unwrap();
        Value::from(tree).find(key).and_then(Value::into_string)
    }

    fn error(text: &str) -> String {
        read(text, "f.yaml").unwrap_err().to_string()
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
        let (_, lines) = read("a:\n  b:\n    - x\n    - c: y\n", "f").unwrap();
        let line = |path: &str| lines[&super::super::places::path(path)];
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
    fn mistakes_are_told_with_their_line() {
        assert_eq!(
            error("a: 1\nb:\n  c: 1\n  c: 2\n"),
            "f.yaml:4: b.c: invalid YAML: duplicate key, the first is in line 3"
        );
        assert!(error("a: 1\n b: 2\n").starts_with("f.yaml:2: invalid YAML: "));
        assert!(error("- a\n").contains("expected keys with values"));
        assert!(error("a: 1\n---\nb: 2\n").contains("one document"));
        assert!(error("a: [1, 2\n").starts_with("f.yaml:"));
        assert!(error("a: &a [*a]\n").contains("f.yaml:1"));
    }

    #[test]
    fn a_list_may_be_longer_than_what_references_may_repeat() {
        let text = format!("a:\n{}", "- x\n".repeat(MAX_REPEATED + 1));
        let (_, lines) = read(&text, "f").unwrap();
        assert_eq!(lines.len(), MAX_REPEATED + 2);
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
