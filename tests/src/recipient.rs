//! Keys of age for tests: who can open a backup, and somebody else.

use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// A secret key of age, and its public half.
pub struct Recipient {
    /// What opens.
    pub secret: &'static str,
    /// To whom is sealed.
    pub public: &'static str,
}

/// Who can open the backups of a test.
pub const OWNER: Recipient = Recipient {
    secret: "AGE-SECRET-KEY-1CY56K6A36ADM5ZWW7GY5SP70L4CW2JQSYC9YSTQHQH4RCX9KPSJQLFJGCV",
    public: "age1ggnzhjt8r6echzlwcukk246hwn2m7t9hystsx3kjg9ea5nmz6g0qhq6ged",
};

/// Somebody else.
pub const OTHER: Recipient = Recipient {
    secret: "AGE-SECRET-KEY-1KM0H69A2UYWN04ANKRM747ZKMGZG83TQ8K7CGK2VY0ZMGF9NTUZQ4WGZXQ",
    public: "age1mt2atz5yfrmd98xymamzva26uc6jalvd3cn39t0c5p2t4h36tcmquctcff",
};

impl Recipient {
    /// Writes the secret key to a new file, as `age-keygen -o FILE` does.
    pub fn file(&self, directory: &Path, name: &str) -> PathBuf {
        let path = directory.join(name);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&path).unwrap();
        let text = format!("# public key: {}\n{}\n", self.public, self.secret);
        std::io::Write::write_all(&mut file, text.as_bytes()).unwrap();
        path
    }
}
