//! Keys in AWS KMS, and how often the server calls AWS for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_aws::{AwsKms, Level};
use kms_core::{ErrorKind, Identity, KeyName, Kms, ListQuery, Request};
use kms_tests::localstack::{Aws, Fault};
use kms_tests::programs::until;
use serde_json::json;

pub fn request() -> Request {
    request_of("test")
}

fn request_of(who: &str) -> Request {
    Request::new(Identity::of_public_key(who.as_bytes()), Duration::from_secs(15))
}

pub fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

pub fn kind<T>(outcome: kms_core::Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|error| error.kind())
}

pub fn count(seen: &[(String, serde_json::Value)], operation: &str) -> usize {
    seen.iter().filter(|(name, _)| name == operation).count()
}

#[tokio::test]
async fn what_memory_served_and_what_aws_was_asked_is_counted() {
    let aws = Aws::start().await;
    let kms = aws.open().await;
    kms.create(&request(), &key("counted")).await.unwrap();
    for _ in 0..10 {
        kms.generate(&request(), &key("counted"), b"").await.unwrap();
    }
    assert_eq!(kind(kms.generate(&request(), &key("absent"), b"").await), Some(ErrorKind::NotFound));
    let counted = kms.counters().unwrap();
    assert_eq!((counted.hits, counted.misses, counted.offline_hits), (10, 1, 0), "{counted:?}");
    assert!(counted.reads >= 2 && counted.failed_reads == 0, "{counted:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_objects_cost_one_call_for_each_working_key_and_server() {
    let aws = Aws::start().await;
    let (first, second) = (aws.open().await, aws.open().await);
    let name = key("shared");
    first.create(&request(), &name).await.unwrap();
    aws.take_seen();
    let tasks: Vec<_> = (0..16)
        .map(|task| {
            let (name, one, other) = if task % 2 == 0 {
                (name.clone(), Arc::clone(&first), Arc::clone(&second))
            } else {
                (name.clone(), Arc::clone(&second), Arc::clone(&first))
            };
            tokio::spawn(async move {
                for object in 0..6250 {
                    let context = format!("bucket/{task}/{object}");
                    let dek = one.generate(&request(), &name, context.as_bytes()).await.unwrap();
                    let opened =
                        other.decrypt(&request(), &name, &dek.ciphertext, context.as_bytes()).await.unwrap();
                    assert!(opened.expose() == dek.plaintext.expose());
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.unwrap();
    }
    let seen = aws.take_seen();
    assert_eq!(count(&seen, "GenerateDataKey"), 2, "one on each server");
    assert_eq!(count(&seen, "Decrypt"), 2, "one for the other's working key on each server");
    assert_eq!(count(&seen, "DescribeKey"), 1, "the second looks the alias up, the first made it");
    for (operation, parameters) in &seen {
        if operation != "DescribeKey" {
            assert_eq!(parameters["EncryptionContext"], json!({"kms:name": "shared"}), "{operation}");
            assert!(parameters["KeyId"].is_string(), "{operation} names the CMK");
        }
    }
}

/// The creator of a key is in its tags. A separate call reads them.
#[tokio::test(flavor = "multi_thread")]
async fn reading_tags_is_bounded_as_other_calls_are() {
    let aws = Aws::start().await;
    let maker = aws.open().await;
    let names: Vec<_> = (0..24).map(|n| key(&format!("tagged-{n}"))).collect();
    for name in &names {
        maker.create(&request(), name).await.unwrap();
    }
    let kms = aws.open().await;
    aws.take_seen();
    aws.fail_if(|operation, _| if operation == "ListResourceTags" { Fault::Drop } else { Fault::None });
    let describe = |name: &KeyName| {
        let (kms, name) = (Arc::clone(&kms), name.clone());
        tokio::spawn(async move { kms.describe(&request(), &name).await })
    };
    let describing: Vec<_> = names.iter().map(describe).collect();
    let mut asked = 0;
    until("the tags are asked for", async || count(&aws.seen(), "ListResourceTags") >= 16).await;
    // Clients that leave do not make room for others while their calls are under way.
    for leaving in describing {
        asked = asked.max(count(&aws.seen(), "ListResourceTags"));
        leaving.abort();
    }
    let again: Vec<_> = names.iter().map(describe).collect();
    tokio::time::sleep(Duration::from_millis(500)).await;
    asked = asked.max(count(&aws.seen(), "ListResourceTags"));
    assert_eq!(asked, 16, "calls of one identity at once");
    aws.fail(Fault::None);
    for describing in again {
        describing.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_working_key_ends_by_age_and_by_uses() {
    let aws = Aws::start().await;
    let kms = aws.open_with(|config| config.reuse.max_uses = 3).await;
    kms.create(&request(), &key("worn")).await.unwrap();
    for _ in 0..9 {
        kms.generate(&request(), &key("worn"), b"").await.unwrap();
    }
    assert_eq!(count(&aws.take_seen(), "GenerateDataKey"), 3, "three seals each");

    let kms = aws.open_with(|config| config.reuse.max_age = Duration::from_millis(500)).await;
    let dek = kms.generate(&request(), &key("worn"), b"").await.unwrap();
    until("the working key is another", async || {
        let other = kms.generate(&request(), &key("worn"), b"").await.unwrap();
        other.ciphertext[..100] != dek.ciphertext[..100]
    })
    .await;
}

/// The server gets the next working key before this one ends, and seals with it only afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_is_one_working_key_in_each_max_age() {
    let aws = Aws::start().await;
    let max_age = Duration::from_millis(1500);
    let kms = aws.open_with(|config| config.reuse.max_age = max_age).await;
    kms.create(&request(), &key("busy")).await.unwrap();
    kms.generate(&request(), &key("busy"), b"").await.unwrap();
    aws.take_seen();
    let began = Instant::now();
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let kms = Arc::clone(&kms);
            tokio::spawn(async move {
                while began.elapsed() < max_age * 6 {
                    kms.generate(&request(), &key("busy"), b"").await.unwrap();
                    tokio::time::sleep(Duration::from_micros(500)).await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    let fetched = count(&aws.take_seen(), "GenerateDataKey");
    assert!((4..=6).contains(&fetched), "{fetched} working keys in six times max_age");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_server_opens_what_another_sealed() {
    let aws = Aws::start().await;
    for max_age in [Duration::ZERO, Duration::from_secs(300)] {
        let name = key(&format!("age-{}", max_age.as_secs()));
        let maker = aws.open_with(|config| config.reuse.max_age = max_age).await;
        maker.create(&request(), &name).await.unwrap();
        let dek = maker.generate(&request(), &name, b"c").await.unwrap();
        drop(maker);
        // The settings of the reader do not matter.
        for reader in [aws.open().await, aws.open_with(|config| config.reuse.max_age = Duration::ZERO).await]
        {
            let opened = reader.decrypt(&request(), &name, &dek.ciphertext, b"c").await.unwrap();
            assert!(opened.expose() == dek.plaintext.expose());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_changed_byte_opens_and_others_do_not_pay_for_it() {
    let aws = Aws::start().await;
    let kms = aws.open().await;
    let (name, other) = (key("target"), key("bystander"));
    kms.create(&request(), &name).await.unwrap();
    kms.create(&request(), &other).await.unwrap();
    let dek = kms.generate(&request(), &name, b"c").await.unwrap();
    let good = kms.generate(&request(), &other, b"c").await.unwrap();
    // The blob of one key in memory does not open under the name of the other key. Nor does it on a server
    // that has neither blob.
    for server in [Arc::clone(&kms), aws.open().await] {
        for (name, ciphertext, context) in [
            (&name, &dek.ciphertext, b"other".as_slice()),
            (&other, &dek.ciphertext, b"c"),
            (&name, &good.ciphertext, b"c"),
        ] {
            let outcome = server.decrypt(&request(), name, ciphertext, context).await;
            assert_eq!(kind(outcome), Some(ErrorKind::NotAuthentic));
        }
    }
    // Any changed byte gives 400 within the limit and 503 beyond it, and never a plaintext.
    let bad = request_of("bad");
    let (mut refused, mut limited) = (0, 0);
    // All attempts run at once, so that they reach the limit however slow LocalStack is.
    let attempts: Vec<_> = (0..dek.ciphertext.len())
        .map(|place| {
            let (kms, name, mut changed) = (Arc::clone(&kms), name.clone(), dek.ciphertext.clone());
            changed[place] ^= 0x20;
            let bad = Request::new(bad.identity, Duration::from_secs(15));
            tokio::spawn(async move { kind(kms.decrypt(&bad, &name, &changed, b"c").await) })
        })
        .collect();
    for (place, attempt) in attempts.into_iter().enumerate() {
        match attempt.await.unwrap() {
            Some(ErrorKind::NotAuthentic) => refused += 1,
            Some(ErrorKind::Throttled) => limited += 1,
            outcome => panic!("byte {place}: {outcome:?}"),
        }
    }
    assert!(refused >= 100 && limited > 0, "{refused} refused, {limited} limited");
    // The bad client still gets what is in memory, and other keys. Good clients get this key too.
    let bad = Request::new(bad.identity, Duration::from_secs(15));
    for (request, name, dek) in [(&bad, &name, &dek), (&bad, &other, &good), (&request(), &name, &dek)] {
        let opened = kms.decrypt(request, name, &dek.ciphertext, b"c").await.unwrap();
        assert!(opened.expose() == dek.plaintext.expose());
    }
    // The server remembers refused ciphertexts. A mistake of a good client costs one call, however often it
    // is repeated.
    let mut changed = dek.ciphertext.clone();
    changed[60] ^= 0x01;
    aws.take_seen();
    for _ in 0..20 {
        assert_eq!(kind(kms.decrypt(&request(), &name, &changed, b"c").await), Some(ErrorKind::NotAuthentic));
    }
    assert_eq!(count(&aws.take_seen(), "Decrypt"), 1);
    // The kind that says that AWS bound the key to the context. AWS judges it, although the key is in memory.
    let mut bound = dek.ciphertext.clone();
    bound[4] = 3;
    for _ in 0..2 {
        assert_eq!(kind(kms.decrypt(&request(), &name, &bound, b"c").await), Some(ErrorKind::NotAuthentic));
    }
    assert_eq!(count(&aws.take_seen(), "Decrypt"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disabled_cmk_stops_every_server_within_any() {
    let aws = Aws::start().await;
    let any = Duration::from_secs(1);
    let servers =
        [aws.open_with(|config| config.any = any).await, aws.open_with(|config| config.any = any).await];
    let name = key("switched");
    servers[0].create(&request(), &name).await.unwrap();
    let dek = servers[0].generate(&request(), &name, b"").await.unwrap();
    for server in &servers {
        server.decrypt(&request(), &name, &dek.ciphertext, b"").await.unwrap();
    }
    let cmk = aws.cmk("alias/kms/k/switched").await;
    aws.ask("DisableKey", json!({"KeyId": cmk})).await;
    tokio::time::sleep(any).await;
    for server in &servers {
        assert_eq!(
            kind(server.decrypt(&request(), &name, &dek.ciphertext, b"").await),
            Some(ErrorKind::Disabled)
        );
        let error = server.generate(&request(), &name, b"").await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Disabled);
        assert!(error.chain().to_string().contains("is disabled in AWS KMS"), "{}", error.chain());
        assert_eq!(kind(server.describe(&request(), &name).await), Some(ErrorKind::Disabled));
    }
    aws.ask("EnableKey", json!({"KeyId": cmk})).await;
    tokio::time::sleep(any).await;
    for server in &servers {
        server.decrypt(&request(), &name, &dek.ciphertext, b"").await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_what_is_wrong() {
    let aws = Aws::start().await;
    let findings = kms_aws::check(aws.config()).await;
    assert!(findings.iter().all(|found| found.level == Level::Good), "{findings:#?}");
    assert!(
        findings[0].detail.contains("arn:aws:") && findings[0].detail.contains("eu-central-1"),
        "{findings:#?}"
    );
    let orphan = json!({"Tags": [{"TagKey": "kms:name", "TagValue": "lost"}]});
    aws.ask("CreateKey", orphan).await;
    let findings = kms_aws::check(aws.config()).await;
    let found = findings.iter().find(|found| found.level == Level::Warning).unwrap();
    assert!(found.what == "orphans" && found.detail.starts_with("1 CMKs"), "{findings:#?}");
    for (denied, what) in [("ListAliases", "list"), ("GenerateDataKey", "generate"), ("Decrypt", "decrypt")] {
        aws.fail_if(move |operation, _| {
            if operation == denied { Fault::Error(400, "AccessDeniedException") } else { Fault::None }
        });
        let last = kms_aws::check(aws.config()).await.pop().unwrap();
        assert_eq!((last.level, last.what), (Level::Problem, what), "{last}");
        assert!(last.detail.contains("AccessDeniedException"), "{last}");
    }
    // The check reports each unusable key with the reason and a remedy, and goes on with the other keys.
    aws.fail(Fault::None);
    let kms = aws.open().await;
    for name in ["good", "deleted", "disabled", "denied"] {
        kms.create(&request(), &key(name)).await.unwrap();
    }
    kms.delete(&request(), &key("deleted")).await.unwrap();
    aws.ask("DisableKey", json!({"KeyId": aws.cmk("alias/kms/k/disabled").await})).await;
    aws.fail_if(|operation, parameters| {
        let is_denied = operation == "DescribeKey" && parameters["KeyId"] == "alias/kms/k/denied";
        if is_denied { Fault::Error(400, "AccessDeniedException") } else { Fault::None }
    });
    let findings = kms_aws::check(aws.config()).await;
    for (level, what, parts) in [
        (Level::Problem, "keys", ["'disabled'", "aws kms enable-key --key-id"]),
        (Level::Problem, "keys", ["'denied'", "AccessDeniedException"]),
        (Level::Warning, "deleted", ["'deleted' was deleted", "aws kms cancel-key-deletion --key-id"]),
    ] {
        let is_it = |found: &&kms_aws::Finding| {
            (found.level, found.what) == (level, what) && parts.iter().all(|part| found.detail.contains(part))
        };
        assert_eq!(findings.iter().filter(is_it).count(), 1, "{parts:?} in {findings:#?}");
    }
    assert!(!findings.iter().any(|found| found.detail.contains("'good'")), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn imports_are_refused_and_listings_show_only_our_keys() {
    let aws = Aws::start().await;
    let kms = aws.open_with(|config| config.prefix = "team/disk/".to_owned()).await;
    let other: Arc<AwsKms> = aws.open().await;
    kms.create(&request(), &key("ours")).await.unwrap();
    kms.hmac(&request(), &key("ours"), b"").await.unwrap();
    other.create(&request(), &key("theirs")).await.unwrap();
    let page = kms.list(&request(), &ListQuery::prefix("")).await.unwrap();
    assert_eq!(page.names, [key("ours")]);
    assert_eq!(kind(kms.describe(&request(), &key("theirs")).await), Some(ErrorKind::NotFound));
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_rotates_a_key_and_what_was_sealed_before_still_opens() {
    let aws = Aws::start().await;
    let (one, other) = (aws.open().await, aws.open().await);
    one.create(&request(), &key("key")).await.unwrap();
    let before = one.generate(&request(), &key("key"), b"c").await.unwrap();
    let mac = one.hmac(&request(), &key("key"), b"message").await.unwrap();
    let _ = aws.take_seen();
    let rotated = one.rotate(&request(), &key("key"), None).await.unwrap();
    assert_eq!((rotated.version, rotated.seals_after), (None, aws.config().reuse.max_age));
    let after = one.generate(&request(), &key("key"), b"c").await.unwrap();
    let seen = aws.take_seen();
    let counts = (count(&seen, "RotateKeyOnDemand"), count(&seen, "GenerateDataKey"));
    assert_eq!(counts, (1, 1), "a new working key: {seen:?}");
    for kms in [&one, &other] {
        for dek in [&before, &after] {
            let opened = kms.decrypt(&request(), &key("key"), &dek.ciphertext, b"c").await.unwrap();
            assert!(opened.expose() == dek.plaintext.expose());
        }
        assert_eq!(kms.hmac(&request(), &key("key"), b"message").await.unwrap(), mac);
    }
    aws.fail_if(|operation, _| match operation {
        "RotateKeyOnDemand" => Fault::Error(400, "LimitExceededException"),
        _ => Fault::None,
    });
    let refused = one.rotate(&request(), &key("key"), None).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert!(refused.chain().to_string().contains("25 times"), "{}", refused.chain());
    aws.fail(Fault::None);
    assert_eq!(kind(one.rotate(&request(), &key("key"), Some(1)).await), Some(ErrorKind::Unsupported));
    assert_eq!(kind(one.rotate(&request(), &key("absent"), None).await), Some(ErrorKind::NotFound));
}
