//! Keys of age: what seals backups and escrow entries to people, who keep the keys that open them elsewhere.

use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use age::secrecy::SecretString;
use age::stream::{StreamReader, StreamWriter};
use age::{DecryptError, Decryptor, EncryptError, Encryptor};
use kms_core::primitives::read_secret_file;

use crate::host::files::{self, Readers};

/// The most that a file of identities may hold, in bytes.
const MAX_IDENTITY_FILE: usize = 64 << 10;

/// The most bytes of the header of an age file: some six hundred recipients.
const MAX_HEADER: usize = 64 << 10;

/// Those who can open what is sealed. There is at least one.
pub struct Recipients(Vec<Box<dyn age::Recipient + Send + Sync>>);

impl Recipients {
    /// Parses recipients such as `age1…`, which `age-keygen` prints.
    ///
    /// # Errors
    ///
    /// The number of the first text that is none, from 0 on, with the reason; or no number if there is none at all.
    pub fn parse(texts: &[String]) -> Result<Self, (Option<usize>, &'static str)> {
        const EXPECTED: &str = "no recipient of age, expected age1… as age-keygen prints it";
        if texts.is_empty() {
            return Err((None, "no recipient, expected at least one age1…"));
        }
        let parsed = texts.iter().enumerate().map(|(at, text)| {
            if text.trim_start().to_ascii_uppercase().starts_with("AGE-SECRET-KEY-") {
                return Err((Some(at), "a secret key of age, expected its public half age1…"));
            }
            let recipient = text.trim().parse::<age::x25519::Recipient>();
            recipient.map(|recipient| Box::new(recipient) as _).map_err(|_| (Some(at), EXPECTED))
        });
        parsed.collect::<Result<_, _>>().map(Self)
    }

    /// Creates what a passphrase opens.
    pub fn of_passphrase(passphrase: SecretString) -> Self {
        Self(vec![Box::new(age::scrypt::Recipient::new(passphrase))])
    }

    /// Returns their number.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Returns a writer that seals to all of them, and writes that to `out`. Without [`StreamWriter::finish`] the result does
    /// not open.
    ///
    /// # Errors
    ///
    /// Those of `out`, and those of recipients that do not go together.
    pub fn seal<W: Write>(&self, out: W) -> io::Result<StreamWriter<W>> {
        let recipients = self.0.iter().map(|recipient| recipient.as_ref() as &dyn age::Recipient);
        let encryptor = Encryptor::with_recipients(recipients).map_err(|error| match error {
            EncryptError::Io(error) => error,
            error => io::Error::other(error.to_string()),
        })?;
        encryptor.wrap_output(out)
    }
}

/// Keys that open what was sealed. They have no `Debug`.
pub struct Identities(Vec<Box<dyn age::Identity>>);

impl Identities {
    /// Reads the secret keys in a file that `age-keygen` made. Lines that begin with `#` are comments.
    ///
    /// A file that others can read or write is refused: it opens every backup.
    ///
    /// # Errors
    ///
    /// A text that names the file and what is wrong, and never quotes it.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let failed = |why: &str| format!("{}: {why}", path.display());
        files::refuse_exposed(path, Readers::Owner)?;
        let content =
            read_secret_file(path, MAX_IDENTITY_FILE).map_err(|error| files::failed(path, &error))?;
        let text = std::str::from_utf8(&content)
            .map_err(|_| failed("no identity file of age, expected lines of text"))?;
        let mut identities: Vec<Box<dyn age::Identity>> = Vec::new();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let identity = line.parse::<age::x25519::Identity>().map_err(|_| {
                failed(&format!("line {} is no secret key of age, expected AGE-SECRET-KEY-1…", at + 1))
            })?;
            identities.push(Box::new(identity));
        }
        if identities.is_empty() {
            return Err(failed("no secret key of age in it, expected AGE-SECRET-KEY-1…"));
        }
        Ok(Self(identities))
    }

    /// Creates what opens under a passphrase.
    pub fn of_passphrase(passphrase: SecretString) -> Self {
        Self(vec![Box::new(age::scrypt::Identity::new(passphrase))])
    }

    /// Returns a reader of what `input` holds sealed. It fails at the first byte that was changed, and at an end that was cut
    /// off.
    ///
    /// # Errors
    ///
    /// - [`DecryptError::NoMatchingKeys`]: it was sealed to others.
    /// - Every other error says that it is no age file, or a damaged one.
    pub fn open<R: Read>(&self, input: R) -> Result<StreamReader<Bounded<R>>, DecryptError> {
        let is_header = Arc::new(AtomicBool::new(true));
        let input = Bounded { input, left: MAX_HEADER, is_header: Arc::clone(&is_header) };
        let decryptor = Decryptor::new(input)?;
        is_header.store(false, Ordering::Relaxed);
        decryptor.decrypt(self.0.iter().map(|identity| identity.as_ref() as &dyn age::Identity))
    }
}

