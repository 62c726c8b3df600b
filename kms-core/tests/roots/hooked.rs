//! A mock of a way to a store on which something happens once, at a chosen step of somebody else.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use kms_core::primitives::SecretBytes;
use kms_core::roots::{Roots, WrappedOneByOne};
use kms_core::store::{EntryName, KeyStore, StoreCapabilities};
use kms_core::{ErrorKind, ListQuery, Page, Result, StoreStatus};

use super::mocks::*;

type Act = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A mock of a way on which something happens once, before or after a write.
pub struct Hooked {
    pub way: Arc<Way>,
    pub hook: Mutex<Option<(When, String, Act)>>,
    pub denies_segments: bool,
    /// An entry whose name is taken and which reads as absent: one whose last version was destroyed.
    pub destroyed: Option<&'static str>,
    /// How many such steps pass before it happens.
    pub passes: AtomicUsize,
}

#[derive(Clone, Copy, PartialEq)]
pub enum When {
    AfterCreate,
    BeforeCreate,
    BeforeDelete,
    BeforeGet,
}

impl Hooked {
    pub fn new(way: &Arc<Way>) -> Self {
        Self {
            way: Arc::clone(way),
            hook: Mutex::default(),
            denies_segments: false,
            destroyed: None,
            passes: AtomicUsize::default(),
        }
    }

    pub fn with(
        way: &Arc<Way>,
        when: When,
        name: impl fmt::Display,
        act: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { hook: Mutex::new(Some((when, name.to_string(), Box::pin(act)))), ..Self::new(way) }
    }

    async fn happen(&self, when: When, name: &EntryName) {
        let act = {
            let mut hook = self.hook.lock().unwrap();
            match hook.take() {
                Some((at, entry, act))
                    if at == when
                        && entry == name.as_str()
                        && self
                            .passes
                            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1))
                            .is_err() =>
                {
                    Some(act)
                }
                other => {
                    *hook = other;
                    None
                }
            }
        };
        if let Some(act) = act {
            act.await;
        }
    }
}

#[async_trait]
impl KeyStore for Hooked {
    fn capabilities(&self) -> StoreCapabilities {
        self.way.capabilities()
    }
    async fn create(&self, name: &EntryName, record: &SecretBytes) -> Result<()> {
        self.happen(When::BeforeCreate, name).await;
        if self.destroyed == Some(name.as_str()) {
            return Err(kms_core::Error::new(ErrorKind::AlreadyExists, format!("create {name}")));
        }
        let created = self.way.create(name, record).await;
        self.happen(When::AfterCreate, name).await;
        created
    }
    async fn get(&self, name: &EntryName) -> Result<SecretBytes> {
        self.happen(When::BeforeGet, name).await;
        self.way.get(name).await
    }
    async fn delete(&self, name: &EntryName) -> Result<()> {
        self.happen(When::BeforeDelete, name).await;
        self.way.delete(name).await
    }
    async fn list(&self, query: &ListQuery<'_>) -> Result<Page> {
        self.way.list(query).await
    }
    async fn segments(&self, directory: &str) -> Result<Vec<String>> {
        if self.denies_segments {
            return Err(kms_core::Error::new(ErrorKind::Denied, format!("list {directory}")));
        }
        self.way.segments(directory).await
    }
    async fn status(&self) -> Result<StoreStatus> {
        self.way.status().await
    }
    fn freed_by(&self, name: &EntryName) -> Option<String> {
        Some(format!("free {name}"))
    }
}

pub fn over(store: Hooked, all: &[(&str, &Arc<Elsewhere>)]) -> Roots {
    let set: Vec<_> = all.iter().map(|(id, wrapper)| root(id, wrapper)).collect();
    let form = Arc::new(WrappedOneByOne::new(&set));
    Roots::new(Arc::new(store), set, form).unwrap()
}
