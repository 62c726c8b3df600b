//! Outages of the store, and the offline copies that bridge them.

use std::time::{Duration, Instant};

use kms_core::{ErrorKind, KeyName, Kms};

use super::scripted::{LONG, generate, kind, request, ring, until};

#[tokio::test]
async fn offline_keys_outlast_an_idle_night_and_an_outage() {
    let short = Duration::from_millis(100);
    let config = LONG.with_any(short).with_unused(short).with_offline(Duration::from_secs(600));
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let outages = [
        ErrorKind::Unreachable,
        ErrorKind::Sealed,
        ErrorKind::NotSetUp,
        ErrorKind::Throttled,
        ErrorKind::Timeout,
    ];
    for outage in outages {
        store.fail(outage);
        tokio::time::sleep(Duration::from_millis(150)).await;
        generate(&kms, "client").await.unwrap_or_else(|error| panic!("{outage:?}: {error:?}"));
        let status = kms.status().await.expect("the service goes on");
        assert!(!status.reachable && status.degraded.is_some(), "{status:?}");
        let uncached = kms.generate(&request("client"), &KeyName::new("uncached").unwrap(), b"").await;
        assert_eq!(uncached.err().map(|e| e.kind()), Some(outage), "a key that was never read is not there");
        store.heal();
        until(|| async { kms.status().await.is_ok_and(|status| status.reachable) }).await;
    }
}

#[tokio::test]
async fn in_an_outage_only_the_first_request_waits_and_not_for_long() {
    let short = Duration::from_millis(100);
    let config = LONG.with_any(short).with_unused(short).with_offline(Duration::from_secs(600));
    let (store, kms) = ring(config).await;
    generate(&kms, "client").await.unwrap();
    tokio::time::sleep(short * 2).await;
    store.block();
    let began = Instant::now();
    generate(&kms, "client").await.unwrap();
    assert!(began.elapsed() < Duration::from_millis(1500), "the first waited {:?}", began.elapsed());
    let began = Instant::now();
    for _ in 0..10 {
        generate(&kms, "client").await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_millis(500), "ten more waited {:?}", began.elapsed());
    store.release();
}

#[tokio::test]
async fn an_answer_is_no_outage() {
    let short = Duration::from_millis(100);
    let config = LONG.with_any(short).with_unused(short).with_offline(Duration::from_secs(600));
    for answer in [ErrorKind::NotFound, ErrorKind::Disabled, ErrorKind::Denied, ErrorKind::LoginRefused] {
        let (store, kms) = ring(config).await;
        generate(&kms, "client").await.unwrap();
        store.fail(answer);
        tokio::time::sleep(short * 2).await;
        assert_eq!(kind(generate(&kms, "client").await), Some(answer));
        store.fail(ErrorKind::Unreachable);
        let after = kind(generate(&kms, "client").await);
        assert_eq!(after, Some(ErrorKind::Unreachable), "after {answer:?} there is no offline copy");
    }
}
