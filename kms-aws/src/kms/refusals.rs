//! A limit on what AWS refuses: by identity and key, so that no other client pays for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use kms_core::{ErrorKind, Identity, KeyName, Result};

/// Refusals a second.
const RATE: f64 = 10.0;
/// Refusals at once.
const BURST: f64 = 100.0;
/// The most buckets. Buckets that are full again are forgotten first, then the fullest ones.
const MANY: usize = 10_000;

/// Holds a bucket of tokens for each identity and key.
#[derive(Default)]
pub struct RefusalLimit {
    buckets: Mutex<HashMap<(Identity, KeyName), Bucket>>,
}

struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn refill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.tokens = (self.tokens + passed * RATE).min(BURST);
        self.at = now;
    }
}

impl RefusalLimit {
    /// Takes a token before a call to AWS; `None` if there is none.
    pub fn token(self: &Arc<Self>, identity: Identity, name: &KeyName) -> Option<Token> {
        let limit = Arc::clone(self);
        self.take(identity, name).then(|| Token { limit, identity, name: name.clone(), is_spent: false })
    }

    fn take(&self, identity: Identity, name: &KeyName) -> bool {
        let now = Instant::now();
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= MANY {
            make_room(&mut buckets, now);
        }
        let bucket = buckets.entry((identity, name.clone())).or_insert(Bucket { tokens: BURST, at: now });
        bucket.refill(now);
        let has = bucket.tokens >= 1.0;
        if has {
            bucket.tokens -= 1.0;
        }
        has
    }

    fn give_back(&self, identity: Identity, name: &KeyName) {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(bucket) = buckets.get_mut(&(identity, name.clone())) {
            bucket.tokens = (bucket.tokens + 1.0).min(BURST);
        }
    }
}

/// Makes room for a quarter of the buckets at least, so that the next buckets find room too.
fn make_room(buckets: &mut HashMap<(Identity, KeyName), Bucket>, now: Instant) {
    let mut tokens: Vec<f64> = buckets
        .values_mut()
        .map(|bucket| {
            bucket.refill(now);
            bucket.tokens
        })
        .collect();
    let rest = tokens.len().min(MANY / 4 * 3).saturating_sub(1);
    let (_, least, _) = tokens.select_nth_unstable_by(rest, f64::total_cmp);
    let (least, mut room) = (*least, tokens.len().saturating_sub(MANY / 4 * 3));
    buckets.retain(|_, bucket| {
        let goes = bucket.tokens >= BURST || (bucket.tokens >= least && room > 0);
        room = room.saturating_sub(usize::from(goes));
        !goes
    });
}

/// A token. It goes back when it is dropped without having been spent.
pub struct Token {
    limit: Arc<RefusalLimit>,
    identity: Identity,
    name: KeyName,
    is_spent: bool,
}

impl Token {
    /// Ends a call to AWS. The token is spent if AWS called the ciphertext inauthentic, and goes back otherwise.
    pub fn settle<T>(mut self, outcome: &Result<T>) {
        self.is_spent = outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::NotAuthentic);
    }
}

impl Drop for Token {
    fn drop(&mut self) {
        if !self.is_spent {
            self.limit.give_back(self.identity, &self.name);
        }
    }
}

#[cfg(test)]
mod tests {
    use kms_core::Error;

    use super::*;

    #[test]
    fn a_burst_ends_and_others_do_not_notice() {
        let limit = Arc::new(RefusalLimit::default());
        let (bad, good) = (Identity::of_public_key(b"bad"), Identity::of_public_key(b"good"));
        let (name, other) = (KeyName::new("a").unwrap(), KeyName::new("b").unwrap());
        let passed = (0..300).filter(|_| limit.take(bad, &name)).count();
        assert!((100..120).contains(&passed), "{passed}");
        assert!(limit.take(good, &name) && limit.take(bad, &other));
        limit.give_back(bad, &name);
        let refused: Result<()> = Err(Error::new(ErrorKind::NotAuthentic, "open"));
        limit.token(bad, &name).unwrap().settle(&refused);
        drop(limit.token(bad, &other).unwrap());
        assert!(limit.token(bad, &name).is_none(), "it was spent");
    }

    #[test]
    fn there_are_never_more_buckets_than_the_bound_and_the_emptiest_stay() {
        let limit = Arc::new(RefusalLimit::default());
        let identity = Identity::of_public_key(b"bad");
        let spent = KeyName::new("spent").unwrap();
        while limit.take(identity, &spent) {}
        for n in 0..MANY + MANY / 2 {
            assert!(limit.take(identity, &KeyName::new(format!("key-{n}")).unwrap()));
        }
        let buckets = limit.buckets.lock().unwrap();
        assert!(buckets.len() <= MANY, "{}", buckets.len());
        assert!(buckets.contains_key(&(identity, spent)));
    }
}
