//! Whom AWS takes us for: the first step of each check.

use kms_core::store::Findings;
use kms_core::{Error, Result};

use crate::client::Connected;
use crate::error::Failure;

/// The outcome of one look, or the problem that ends the check: what was looked at, and why it failed.
pub type Look<T> = std::result::Result<T, (&'static str, Error)>;

/// Asks AWS whom it takes us for, and adds the answer to the findings.
pub async fn look(connected: &Connected, findings: &mut Findings) -> Look<()> {
    let region = connected.sdk.region().map(ToString::to_string).unwrap_or_default();
    match arn_of(connected).await {
        Ok(caller) => findings.good("identity", format!("{caller} in {region}")),
        // Inside of a private network there may be no way to STS.
        Err(error) if error.kind().is_outage() => findings.warn("identity", error.chain().to_string()),
        Err(error) => return Err(("identity", error)),
    }
    Ok(())
}

/// Asks AWS who we are, and returns the ARN.
///
/// An endpoint of AWS's own is that of one service, and STS has another; an emulator has one for all.
async fn arn_of(connected: &Connected) -> Result<String> {
    let config = &connected.sdk;
    let mut builder = aws_sdk_sts::config::Builder::from(config);
    if config.endpoint_url().is_some_and(|endpoint| endpoint.contains(".amazonaws.com")) {
        builder.set_endpoint_url(None);
    }
    let sts = aws_sdk_sts::Client::from_conf(builder.build());
    let answer = sts.get_caller_identity().send().await;
    let answer = answer.map_err(|error| {
        let failure = Failure::new(&error);
        let failure = if failure.is_refused_login() { connected.login.refused(failure) } else { failure };
        failure.into_error("ask AWS who we are")
    })?;
    Ok(answer.arn.unwrap_or_default())
}