/// A reader whose header has a bound, since the parser of age keeps all of it in memory.
pub struct Bounded<R> {
    input: R,
    left: usize,
    is_header: Arc<AtomicBool>,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.is_header.load(Ordering::Relaxed) {
            return self.input.read(buffer);
        }
        if self.left == 0 && !buffer.is_empty() {
            return Err(io::Error::other("its header has no end"));
        }
        let most = buffer.len().min(self.left);
        let count = self.input.read(&mut buffer[..most])?;
        self.left -= count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use age::secrecy::ExposeSecret as _;

    use super::*;

    fn seal(recipients: &Recipients, text: &[u8]) -> Vec<u8> {
        let mut sealed = Vec::new();
        let mut writer = recipients.seal(&mut sealed).unwrap();
        writer.write_all(text).unwrap();
        writer.finish().unwrap();
        sealed
    }

    fn open(identities: &Identities, sealed: &[u8]) -> Result<Vec<u8>, String> {
        let mut text = Vec::new();
        let mut reader = identities.open(sealed).map_err(|error| error.to_string())?;
        reader.read_to_end(&mut text).map_err(|error| error.to_string())?;
        Ok(text)
    }

    #[test]
    fn each_of_the_recipients_opens_and_nobody_else_and_no_changed_byte() {
        let keys: Vec<_> = (0..3).map(|_| age::x25519::Identity::generate()).collect();
        let dir = tempfile::tempdir().unwrap();
        let identities: Vec<_> = keys
            .iter()
            .enumerate()
            .map(|(n, key)| {
                let file = dir.path().join(n.to_string());
                std::fs::write(&file, format!("# made for a test\n{}\n", key.to_string().expose_secret()))
                    .unwrap();
                std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
                Identities::from_file(&file).unwrap()
            })
            .collect();
        let texts = [keys[0].to_public().to_string(), keys[1].to_public().to_string()];
        let sealed = seal(&Recipients::parse(&texts).unwrap(), b"text");
        assert_eq!(open(&identities[0], &sealed).unwrap(), b"text");
        assert_eq!(open(&identities[1], &sealed).unwrap(), b"text");
        assert!(open(&identities[2], &sealed).is_err());
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            // The two stanzas are authenticated, too.
            assert!(open(&identities[0], &changed).is_err(), "byte {at}");
            assert!(open(&identities[0], &sealed[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn a_header_without_an_end_takes_no_memory() {
        let identities = Identities(vec![Box::new(age::x25519::Identity::generate())]);
        let begun = b"age-encryption.org/v1\n-> X25519 ".as_slice();
        let endless = begun.chain(io::repeat(b'A'));
        let error = identities.open(endless).err().unwrap().to_string();
        assert!(error.contains("no end"), "{error}");
    }

    #[test]
    fn a_wrong_recipient_or_identity_is_told_without_a_secret() {
        let key = age::x25519::Identity::generate();
        let secret = key.to_string().expose_secret().to_owned();
        let texts = [key.to_public().to_string(), secret.clone()];
        assert_eq!(
            Recipients::parse(&texts).err(),
            Some((Some(1), "a secret key of age, expected its public half age1…"))
        );
        assert!(Recipients::parse(&["age1nothing".to_owned()]).err().unwrap().1.contains("age-keygen"));
        assert_eq!(Recipients::parse(&[]).err().unwrap().0, None);

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("identity");
        for (content, expected) in [
            (format!("# c\n{secret}x\n"), "line 2 is no secret key of age"),
            ("# nothing\n".to_owned(), "no secret key of age in it"),
        ] {
            std::fs::write(&file, content).unwrap();
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
            let error = Identities::from_file(&file).err().unwrap();
            assert!(error.contains(expected) && !error.contains(&secret), "{error}");
        }
        std::fs::write(&file, &secret).unwrap();
        for mode in [0o640, 0o604, 0o622] {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = Identities::from_file(&file).err().unwrap();
            assert!(error.contains(&format!("its mode {mode:04o} lets others")), "{error}");
        }
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
        assert!(Identities::from_file(&file).is_ok());
    }
}
