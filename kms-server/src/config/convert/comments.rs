//! The comments of a converted config: what was called otherwise, and what means something else than to KES.

use std::collections::BTreeMap;

use super::super::layers::{Language, Layers, Renamed};
use super::super::node::{Key as _, KeyPath, Node, dotted};
use super::super::problem::Warning;
use super::super::secrets::is_secret;

/// Comments by the keys above which they stand.
#[derive(Clone, Debug, Default)]
pub struct Comments(BTreeMap<KeyPath, Vec<String>>);

/// What means something else here than to KES, by the section or key.
const MEANINGS: [(&str, &str); 4] = [
    (
        "cache.expiry",
        "`any` counts from when a key was read, and `unused` from its last use, as documented. KES confuses the two.",
    ),
    ("keys", "The server creates these keys at the start. KES 0.24 does not."),
    (
        "tls.proxy",
        "The server believes these proxies, and nobody else. KES 0.24 does nothing with this section.",
    ),
    (
        "policy",
        "An identity has one policy. Only a '*' at the end of a pattern is a wildcard; a deny holds for all paths of a route.",
    ),
];

/// What stands above the line that keeps the way back.
const WAY_BACK: [&str; 3] = [
    "As long as this line is here, one can go back to KES: deleted keys are erased at once unless [deletion] says otherwise,",
    "a rotation wants a confirmation, and [keystore.fs] names a directory of KES's key files, which are imported.",
    "Remove it when KES is not needed any more (with [keystore.fs], move the keys first: docs/from-kes.md).",
];

impl Comments {
    /// Creates the comments of a file that was read.
    pub fn of(layers: &Layers, is_for_kes: bool) -> Self {
        let mut comments = Self::default();
        for Renamed { today, former } in &layers.renamed {
            comments.add(today, format!("formerly {}", dotted(former)));
        }
        if is_for_kes {
            for (key, meaning) in MEANINGS {
                comments.add(&key.path(), meaning);
            }
            for line in WAY_BACK {
                comments.add(&"rollback".path(), line);
            }
            if layers.tree.find(&"keystore.fs".path()).is_some() {
                comments.add(&"keystore.fs".path(), "KES's key files, in the clear. They are imported into an encrypted store in `.kms` below.");
            }
            let window = "keystore.aws.secretsmanager.recovery_window";
            if layers.tree.find(&window.path()).is_none() {
                let told = "A deleted key can be restored for 7 days, and its name is taken until then. `recovery_window = 0` erases at once, as KES does.";
                comments.add(&"keystore.aws.secretsmanager".path(), told);
            }
        }
        if layers.language == Language::Yaml || is_for_kes {
            let policies = layers.tree.find(&"policy".path()).and_then(Node::table);
            for name in policies.into_iter().flat_map(|policies| policies.keys()) {
                let paths = vec!["policy".to_owned(), name.clone(), "paths".to_owned()];
                comments.add(&paths, "Patterns of 2020: '*', '?' and '[…]' match anything but a '/'.");
            }
        }
        comments
    }

    /// Adds comments on secrets that stand in the clear.
    pub fn with_secrets(mut self, written: &Node) -> Self {
        for path in secrets(written) {
            self.add(
                &path,
                "In the clear, as in the file before. Better a reference to a variable: \"${NAME}\"",
            );
        }
        self
    }

    /// Returns the comments above a key.
    pub fn above(&self, path: &[String]) -> &[String] {
        self.0.get(path).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, path: &[String], comment: impl Into<String>) {
        self.0.entry(path.to_vec()).or_default().push(comment.into());
    }
}

/// Returns whether a secret stands in a tree in the clear.
pub fn has_secrets(written: &Node) -> bool {
    !secrets(written).is_empty()
}

fn secrets(written: &Node) -> Vec<KeyPath> {
    let mut found = Vec::new();
    written.find_map(&mut |path, node| -> Option<()> {
        let text = node.text()?;
        if is_secret(path, text) && !text.is_empty() && !text.contains("${") {
            found.push(path.to_vec());
        }
        None
    });
    found
}

/// Returns the comments at the top of the file.
pub fn head(file: &str, warnings: &[Warning], unset: &[String]) -> Vec<String> {
    let mut head = vec![format!("Converted from {file} by 'kms config convert'.")];
    if !unset.is_empty() {
        head.push(format!(
            "These variables were not set, so nobody has compared what the two files mean: {}",
            unset.join(", ")
        ));
    }
    if !warnings.is_empty() {
        head.push("What has no effect there, or is dubious:".to_owned());
        head.extend(warnings.iter().map(|warning| format!("  {warning}")));
    }
    head
}
