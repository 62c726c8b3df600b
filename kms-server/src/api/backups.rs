//! To whom a server seals its backups, and whether it makes one.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwapOption;

use crate::backup::evidence;
use crate::error::StartError;
use crate::recipients::Recipients;
use crate::settings::BackupSettings;

/// The backups of a server: to whom they are sealed, and whether one is under way.
#[derive(Default)]
pub struct Backups {
    target: ArcSwapOption<BackupTarget>,
    is_running: Arc<AtomicBool>,
}

/// The section `backup` of a configuration, in force.
pub struct BackupTarget {
    recipients: Option<Arc<Recipients>>,
    settings: BackupSettings,
}

impl BackupTarget {
    /// Parses the recipients.
    pub fn of(settings: &BackupSettings) -> Result<Self, StartError> {
        let recipients = match settings.recipients.as_slice() {
            [] => None,
            texts => Some(Recipients::parse(texts).map(Arc::new).map_err(|(at, why)| {
                let at = at.map_or_else(String::new, |at| format!(".{at}"));
                StartError::new(format!("backup.recipients{at}: {why}"))
            })?),
        };
        Ok(Self { recipients, settings: settings.clone() })
    }
}

impl Backups {
    /// Puts another section in force, for further backups.
    pub fn set(&self, target: BackupTarget) {
        self.target.store(Some(Arc::new(target)));
    }

    /// Returns how old the last good drill is, and how old the archive was made that it restored, in seconds: infinitely if
    /// there was none, or none that can be read. `None` if no file for it is configured.
    pub fn drill_ages(&self) -> Option<[f64; 2]> {
        let target = self.target.load();
        let file = target.as_ref()?.settings.drill_evidence.as_deref()?;
        let ages = evidence::last_good(file).ages();
        // A second is exact enough, and so is every age below some hundred million years.
        #[expect(clippy::cast_precision_loss, reason = "see above")]
        Some(ages.map(|age| age.map_or(f64::INFINITY, |age| age as f64)))
    }

    /// Returns those who can open a backup; `None` if there is nobody.
    pub fn recipients(&self) -> Option<Arc<Recipients>> {
        self.target.load().as_ref()?.recipients.clone()
    }

    /// Begins a backup, unless one is under way.
    pub fn begin(&self) -> Option<TheOnly> {
        let is_free = !self.is_running.swap(true, Ordering::AcqRel);
        is_free.then(|| TheOnly(Arc::clone(&self.is_running)))
    }
}

/// The backup that is under way, until this is dropped.
pub struct TheOnly(Arc<AtomicBool>);

impl Drop for TheOnly {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
