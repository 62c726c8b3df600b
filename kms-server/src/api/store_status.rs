//! One question to the key store about its health, for all who ask.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use kms_core::{Error, ErrorKind, Kms, Result, StoreStatus};
use tokio::sync::watch;

/// How long an answer of the key store is told to whoever asks.
const KEPT: Duration = Duration::from_secs(1);

/// Asks the key store how it is, one question at a time.
///
/// Whoever asks while a question is under way waits for its answer, so clients that ask often, or all at once, cost the
/// key store one request a second at most.
pub struct SharedStatus {
    kms: Arc<dyn Kms>,
    latest: Mutex<Option<Question>>,
}

/// A question to the key store: `None` until the answer is there.
type Question = watch::Receiver<Option<Answer>>;

#[derive(Clone)]
struct Answer {
    status: Result<StoreStatus>,
    came: Instant,
}

impl SharedStatus {
    /// Asks the store of `kms`, when somebody wants to know.
    pub fn new(kms: Arc<dyn Kms>) -> Self {
        Self { kms, latest: Mutex::default() }
    }

    /// Tells how the key store is, or was less than a second ago.
    ///
    /// Waits for as long as the key store takes to answer; whoever has less time gives up, and the question goes on.
    pub async fn ask(&self) -> Result<StoreStatus> {
        let mut question = self.question();
        let answer = question.wait_for(Option::is_some).await;
        answer.ok().and_then(|answer| answer.as_ref().map(|answer| answer.status.clone())).unwrap_or_else(
            || Err(Error::with_source(ErrorKind::Internal, "ask the key store how it is", "it was ended")),
        )
    }

    /// Returns the question whose answer is to be told, which begins now if there is none.
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
                tracing::error!(error = %error.chain(), "key store is not ready");
            }
            sender.send_replace(Some(Answer { status, came: Instant::now() }));
        });
        *latest = Some(question.clone());
        question
    }
}

/// Tells whether the answer is under way, or young enough.
fn is_of_use(question: &Question) -> bool {
    let is_under_way = question.has_changed().is_ok();
    question.borrow().as_ref().map_or(is_under_way, |answer| answer.came.elapsed() < KEPT)
}
