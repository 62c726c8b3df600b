//! The names of older releases of KES, and the names of today.

use super::layers::{Language, Renamed};
use super::node::{Key as _, Node, Value, dotted};
use super::problem::Problem;

/// Former names of keys, each with the name of today.
///
/// The order counts: a later entry may start from the result of an earlier one.
const MOVES: [(&str, &str); 7] = [
    ("root", "admin.identity"),
    ("keys", "keystore"), // only if it is a table that names a key store
    ("cache.expiry.all", "cache.expiry.any"),
    ("keystore.secretsmanager", "keystore.aws.secretsmanager"),
    ("keystore.aws.secrets_manager", "keystore.aws.secretsmanager"),
    ("keystore.vault.address", "keystore.vault.endpoint"),
    ("keystore.vault.name", "keystore.vault.prefix"),
];

/// The names of all key stores in the configs of all releases of KES.
const KEY_STORES: [&str; 10] =
    ["fs", "vault", "aws", "secretsmanager", "azure", "gcp", "gemalto", "fortanix", "entrust", "generic"];

/// The key by which a file in our own form keeps the way back to KES open.
pub const ROLLBACK: &str = "rollback";

/// The only version of the format.
const VERSION: &str = "v1";

/// The tree of a file under the names of today.
#[derive(Debug)]
pub struct Modern {
    pub tree: Node,
    /// The names that were replaced, in the order of their replacement.
    pub renamed: Vec<Renamed>,
    /// Whether it is a file for KES: `keystore.fs.path` is a directory of key files in the clear.
    pub is_for_kes: bool,
}

/// Brings the tree of a file into the names of today.
///
/// A file in TOML is one for KES if it has a key of KES of 2020 and names no root key.
pub fn modernise(tree: Node, language: Language, file: &str) -> Result<Modern, Problem> {
    let mut modern = Modern { tree, renamed: Vec::new(), is_for_kes: language == Language::Yaml };
    modern.check_version(file)?;
    for (former, today) in MOVES {
        modern.rename(former, today, file)?;
    }
    let of_2020 = !modern.renamed.is_empty() || modern.has_paths();
    let has_root_key = ["keystore.fs.root_key_file", "keystore.fs.root_key_env"]
        .iter()
        .any(|key| modern.tree.find(&key.path()).is_some());
    modern.is_for_kes |= of_2020 && !has_root_key;
    // KES never had a section `kms` in YAML, and no file of KES says how one goes back to it.
    let is_of_kes = language == Language::Toml && modern.is_for_kes;
    modern.refuse_outer_kms_of_kes(is_of_kes && modern.tree.find(&ROLLBACK.path()).is_none(), file)?;
    Ok(modern)
}

impl Modern {
    fn check_version(&mut self, file: &str) -> Result<(), Problem> {
        let key = "version";
        match self.tree.find(&key.path()).map(|node| &node.value) {
            None => {}
            Some(Value::Text(version)) if version.is_empty() || version == VERSION => {}
            Some(_) => {
                let message = format!("unknown version of the format, expected '{VERSION}'");
                return Err(self.problem(file, key, &message));
            }
        }
        self.tree.take(&key.path());
        Ok(())
    }

    /// Refuses the `[kms]` of KES: the records under it have another form than those under ours.
    fn refuse_outer_kms_of_kes(&self, is_of_kes: bool, file: &str) -> Result<(), Problem> {
        let Some(kms) = self.tree.find(&"kms".path()).and_then(Node::table) else { return Ok(()) };
        let has_address = |node: &Node| node.table().is_some_and(|kms| kms.contains_key("address"));
        let Some((name, _)) = kms.iter().find(|(_, node)| is_of_kes || has_address(node)) else {
            return Ok(());
        };
        let message = "an outer KMS of KES, whose records are not read; expected a key store alone, such as \
            keystore.vault with transit, or a config without former names of KES, whose [kms] is ours";
        Err(self.problem(file, &format!("kms.{name}"), message))
    }

    fn rename(&mut self, former: &str, today: &str, file: &str) -> Result<(), Problem> {
        let is_store = |node: &Node| {
            node.table().is_some_and(|stores| stores.keys().any(|name| KEY_STORES.contains(&name.as_str())))
        };
        let (former, today) = (former.path().into_owned(), today.path().into_owned());
        match self.tree.find(&former) {
            Some(node) if former != ["keys"] || is_store(node) => {}
            _ => return Ok(()),
        }
        if let Some(node) = self.tree.find(&today) {
            let line = node.place.line().map(|line| format!(" in line {line}")).unwrap_or_default();
            let today = dotted(&today);
            let message =
                format!("a former name of {today}, which is there, too{line}: expected one of them");
            return Err(self.problem(file, &dotted(&former), &message));
        }
        if let Some(node) = self.tree.take(&former) {
            self.tree.insert(&today, node);
        }
        self.renamed.push(Renamed { today, former });
        Ok(())
    }

    fn has_paths(&self) -> bool {
        let policies = self.tree.find(&"policy".path()).and_then(Node::table);
        policies.is_some_and(|policies| {
            policies.values().filter_map(Node::table).any(|policy| policy.contains_key("paths"))
        })
    }

    fn problem(&self, file: &str, key: &str, message: &str) -> Problem {
        let line = self.tree.find(&key.path()).and_then(|node| node.place.line());
        let place = line.map_or_else(|| file.to_owned(), |line| format!("{file}:{line}"));
        Problem::new(place, key, message)
    }
}
