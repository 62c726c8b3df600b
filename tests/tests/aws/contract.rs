//! The contract suite with and without reuse of working keys.

use std::time::Duration;

use kms_core::contract;
use kms_tests::localstack::Aws;

#[tokio::test(flavor = "multi_thread")]
async fn aws_kms_keeps_the_contract() {
    let aws = Aws::start().await;
    contract::kms(aws.open().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_kms_deletes_and_restores_in_any_order() {
    let aws = Aws::start().await;
    // What a service deleted it believes for five minutes, whatever AWS shows of a restore elsewhere.
    let uncached = aws.open_with(|config| config.any = Duration::ZERO).await;
    contract::deletions(uncached.clone(), uncached).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_kms_keeps_the_contract_when_it_is_asked_for_each_key() {
    let aws = Aws::start().await;
    contract::kms(aws.open_with(|config| config.reuse.max_age = Duration::ZERO).await).await;
}
