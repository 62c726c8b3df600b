//! Flags of the command line that set keys of the configuration.

use super::layers::Layers;
use super::node::{Key as _, Node, Place, Value};
use super::problem::{Problem, Warning};

/// The flags that stand beside a config file.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--root`: the admin, instead of the file's.
    pub root: Option<String>,
    /// `--cert`: the server's certificate, where the file names none.
    pub cert: Option<String>,
    /// `--key`: the private key, where the file names none.
    pub key: Option<String>,
    /// `--mtls-auth`: whether clients' certificates are verified, where the file does not say.
    pub auth: Option<bool>,
}

impl Flags {
    /// Lays the flags over a file. A flag that has no effect leads to a warning.
    pub(super) fn add_to(&self, layers: &mut Layers, warnings: &mut Vec<Warning>) {
        let text = |value: &Option<String>| value.clone().map(Value::Text);
        for (key, flag, value) in [
            ("admin.identity", "--root", text(&self.root)),
            ("tls.cert", "--cert", text(&self.cert)),
            ("tls.key", "--key", text(&self.key)),
            ("tls.auth", "--mtls-auth", self.auth.map(Value::Boolean)),
        ] {
            let Some(value) = value else { continue };
            let (path, place) = (key.path(), format!("flag {flag}"));
            let is_there = [&layers.tree, &layers.overrides].iter().any(|layer| layer.find(&path).is_some());
            // The admin alone is replaced.
            if is_there && flag != "--root" {
                let message = format!("no effect, {} is in force", layers.place_of(key));
                warnings.push(Warning::dubious(Problem::new(place, key, message)));
            } else {
                layers.overrides.insert(&path, Node { value, place: Place::Beside(place) });
            }
        }
    }
}
