//! Model checks of the key ring: shuttle runs each of them under thousands of schedules, and switches tasks before
//! every operation of a shared primitive.
//!
//! `KMS_MODEL_RUNS` says how many schedules each model gets, half of them random and half with few switches.

mod cache;
mod fixtures;
mod gate;
mod losses;
mod single_flight;
mod slot;
mod store;

use std::env;
use std::sync::Arc;

use shuttle::future::block_on;

use self::fixtures::name;
use self::store::Store;
use super::{CacheConfig, KeyRing};
use crate::error::Result;
use crate::identity::Request;
use crate::primitives::Fingerprint;

/// Switches in a schedule with few of them.
const SWITCHES: [usize; 2] = [3, 6];

/// Runs a model under many schedules.
fn check<F: Future<Output = ()>>(model: impl Fn() -> F + Send + Sync + 'static) {
    let runs = env::var("KMS_MODEL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(10_000);
    let model = Arc::new(model);
    for switches in SWITCHES {
        let model = Arc::clone(&model);
        shuttle::check_pct(move || block_on(model()), runs / 4, switches);
    }
    shuttle::check_random(move || block_on(model()), runs / 2);
}

type Ring = Arc<KeyRing<Arc<Store>>>;

fn ring(config: CacheConfig) -> (Ring, Arc<Store>) {
    over(Store::default(), config)
}

fn over(store: Store, config: CacheConfig) -> (Ring, Arc<Store>) {
    let store = Arc::new(store);
    (Arc::new(KeyRing::new(Arc::clone(&store), config)), store)
}

impl KeyRing<Arc<Store>> {
    /// Returns the fingerprint of the key that a client would be served with now.
    async fn served(&self, request: &Request) -> Result<Fingerprint> {
        self.cache.key(request, &name()).await.map(|key| *key.fingerprint())
    }
}
