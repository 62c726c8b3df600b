//! Escrow: each key is also sealed to offline recipients, in a file that this server can write and cannot open.
//!
//! [`open`] puts [`Escrowed`] around a key store. `store` is what that store does, and `removal` its deletions and restores. `fill` adds what the file lacks, and `replaced` settles which of two keys of one name is current. `line` is the format of the file, `contents` reads it, `lives` says what
//! became of each entry, and `plan` what a restore would bring back. `writer` is the one thread that writes, through `file`.

mod contents;
mod escrowed;
mod file;
mod fill;
mod known;
mod line;
mod lives;
mod plan;
mod removal;
mod replaced;
mod seal;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::path::Path;
use std::sync::Arc;

use kms_core::store::KeyStore;

pub use self::contents::{Contents, Flaw, FlawKind};
pub use self::escrowed::{Escrowed, NoEscrow};
use self::file::EscrowFile;
use self::fill::{Named, Pace};
use self::known::Known;
pub use self::line::{Subject, VERSION as FORMAT};
pub use self::lives::{Held, State, held};
pub use self::plan::{Choice, Opened, Plan, Subjects, open as open_record};
pub use self::seal::{subject, tell_apart};
use self::writer::{Health, Writer};
use crate::error::StartError;
use crate::host::files;
use crate::host::mounts;
use crate::recipients::Recipients;
use crate::settings::EscrowSettings;

/// The figures of an escrow file.
pub struct Figures {
    known: Arc<Known>,
    health: Arc<Health>,
}

impl Figures {
    /// Returns the number of keys of which the file lacks something, as far as that is known.
    pub fn missing(&self) -> usize {
        self.known.count_lacking()
    }

    /// Returns the number of names of the store under which several keys live by the file, so that a restore takes none unasked.
    pub fn ambiguous(&self) -> usize {
        self.known.count_ambiguous()
    }

    /// Returns whether the whole store was compared with the file since the start, each key could be read, and a restore would take
    /// it unasked.
    pub fn is_complete(&self) -> bool {
        self.known.is_complete()
    }

    /// Returns whether the file can be written.
    pub fn is_writable(&self) -> bool {
        self.health.failure().is_none()
    }
}

/// Puts a store into escrow, and begins to add what the file lacks.
///
/// Needs a tokio runtime, on which it does that.
///
/// # Errors
///
/// A line that names the setting: a recipient is none, or the file cannot be opened, written or locked, or is no escrow
/// file.
pub fn open(
    settings: &EscrowSettings,
    store: Arc<dyn KeyStore>,
) -> Result<(Arc<Escrowed>, Figures), StartError> {
    open_at(settings, store, Pace::default())
}

fn open_at(
    settings: &EscrowSettings,
    store: Arc<dyn KeyStore>,
    pace: Pace,
) -> Result<(Arc<Escrowed>, Figures), StartError> {
    let EscrowSettings { recipients, path, on_failure } = settings;
    let recipients = Recipients::parse(recipients).map_err(|(index, why)| {
        let index = index.map(|index| format!("[{index}]")).unwrap_or_default();
        StartError::new(format!("escrow.recipients{index}: {why}"))
    })?;
    refuse_no_directory(path)?;
    let failed =
        |error| StartError::with_source(format!("escrow.path: {}", files::failed(path, &error)), error);
    let (file, contents, is_new) = EscrowFile::open(path).map_err(failed)?;
    if is_new {
        tracing::warn!(path = %path.display(), "escrow: there was no such file: a new one was made");
    }
    if mounts::is_in_layer(path) {
        tracing::warn!(
            path = %path.display(),
            "escrow: the file lies on the container's own layer, and ends with the container: put it on a volume"
        );
    }
    for flaw in contents.flaws.iter().filter(|flaw| flaw.kind != FlawKind::Torn) {
        tracing::warn!(path = %path.display(), "escrow: {}{}", flaw.what, match flaw.kind {
            FlawKind::AtTheEnd => "; if a power cut or a kill left it, it was not acknowledged",
            FlawKind::Damage | FlawKind::Torn => "",
        });
    }
    let writer = Writer::start(file, &contents).map_err(failed)?;
    let held = held(vec![contents]);
    let (known, named) = (Arc::new(Known::new(&held)), Named::new(&held));
    let figures = Figures { known: Arc::clone(&known), health: Arc::clone(&writer.health) };
    let escrowed = Arc::new_cyclic(|this| Escrowed {
        this: this.clone(),
        inner: store,
        writer,
        recipients,
        on_failure: *on_failure,
        known,
    });
    tokio::spawn(fill::run(Arc::downgrade(&escrowed), named, pace));
    Ok((escrowed, figures))
}

fn refuse_no_directory(path: &Path) -> Result<(), StartError> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    match parent.map(|parent| (parent, parent.is_dir())) {
        Some((parent, false)) => Err(StartError::new(format!(
            "escrow.path: {}: there is no directory {}: is the volume mounted?",
            path.display(),
            parent.display()
        ))),
        _ => Ok(()),
    }
}
