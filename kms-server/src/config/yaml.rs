//! The reader of YAML.
//!
//! Every scalar is taken as the text that is written, as Go's reader does where it expects a text: `off`, `7373` and
//! an identity that happens to look like a number mean themselves.

use std::collections::BTreeMap;

use figment::value::{Dict, Tag, Value};
use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::places::{KeyPath, Lines, dotted};
use super::problem::{Problem, Warning};
use super::schema::TOP_LEVEL;

/// The most values that the aliases of a file repeat. Those that are written out are as many as they are.
const MAX_REPEATED: usize = 100_000;

/// The deepest nesting of a file.
const MAX_DEPTH: usize = 64;

/// The key under which a mapping takes the entries of another one.
const MERGE: &str = "<<";

/// The word of the format's version, whose value means itself whatever it looks like.
const VERSION: &str = "version";

/// What a file says.
#[derive(Debug)]
pub struct Document {
    /// Its values. Keys without one are left out.
    pub tree: Dict,
    /// The line of each key.
    pub lines: Lines,
    /// What stands behind the first document, which alone counts, as with KES.
    pub ignored: Option<Warning>,
}

/// Reads a file's content.
pub fn read(text: &str, file: &str) -> Result<Document, Problem> {
    let place = |line: Option<usize>| line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
    let mut outcome = Reader::read(text);
    if outcome.is_err()
        && let Some(text) = without_tabs_in_flow(text)
    {
        outcome = Reader::read(&text).or(outcome);
    }
    let (tree, lines, next) = outcome.map_err(|Mistake { line, path, message }| {
        Problem::new(place(line), dotted(&path), format!("invalid YAML: {message}"))
    })?;
    let ignored = next.map(|line| {
        let message = "a second document begins here and is passed over with all that follows, as by KES";
        Warning::no_effect(Problem::new(place(Some(line)), "", message))
    });
    Ok(Document { tree, lines, ignored })
}

/// Replaces tabs at the beginning of lines within brackets and braces, where YAML has them mean nothing and the parser
/// takes them for an indentation; `None` if there are none.
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
            // A doubled quote ends the text here and begins it again.
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
    repeated: usize,
}

impl<'a> Reader<'a> {
    /// Reads the first document: its tree, the lines of its keys, and the line where another one begins.
    fn read(text: &'a str) -> Result<(Dict, Lines, Option<usize>), Mistake> {
        let events = Parser::new_from_str(text);
        let mut reader = Self { events, anchors: BTreeMap::new(), repeated: 0 };
        let (tree, lines) = reader.document()?;
        Ok((tree, lines, reader.next_document()))
    }

    fn document(&mut self) -> Result<(Dict, Lines), Mistake> {
        let (node, span) = loop {
            let (event, span) = self.next(&[])?;
            match event {
                Event::StreamEnd => return Ok((Dict::new(), Lines::new())),
                Event::StreamStart | Event::DocumentStart(..) => {}
                event => break (self.node(event, &span, &mut KeyPath::new())?, span),
            }
        };
        // It may end in the middle of a line.
        self.next(&[])?;
        match (node.value, node.lines) {
            (None, _) => Ok((Dict::new(), Lines::new())),
            (Some(Value::Dict(_, dict)), lines) => Ok((dict, lines)),
            _ => Err(mistake(&span, &[], "expected keys with values")),
        }
    }

    /// Finds where another document begins that says something, or cannot be read.
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

    /// Reads on below this path.
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

