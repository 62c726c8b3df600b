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
async fn aws_kms_keeps_the_contract_when_it_is_asked_for_each_key() {
    let aws = Aws::start().await;
    contract::kms(aws.open_with(|config| config.reuse.max_age = Duration::ZERO).await).await;
}
