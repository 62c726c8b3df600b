//! The modules of one file: their names, their imports and the paths in their code.

use std::collections::{BTreeMap, BTreeSet};

use super::tokens::{Token, tokens};

/// A module of a file: the file itself, or a module in braces inside of it.
#[derive(Debug, Default)]
pub struct Module {
    /// The place in the file's list of the module around this one.
    pub parent: Option<usize>,
    /// Its name, if it stands in braces.
    pub name: String,
    /// Modules in files of their own, and the file that `#[path]` names.
    pub files: Vec<(String, Option<String>)>,
    /// All `use` items, also those of functions.
    pub imports: Vec<Import>,
    /// Paths in code, with their lines.
    pub paths: Vec<Path>,
    /// Names of what is defined here.
    pub items: BTreeSet<String>,
    /// Words in code that may be names, with the first line of each.
    pub words: BTreeMap<String, usize>,
}

/// A path as it is written, such as `crate::error::Error`.
#[derive(Clone, Debug, PartialEq)]
pub struct Path {
    pub segments: Vec<String>,
    pub line: usize,
}

/// One name that a `use` item brings in.
#[derive(Clone, Debug, PartialEq)]
pub struct Import {
    pub path: Path,
    /// The name here; `None` for `*` and for `_`.
    pub name: Option<String>,
    /// Whether it ends in `*`.
    pub all: bool,
    /// Whether other modules can see it.
    pub public: bool,
}

impl std::fmt::Display for Path {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.segments.join("::"))
    }
}

/// Reads the modules of a file. The first is the file itself.
pub fn modules(source: &str) -> Vec<Module> {
    let tokens = tokens(source);
    let mut reader =
        Reader { tokens: &tokens, at: 0, depth: 0, open: vec![(0, 0)], modules: vec![Module::default()] };
    while reader.at < tokens.len() {
        reader.step();
    }
    reader.modules
}

struct Reader<'a> {
    tokens: &'a [Token<'a>],
    at: usize,
    depth: usize,
    /// The modules in whose braces the reader is, each with its depth.
    open: Vec<(usize, usize)>,
    modules: Vec<Module>,
}

