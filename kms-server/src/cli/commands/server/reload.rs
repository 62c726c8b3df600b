//! Reloads of the configuration and of the certificate's files, while a server runs.

use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::Signal;
use tokio::time::MissedTickBehavior;

use super::start::Start;
use crate::cli::failure::Failure;
use crate::server::reload::Reloader;

/// The time between two looks at the certificate's files.
const CERTIFICATES_CHECKED: Duration = Duration::from_secs(2);

/// Reloads the configuration at each signal. A signal that comes during a reload causes another one.
pub async fn reload_at(mut hangup: Signal, reloader: Reloader, start: Arc<Start>) {
    while hangup.recv().await.is_some() {
        let start = Arc::clone(&start);
        let loaded = tokio::task::spawn_blocking(move || start.load()).await;
        let outcome = match loaded {
            Ok(Ok((settings, origins))) => {
                reloader.reload(settings).await.map_err(|error| origins.place(error).into())
            }
            Ok(Err(failure)) => Err(failure),
            Err(error) => Err(Failure::new(format!("it was cut off: {error}"))),
        };
        match outcome {
            Ok(later) if later.is_empty() => tracing::info!("the configuration was loaded again"),
            Ok(later) => tracing::warn!(
                "the configuration was loaded again; changes of these take effect at the next start: {}",
                later.join(", ")
            ),
            Err(failure) => {
                tracing::error!("the configuration was not loaded, the old one stays in force: {failure}");
            }
        }
    }
}

/// Reloads the files of the certificate when they have changed.
pub async fn look_at_certificates(reloader: Reloader) {
    let mut interval = tokio::time::interval(CERTIFICATES_CHECKED);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        match reloader.reload_certificates().await {
            Some(Ok(())) => tracing::info!("the certificate files have changed and were loaded"),
            Some(Err(error)) => tracing::error!(
                "the certificate files have changed and cannot be used, the old ones stay in force: {error}"
            ),
            None => {}
        }
    }
}
