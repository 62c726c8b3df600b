//! Asks the key store for its status, once for all who want to know.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_core::{Error, ErrorKind, Kms, Result, StoreStatus};
use tokio::sync::watch;

/// How long an answer of the key store is reused.
const KEPT: Duration = Duration::from_secs(1);

/// Asks the key store for its status, one question at a time.
///
/// Everybody who asks meanwhile waits for the same answer. So clients that ask often, or all at once, cost the key store
/// at most one request a second.
pub struct SharedStatus {
    kms: Arc<dyn Kms>,
    latest: Mutex<Option<Question>>,
}

/// A question to the key store. Its value is `None` until the answer comes.
type Question = watch::Receiver<Option<Reply>>;

#[derive(Clone)]
struct Reply {
    status: Result<StoreStatus>,
    came: Instant,
}

impl SharedStatus {
    /// Creates the status of the store of `kms`, which is asked on demand.
    pub fn new(kms: Arc<dyn Kms>) -> Self {
        Self { kms, latest: Mutex::default() }
    }

    /// Returns the status of the key store, which is less than a second old.
    ///
    /// Waits for as long as the key store takes. A caller with less time may give up, and the question continues.
    pub async fn ask(&self) -> Result<StoreStatus> {
        let mut question = self.question();
        let answer = question.wait_for(Option::is_some).await;
        answer.ok().and_then(|answer| answer.as_ref().map(|answer| answer.status.clone())).unwrap_or_else(
            || Err(Error::with_source(ErrorKind::Internal, "ask the key store how it is", "it was ended")),
        )
    }

    /// Returns the current question, or begins one.
    fn question(&self) -> Question {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(question) = latest.as_ref().filter(|question| is_of_use(question)) {
            return question.clone();
        }
        let (sender, question) = watch::channel(None);
        let kms = Arc::clone(&self.kms);
        tokio::spawn(async move {
            let status = kms.status().await;
            if let Err(error) = &status {
                tracing::error!(error = error.as_dyn(), "key store is not ready");
            }
            sender.send_replace(Some(Reply { status, came: Instant::now() }));
        });
        *latest = Some(question.clone());
        question
    }
}

/// Returns whether the answer is still to come, or is recent enough.
fn is_of_use(question: &Question) -> bool {
    let is_under_way = question.has_changed().is_ok();
    question.borrow().as_ref().map_or(is_under_way, |answer| answer.came.elapsed() < KEPT)
}
