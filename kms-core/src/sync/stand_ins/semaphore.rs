//! Stand-in of tokio's semaphore.

use std::sync::Arc;

use shuttle::future::batch_semaphore::{AcquireError, BatchSemaphore, Fairness, TryAcquireError};

pub struct Semaphore(BatchSemaphore);

pub struct OwnedSemaphorePermit(Arc<Semaphore>);

impl Semaphore {
    pub fn new(permits: usize) -> Self {
        Self(BatchSemaphore::new(permits, Fairness::StrictlyFair))
    }

    pub async fn acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, AcquireError> {
        self.0.acquire(1).await?;
        Ok(OwnedSemaphorePermit(self))
    }

    pub fn try_acquire_owned(self: Arc<Self>) -> Result<OwnedSemaphorePermit, TryAcquireError> {
        self.0.try_acquire(1)?;
        Ok(OwnedSemaphorePermit(self))
    }
}

impl Drop for OwnedSemaphorePermit {
    fn drop(&mut self) {
        self.0.0.release(1);
    }
}
