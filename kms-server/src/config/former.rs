//! The forms of older releases of KES, brought into the names of today.

use figment::value::{Dict, Tag, Value};

use super::places::{KeyPath, Lines, dotted, path};
use super::problem::Problem;

/// The language that a file is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Language {
    /// Ours, and that of KES in 2020.
    Toml,
    /// That of KES since 2021.
    Yaml,
}

/// What a key is called today, and what it was called.
///
/// In this order: a later one may begin where an earlier one ends.
const MOVES: [(&str, &str); 7] = [
    ("root", "admin.identity"),
    ("keys", "keystore"), // only where it is a table that names a key store
    ("cache.expiry.all", "cache.expiry.any"),
    ("keystore.secretsmanager", "keystore.aws.secretsmanager"),
    ("keystore.aws.secrets_manager", "keystore.aws.secretsmanager"),
    ("keystore.vault.address", "keystore.vault.endpoint"),
    ("keystore.vault.name", "keystore.vault.prefix"),
];

/// The key stores that any release of KES knew, by their names in a config.
const KEY_STORES: [&str; 10] =
    ["fs", "vault", "aws", "secretsmanager", "azure", "gcp", "gemalto", "fortanix", "entrust", "generic"];

/// The one version of the format.
const VERSION: &str = "v1";

/// A file's tree in the names of today.
#[derive(Debug)]
pub struct Modern {
    /// The tree.
    pub tree: Dict,
    /// The lines of its keys.
    pub lines: Lines,
    /// The keys that were written under another name, and that name.
    pub written: Vec<(KeyPath, KeyPath)>,
    /// It is a file for KES: `keystore.fs.path` is a directory of key files in the clear.
    pub is_for_kes: bool,
}

/// Brings the tree of a file into the names of today.
///
/// A file in TOML is one for KES if it has a key that only KES of 2020 had, and names no root key.
pub fn modernise(tree: Dict, lines: Lines, language: Language, file: &str) -> Result<Modern, Problem> {
    let mut modern = Modern { tree, lines, written: Vec::new(), is_for_kes: language == Language::Yaml };
    modern.check_version(file)?;
    for (old, new) in MOVES {
        modern.rename(&path(old), &path(new), file)?;
    }
    let of_2020 = !modern.written.is_empty() || modern.has_paths();
    let has_root_key = ["root_key_file", "root_key_env"]
        .iter()
        .any(|key| find(&modern.tree, &path(&format!("keystore.fs.{key}"))).is_some());
    modern.is_for_kes |= of_2020 && !has_root_key;
    // In YAML it never had one.
    modern.refuse_outer_kms_of_kes(language == Language::Toml && modern.is_for_kes, file)?;
    Ok(modern)
}

impl Modern {
    fn check_version(&mut self, file: &str) -> Result<(), Problem> {
        match self.tree.remove("version") {
            None => Ok(()),
            Some(Value::String(_, version)) if version.is_empty() || version == VERSION => Ok(()),
            Some(_) => Err(self.problem(
                file,
                "version",
                &format!("unknown version of the format, expected '{VERSION}'"),
            )),
        }
    }

    /// Refuses the `[kms]` of KES: what it wrapped has another form than what ours wraps.
    fn refuse_outer_kms_of_kes(&self, is_of_kes: bool, file: &str) -> Result<(), Problem> {
        let Some(Value::Dict(_, kms)) = self.tree.get("kms") else { return Ok(()) };
        let has_address = |value: &Value| matches!(value, Value::Dict(_, kms) if kms.contains_key("address"));
        let Some((name, _)) = kms.iter().find(|(_, value)| is_of_kes || has_address(value)) else {
            return Ok(());
        };
        let message = "an outer KMS of KES, whose records are not read; expected a key store alone, such as \
            keystore.vault with transit, or a config without former names of KES, whose [kms] is ours";
        Err(self.problem(file, &format!("kms.{name}"), message))
    }

    fn rename(&mut self, old: &[String], new: &[String], file: &str) -> Result<(), Problem> {
        let is_store = |value: &Value| {
            let Value::Dict(_, stores) = value else { return false };
            stores.keys().any(|name| KEY_STORES.contains(&name.as_str()))
        };
        if old == ["keys"] && !find(&self.tree, old).is_some_and(is_store) {
            return Ok(());
        }
        let Some(value) = take(&mut self.tree, old) else { return Ok(()) };
        if find(&self.tree, new).is_some() {
            let line = self.lines.get(new).map(|line| format!(" in line {line}")).unwrap_or_default();
            let message =
                format!("a former name of {}, which is there, too{line}: expected one of them", dotted(new));
            return Err(self.problem(file, &dotted(old), &message));
        }
        insert(&mut self.tree, new, value);
        let below: Vec<_> = self.lines.keys().filter(|path| path.starts_with(old)).cloned().collect();
        for path in below {
            if let Some(line) = self.lines.remove(&path) {
                let moved = new.iter().chain(&path[old.len()..]).cloned().collect();
                self.lines.insert(moved, line);
            }
        }
        self.written.push((new.to_vec(), old.to_vec()));
        Ok(())
    }

    fn has_paths(&self) -> bool {
        let Some(Value::Dict(_, policies)) = self.tree.get("policy") else { return false };
        policies
            .values()
            .any(|policy| matches!(policy, Value::Dict(_, policy) if policy.contains_key("paths")))
    }

    fn problem(&self, file: &str, key: &str, message: &str) -> Problem {
        let place = match self.lines.get(&path(key)) {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        };
        Problem::new(place, key, message)
    }
}

/// Finds a value in a tree.
pub fn find<'a>(tree: &'a Dict, path: &[String]) -> Option<&'a Value> {
    let (first, rest) = path.split_first()?;
    match (tree.get(first), rest) {
        (value, []) => value,
        (Some(Value::Dict(_, inner)), rest) => find(inner, rest),
        _ => None,
    }
}

/// Puts a value into a tree.
pub fn insert(tree: &mut Dict, path: &[String], value: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        tree.insert(first.clone(), value);
        return;
    }
    let entry = tree.entry(first.clone()).or_insert_with(|| Value::Dict(Tag::Default, Dict::new()));
    if let Value::Dict(_, inner) = entry {
        insert(inner, rest, value);
    }
}

/// Takes a value out of a tree.
fn take(tree: &mut Dict, path: &[String]) -> Option<Value> {
    let (first, rest) = path.split_first()?;
    if rest.is_empty() {
        return tree.remove(first);
    }
    match tree.get_mut(first) {
        Some(Value::Dict(_, inner)) => take(inner, rest),
        _ => None,
    }
}