impl Reader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text)
    }

    /// Returns the token this many before the current one.
    fn before(&self, count: usize) -> &str {
        self.at.checked_sub(count).map_or("", |at| self.text(at))
    }

    fn module(&mut self) -> &mut Module {
        let (module, _) = self.open[self.open.len() - 1];
        &mut self.modules[module]
    }

    fn step(&mut self) {
        let token = self.tokens[self.at];
        match token.text {
            "{" => self.depth += 1,
            "}" => {
                if self.open.len() > 1 && self.open[self.open.len() - 1].1 == self.depth {
                    self.open.pop();
                }
                self.depth = self.depth.saturating_sub(1);
            }
            "mod" if self.is_word(self.at + 1) && matches!(self.text(self.at + 2), ";" | "{") => {
                return self.nested();
            }
            // Not `use<'a>`, the lifetimes that a type captures.
            "use" if self.text(self.at + 1) != "<" => return self.import(),
            "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static"
                if self.depth == self.open[self.open.len() - 1].1 && self.text(self.at + 1) != "fn" =>
            {
                let name = self.text(self.at + 1).to_owned();
                self.module().items.insert(name);
            }
            "macro_rules" => {
                let name = self.text(self.at + 2).to_owned();
                self.module().items.insert(name);
            }
            _ if token.is_word() => return self.path(),
            _ => {}
        }
        self.at += 1;
    }

    fn is_word(&self, at: usize) -> bool {
        self.tokens.get(at).is_some_and(Token::is_word)
    }

    /// Reads `mod name;` or the beginning of `mod name {`.
    fn nested(&mut self) {
        let name = self.text(self.at + 1).to_owned();
        if self.text(self.at + 2) == ";" {
            let path = self.path_attribute();
            self.module().files.push((name, path));
            self.at += 3;
            return;
        }
        let (parent, _) = self.open[self.open.len() - 1];
        self.depth += 1;
        self.open.push((self.modules.len(), self.depth));
        self.modules.push(Module { parent: Some(parent), name, ..Module::default() });
        self.at += 3;
    }

    /// Returns the file that `#[path = "…"]` before the current `mod` names.
    fn path_attribute(&self) -> Option<String> {
        let item = |text: &&Token<'_>| matches!(text.text, ";" | "}" | "{");
        let start = self.tokens[..self.at]
            .iter()
            .rev()
            .position(|token| item(&token))
            .map_or(0, |back| self.at - back);
        let head = &self.tokens[start..self.at];
        let at = head.windows(2).position(|pair| pair[0].text == "path" && pair[1].text == "=")?;
        Some(head.get(at + 2)?.text.trim_matches('"').to_owned())
    }

    /// Reads a `use` item.
    fn import(&mut self) {
        let public = self.before(1) == "pub" || self.before(1) == ")" && self.is_visibility();
        self.at += 1;
        let mut imports = Vec::new();
        self.tree(&[], public, &mut imports);
        self.module().imports.extend(imports);
        self.at += 1;
    }

    /// Returns whether a `pub(…)` ends before the current token.
    fn is_visibility(&self) -> bool {
        let open = (0..self.at).rev().find(|&at| self.text(at) == "(");
        open.is_some_and(|open| open > 0 && self.text(open - 1) == "pub")
    }

    /// Reads one tree of a `use` item, up to `,`, `}` or `;`.
    fn tree(&mut self, before: &[String], public: bool, into: &mut Vec<Import>) {
        let mut segments = before.to_vec();
        let line = self.tokens.get(self.at).map_or(0, |token| token.line);
        let import =
            |segments: Vec<String>, name, all| Import { path: Path { segments, line }, name, all, public };
        loop {
            match self.text(self.at) {
                "::" => self.at += 1,
                "*" => {
                    self.at += 1;
                    into.push(import(segments, None, true));
                    return;
                }
                "{" => {
                    self.at += 1;
                    while !matches!(self.text(self.at), "}" | "") {
                        self.tree(&segments, public, into);
                        if self.text(self.at) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "as" => {
                    let name = Some(self.text(self.at + 1).to_owned()).filter(|name| name != "_");
                    self.at += 2;
                    into.push(import(segments, name, false));
                    return;
                }
                "self" if !segments.is_empty() => self.at += 1,
                word if self.is_word(self.at) => {
                    segments.push(word.to_owned());
                    self.at += 1;
                }
                _ => {
                    let name = segments.last().cloned();
                    into.push(import(segments, name, false));
                    return;
                }
            }
        }
    }

    /// Reads a path in code, or a single word.
    fn path(&mut self) {
        let line = self.tokens[self.at].line;
        // `.name` is a field or a method, and `pub(in path)` imports nothing.
        let is_part = matches!(self.before(1), "." | "::") || self.before(1) == "in" && self.before(2) == "(";
        let mut segments = vec![self.text(self.at).to_owned()];
        self.at += 1;
        while self.text(self.at) == "::" && self.is_word(self.at + 1) {
            segments.push(self.text(self.at + 1).to_owned());
            self.at += 2;
        }
        if is_part {
            return;
        }
        // `name: value` is a field too.
        if self.text(self.at) != ":" || segments.len() > 1 {
            self.module().words.entry(segments[0].clone()).or_insert(line);
        }
        if segments.len() > 1 {
            self.module().paths.push(Path { segments, line });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imports(source: &str) -> Vec<String> {
        let shown = |import: &Import| {
            let name = if import.all { "*" } else { import.name.as_deref().unwrap_or("_") };
            format!("{}{} as {name}", if import.public { "pub " } else { "" }, import.path)
        };
        modules(source).iter().flat_map(|module| module.imports.iter().map(shown)).collect()
    }

    #[test]
    fn trees_of_use_items_are_taken_apart() {
        assert_eq!(
            imports("use crate::{a::{self, B as C}, d::*};\npub(crate) use self::e::F;\nuse super::G as _;"),
            ["crate::a as a", "crate::a::B as C", "crate::d as *", "pub self::e::F as F", "super::G as _"]
        );
        assert_eq!(imports("fn f() -> impl Sized + use<'a> { use crate::x; }"), ["crate::x as x"]);
    }

    #[test]
    fn lines_of_a_tree_are_those_of_its_names() {
        let modules = modules("use crate::{\n    a::B,\n    c::D,\n};");
        assert_eq!(modules[0].imports.iter().map(|import| import.path.line).collect::<Vec<_>>(), [2, 3]);
    }

    #[test]
    fn paths_in_code_are_read_and_fields_are_none() {
        let modules =
            modules("fn f(x: T) { a::b(); self.c(); crate::d::E { f: 1 } }\nstruct S { g: super::h::I }");
        let paths: Vec<_> = modules[0].paths.iter().map(|path| format!("{path}:{}", path.line)).collect();
        assert_eq!(paths, ["a::b:1", "crate::d::E:1", "super::h::I:2"]);
        assert!(modules[0].words.contains_key("a"));
        assert!(!["c", "f", "g"].iter().any(|word| modules[0].words.contains_key(*word) && *word != "f"));
        assert_eq!(modules[0].items.iter().collect::<Vec<_>>(), ["S", "f"]);
    }

    #[test]
    fn modules_in_braces_are_modules_of_their_own() {
        let modules = modules(
            "mod a;\n#[path = \"x/y.rs\"]\npub mod b;\nmod tests { use super::*; fn g() {} }\nfn h() {}",
        );
        assert_eq!(modules[0].files, [("a".to_owned(), None), ("b".to_owned(), Some("x/y.rs".to_owned()))]);
        assert_eq!((modules[1].name.as_str(), modules[1].parent), ("tests", Some(0)));
        assert!(modules[1].imports[0].all && modules[0].imports.is_empty());
        assert!(modules[1].items.contains("g") && modules[0].items.contains("h"));
    }
}
