//! What a name stands for, as AWS said when it was asked.

use std::sync::Arc;

use aws_sdk_kms::types::{KeyMetadata, KeySpec, KeyState, KeyUsageType};
use jiff::Timestamp;
use kms_core::{Error, ErrorKind, KeyName, Result};

use super::cmk::Cmk;
use super::lifecycle::timestamp;

/// A CMK with the state in which AWS showed it.
pub struct View {
    pub cmk: Arc<Cmk>,
    pub state: KeyState,
    /// A CMK that is pending deletion can be restored until then.
    until: Option<Timestamp>,
    /// The kind of a CMK that cannot wrap keys.
    foreign: Option<String>,
}

impl View {
    /// Takes in what AWS says. A CMK that is `known` already keeps what is cached of it.
    pub fn new(name: &KeyName, metadata: &KeyMetadata, known: Option<&Arc<Cmk>>) -> Self {
        let cmk = match known {
            Some(known) if known.id == metadata.key_id() => Arc::clone(known),
            _ => Arc::new(Cmk::new(name, metadata)),
        };
        let state = match metadata.key_state() {
            Some(state) => state.clone(),
            None if metadata.enabled() => KeyState::Enabled,
            None => KeyState::Disabled,
        };
        // One of another kind was made by hand, or the alias was moved to it.
        let is_ours = metadata.key_spec().is_none_or(|spec| *spec == KeySpec::SymmetricDefault)
            && metadata.key_usage().is_none_or(|usage| *usage == KeyUsageType::EncryptDecrypt);
        let foreign = (!is_ours).then(|| {
            let spec = metadata.key_spec().map_or("", KeySpec::as_str);
            format!("{spec} {}", metadata.key_usage().map_or("", KeyUsageType::as_str)).trim().to_owned()
        });
        Self { cmk, state, until: timestamp(metadata.deletion_date()), foreign }
    }

    /// Creates the view of a CMK that is scheduled for deletion.
    pub fn pending(cmk: Arc<Cmk>, until: Option<Timestamp>) -> Self {
        Self { cmk, state: KeyState::PendingDeletion, until, foreign: None }
    }

    /// Returns when AWS erases a CMK that is pending deletion.
    pub fn until(&self) -> Option<Timestamp> {
        self.until
    }

    /// Returns whether the CMK is pending deletion.
    pub fn is_pending(&self) -> bool {
        self.state == KeyState::PendingDeletion || self.cmk.is_deleted()
    }

    /// Returns the CMK; fails with `Disabled` or `Deleted` if it cannot be used.
    pub fn usable(&self) -> Result<&Arc<Cmk>> {
        match self.unusable() {
            None => Ok(&self.cmk),
            Some(why) => {
                let kind = if self.is_pending() { ErrorKind::Deleted } else { ErrorKind::Disabled };
                Err(Error::with_source(kind, format!("use key '{}'", self.cmk.name), why))
            }
        }
    }

    /// Returns why the CMK cannot be used, and what helps; `None` if it can be used.
    pub fn unusable(&self) -> Option<String> {
        let (arn, id) = (&self.cmk.arn, &self.cmk.id);
        if self.is_pending() {
            let until =
                self.until.map(|until| format!(", which erases it after {until}")).unwrap_or_default();
            return Some(format!(
                "the CMK {arn} is pending deletion in AWS KMS{until}; what restores it until then is \
                 'aws kms cancel-key-deletion --key-id {id}' and 'aws kms enable-key --key-id {id}'"
            ));
        }
        if let Some(foreign) = &self.foreign {
            return Some(format!("the alias stands for the CMK {arn}, which is of another kind ({foreign})"));
        }
        match &self.state {
            KeyState::Enabled => None,
            KeyState::Disabled => Some(format!(
                "the CMK {arn} is disabled in AWS KMS; what enables it is 'aws kms enable-key --key-id {id}'"
            )),
            state => {
                Some(format!("the CMK {arn} cannot be used in its state in AWS KMS ({})", state.as_str()))
            }
        }
    }
}
