//! What a running server does when its store lost the anchor, or the entries of all roots.
//!
//! A standby that was behind is promoted, or an old copy is put back. The server has the store key in memory and goes on under
//! it. Another key is never made here: what this server has in memory could not be written back any more.

use std::slice::from_ref;

use super::anchor::Anchor;
use super::attempt::{Attempt, Unanchored, no_key};
use super::establish::{create_and_prove, wrap};
use super::known::Known;
use super::look::{Seen, Shown, State};
use super::root::Root;
use super::set::Roots;
use crate::error::{Error, ErrorKind, Result};
use crate::primitives::SecretBytes;

impl Roots {
    /// Gives a store without anchor the key back that this server opened.
    ///
    /// # Errors
    ///
    /// Its records open under another key, or that is not known. Nothing was written.
    pub(super) async fn anchored_again(&self, seen: &Seen, known: &Known) -> Result<Unanchored> {
        let keys = seen.keys();
        if keys.iter().any(|key| Anchor::of(key) != Anchor::of(&known.key)) {
            let why =
                format!("the store lost its anchor, and a root holds another store key: {}", seen.told());
            return Ok(Unanchored::Again(no_key(&why)));
        }
        match self.which_opens(from_ref(&known.key)).await {
            Ok((Some(_), _)) => {}
            Ok((None, count)) if count.sealed + count.unreadable == 0 => {}
            Ok((None, count)) => {
                let why = format!(
                    "the store lost its anchor, and the store key {} of this server opens none of its {} records",
                    Shown(known.key.fingerprint()),
                    count.all()
                );
                return Err(no_key(&why));
            }
            Err(error) if error.kind().is_outage() => {
                return Ok(Unanchored::Done(Attempt::pending(error, Vec::new())));
            }
            Err(error) => {
                let why =
                    format!("the store lost its anchor, and its records are not known: {}", error.chain());
                return Err(no_key(&why));
            }
        }
        if keys.is_empty() {
            let wrapped = self.wrapped_again(known).await?;
            tell(&wrapped, known);
            self.write_entries(&wrapped).await?;
        }
        let mut outcome = self.anchored_now(&known.key).await?;
        if let Unanchored::Done(attempt) = &mut outcome {
            attempt.is_new = false;
            tracing::error!(
                "the store lost its anchor, which was written back under the store key {}: look for lost keys",
                Shown(known.key.fingerprint())
            );
        }
        Ok(outcome)
    }

    /// Writes the entries of roots back, if the store has an anchor and no entry of any root is left. Returns whether it did.
    ///
    /// A removal always leaves an entry, maybe of a root that is not in the config here.
    pub(super) async fn write_entries_back(&self, seen: &Seen, known: &Known) -> Result<bool> {
        let is_in_force = seen.anchor.is_some_and(|anchor| anchor.names(&known.key));
        let is_none_left = || seen.states.iter().all(|(_, state)| matches!(state, State::NoEntry));
        if !is_in_force || !is_none_left() || self.has_entries().await.unwrap_or(true) {
            return Ok(false);
        }
        let wrapped = self.wrapped_again(known).await?;
        tell(&wrapped, known);
        for (root, content) in &wrapped {
            match create_and_prove(&*self.store, root, content, &known.key).await {
                // Another server was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                proven => proven?,
            }
        }
        Ok(!wrapped.is_empty())
    }

    /// Returns whether any root has an entry, in the config here or not.
    pub(super) async fn has_entries(&self) -> Result<bool> {
        Ok(!self.entries().await?.is_empty())
    }

    /// Has the roots that opened the store key last wrap it again, as far as they answer.
    async fn wrapped_again(&self, known: &Known) -> Result<Vec<(Root, SecretBytes)>> {
        let (mut wrapped, mut failure) = (Vec::new(), None);
        for root in self.all.iter().filter(|root| known.roots.contains(root.id())) {
            match wrap(root, &known.key).await {
                Ok(content) => wrapped.push((root.clone(), content)),
                Err(error) => failure = Some(error),
            }
        }
        if wrapped.is_empty() {
            let none = || {
                let why = "the store lost the entries of its roots, and no root opened it at the last look";
                Error::with_source(ErrorKind::Denied, "open the roots of the store", why)
            };
            return Err(failure.unwrap_or_else(none));
        }
        Ok(wrapped)
    }
}

fn tell(wrapped: &[(Root, SecretBytes)], known: &Known) {
    let ids: Vec<_> = wrapped.iter().map(|(root, _)| format!("'{}'", root.id())).collect();
    tracing::error!(
        "the store lost the entries of its roots; those of {} are written back with the store key {}",
        ids.join(", "),
        Shown(known.key.fingerprint())
    );
}