    fn node(&mut self, event: Event<'a>, span: &Span, path: &mut KeyPath) -> Result<Node, Mistake> {
        if path.len() > MAX_DEPTH {
            return Err(mistake(span, path, "deeper values than any configuration has"));
        }
        let line = span.start.line();
        let (node, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => {
                if style != ScalarStyle::Plain && is_switch(path) && is_boolean(&text) {
                    let message = format!("a text, expected {text} without quotes, or on or off");
                    return Err(mistake(span, path, &message));
                }
                let is_null = matches!(&*text, "~" | "null" | "Null" | "NULL") && *path != [VERSION];
                let absent = style == ScalarStyle::Plain && (is_empty(span) || is_null);
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
            let (event, span) = self.next(path)?;
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
            let (event, key_span) = self.next(path)?;
            let (key, is_merge) = match event {
                Event::MappingEnd => break,
                Event::Scalar(..) if is_empty(&key_span) => return Err(mistake(&key_span, path, NO_TEXT)),
                Event::Scalar(key, style, ..) => {
                    let is_merge = key == MERGE && style == ScalarStyle::Plain;
                    (key.into_owned(), is_merge)
                }
                Event::Alias(anchor) => {
                    match self.anchors.get(&anchor).and_then(|node| node.value.as_ref()) {
                        Some(Value::String(_, key)) => (key.clone(), false),
                        _ => return Err(mistake(&key_span, path, NO_TEXT)),
                    }
                }
                _ => return Err(mistake(&key_span, path, NO_TEXT)),
            };
            path.push(key.clone());
            let first = seen.insert(key.clone(), key_span.start.line());
            // Nobody reads what is below an unknown key.
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
            match node.value {
                value if is_merge => {
                    let entries = merge(value, node.lines);
                    let entries = entries.ok_or_else(|| {
                        path.push(key);
                        mistake(&span, path, "expected keys with values, or a list of such")
                    })?;
                    merged.extend(entries);
                }
                Some(value) => {
                    place(&mut lines, &key, key_span.start.line(), node.lines);
                    dict.insert(key, value);
                }
                None => {}
            }
        }
        for (entries, entry_lines) in merged {
            for (key, value) in entries {
                // What is written here counts, and then what is merged first.
                if seen.contains_key(&key) || dict.contains_key(&key) {
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

/// Tells whether a path is that of a boolean of KES, which takes `on` as a text and `true` as a boolean alone.
pub fn is_switch(path: &[String]) -> bool {
    matches!(path, [section, _, key] if section == "api" && key == "skip_auth")
}

/// Tells whether a text without quotes is a boolean.
pub fn is_boolean(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

const NO_TEXT: &str = "expected a text as the name of a key";

/// Tells whether nothing is written for a value: the parser gives that as '~'.
fn is_empty(span: &Span) -> bool {
    span.start.index() == span.end.index()
}

/// Tells whether a key is one of a config, of any release.
fn is_known(key: &str) -> bool {
    TOP_LEVEL.contains(&key) || [VERSION, "root"].contains(&key)
}

/// Returns the mappings of which one takes the entries, with the lines of each; `None` if it is something else.
fn merge(value: Option<Value>, lines: Lines) -> Option<Vec<(Dict, Lines)>> {
    match value? {
        Value::Dict(_, entries) => Some(vec![(entries, lines)]),
        Value::Array(_, values) => values
            .into_iter()
            .enumerate()
            .map(|(index, value)| {
                let Value::Dict(_, entries) = value else { return None };
                let index = index.to_string();
                let below = lines.iter().filter(|(path, _)| path.first() == Some(&index));
                Some((entries, below.map(|(path, line)| (path[1..].to_vec(), *line)).collect()))
            })
            .collect(),
        _ => None,
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
        Value::from(read(text, "f.yaml").unwrap().tree).find(key).and_then(Value::into_string)
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
        let lines = read("a:\n  b:\n    - x\n    - c: y\n", "f").unwrap().lines;
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
    fn mappings_are_merged_in_their_order_and_an_alias_may_name_a_key() {
        let text = "x: &x {a: 1, b: 2}\ny: &y {b: 3, c: 4}\nz:\n  <<: [*x, *y]\n";
        let Document { tree, lines, .. } = read(text, "f").unwrap();
        let z = Value::from(tree).find("z").unwrap();
        let found = ["a", "b", "c"].map(|key| z.clone().find(key).and_then(Value::into_string));
        assert_eq!(found.map(Option::unwrap), ["1", "2", "4"]);
        assert_eq!(lines[&super::super::places::path("z.c")], 2);
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
            assert_eq!(tree.len(), 1, "{text}");
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
        let lines = read(&text, "f").unwrap().lines;
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
