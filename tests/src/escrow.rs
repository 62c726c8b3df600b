//! An offline recipient of escrow, and what its secret key finds in escrow files.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use age::secrecy::ExposeSecret as _;
use kms_core::KeyName;
use kms_server::escrow::{Choice, Contents, Flaw, Held, Plan, held, open_record};
use kms_server::recipients::Identities;
use kms_server::settings::{EscrowFailure, EscrowSettings};
use tempfile::TempDir;

/// A recipient with its secret key in a file.
pub struct EscrowKey {
    directory: TempDir,
    recipient: String,
    /// The records that were opened already, by what was sealed. Opening takes a while.
    opened: Mutex<HashMap<Vec<u8>, Vec<u8>>>,
}

/// What escrow files hold.
pub struct InEscrow {
    /// The record of the first version of each key that a restore would bring back.
    pub keys: BTreeMap<String, Vec<u8>>,
    /// The same keys by the fingerprints in their lines.
    pub fingerprints: BTreeMap<String, String>,
    /// What is wrong with the files.
    pub flaws: Vec<Flaw>,
}

impl EscrowKey {
    /// Makes a new key.
    #[expect(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let key = age::x25519::Identity::generate();
        let file = directory.path().join("identity");
        fs::write(&file, format!("# of a test\n{}\n", key.to_string().expose_secret())).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        Self { directory, recipient: key.to_public().to_string(), opened: Mutex::default() }
    }

    /// Returns the recipient as a config names it.
    pub fn recipient(&self) -> &str {
        &self.recipient
    }

    /// Returns the file with the secret key.
    pub fn file(&self) -> PathBuf {
        self.directory.path().join("identity")
    }

    /// Returns settings of a server that seals to this key.
    pub fn settings(&self, path: &Path, on_failure: EscrowFailure) -> EscrowSettings {
        EscrowSettings { recipients: vec![self.recipient.clone()], path: path.to_owned(), on_failure }
    }

    /// Reads escrow files, and opens what a restore would bring back. A record that is damaged is among the flaws only.
    pub fn read(&self, files: &[PathBuf]) -> InEscrow {
        let contents: Vec<Contents> = files
            .iter()
            .map(|file| Contents::read(BufReader::new(File::open(file).unwrap()), true).unwrap())
            .collect();
        let flaws = contents.iter().flat_map(|contents| contents.flaws.clone()).collect();
        let held = held(contents);
        let plan = Plan::of(&held, &[]);
        let identities = Identities::from_file(&self.file()).unwrap();
        let record = |choice: &Choice| self.open(&held[choice.key], &identities);
        let named = |(name, choice): (&KeyName, &Choice)| Some((name.to_string(), record(choice)?));
        let keys = plan.choices.iter().filter_map(named).collect();
        let fingerprint = |choice: &Choice| held[choice.key].subject.fingerprint.to_string();
        let fingerprints =
            plan.choices.iter().map(|(name, choice)| (name.to_string(), fingerprint(choice))).collect();
        InEscrow { keys, fingerprints, flaws }
    }

    fn open(&self, one: &Held, identities: &Identities) -> Option<Vec<u8>> {
        let sealed = one.sealed.clone()?;
        let mut opened = self.opened.lock().unwrap();
        let open = || open_record(one, identities).unwrap().1.expose().to_vec();
        Some(opened.entry(sealed).or_insert_with(open).clone())
    }
}
