//! Names of keys in AWS KMS that this server or others create, delete and move.

use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use kms_aws::Level;
use kms_core::{ErrorKind, Kms, ListQuery, Request};
use kms_tests::localstack::{Aws, Fault};
use serde_json::json;

use super::keys::{count, key, kind, request};

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_of_creates_makes_no_cmks_and_losers_give_theirs_back() {
    let aws = Aws::start().await;
    let kms = aws.open().await;
    kms.create(&request(), &key("once")).await.unwrap();
    aws.take_seen();
    for _ in 0..10 {
        assert_eq!(kind(kms.create(&request(), &key("once")).await), Some(ErrorKind::AlreadyExists));
    }
    assert_eq!(count(&aws.take_seen(), "CreateKey"), 0);
    let other = aws.open().await;
    let racers: Vec<_> = (0..8)
        .map(|racer| {
            let kms = Arc::clone(if racer % 2 == 0 { &kms } else { &other });
            tokio::spawn(async move { kms.create(&request(), &key("raced")).await.is_ok() })
        })
        .collect();
    let mut winners = 0;
    for racer in racers {
        winners += usize::from(racer.await.unwrap());
    }
    assert_eq!(winners, 1);
    let enabled = aws.states().await.into_iter().filter(|state| state == "Enabled").count();
    assert_eq!(enabled, 2, "one CMK for each key, all others are pending deletion");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_key_keeps_its_name_and_its_hmacs_go_with_it() {
    let aws = Aws::start().await;
    let (kms, other) = (aws.open().await, aws.open().await);
    let name = key("doomed");
    kms.create(&request(), &name).await.unwrap();
    let mac = kms.hmac(&request(), &name, b"m").await.unwrap();
    assert_eq!(other.hmac(&request(), &name, b"m").await.unwrap(), mac, "one HMAC on all servers");
    let long = vec![7; 100_000];
    assert_eq!(
        kms.hmac(&request(), &name, &long).await.unwrap(),
        other.hmac(&request(), &name, &long).await.unwrap()
    );
    let (cmk, hmac) = (aws.cmk("alias/kms/k/doomed").await, aws.cmk("alias/kms/hmac/doomed").await);
    // The delete stops after its first step and is sent again.
    let of_key = cmk.clone();
    aws.fail_if(move |operation, parameters| {
        let is_second = operation == "ScheduleKeyDeletion" && parameters["KeyId"] == of_key.as_str();
        if is_second { Fault::Error(400, "AccessDeniedException") } else { Fault::None }
    });
    assert_eq!(kind(kms.delete(&request(), &name).await), Some(ErrorKind::Denied));
    assert_eq!(aws.state(&hmac).await, "PendingDeletion");
    assert_eq!(aws.state(&cmk).await, "Enabled");
    kms.generate(&request(), &name, b"").await.unwrap();
    aws.fail(Fault::None);
    aws.take_seen();
    kms.delete(&request(), &name).await.unwrap();
    let seen = aws.take_seen();
    for untouched in ["CreateAlias", "DeleteAlias", "UpdateAlias", "CreateKey"] {
        assert_eq!(count(&seen, untouched), 0, "{untouched}");
    }
    assert_eq!(aws.states().await, ["PendingDeletion", "PendingDeletion"]);
    assert_eq!(aws.cmk("alias/kms/k/doomed").await, cmk, "the alias stays on it");
    assert_eq!(aws.cmk("alias/kms/hmac/doomed").await, hmac);

    let error = kms.generate(&request(), &name, b"").await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Deleted);
    let told = error.chain().to_string();
    assert!(told.contains(&format!("aws kms cancel-key-deletion --key-id {cmk}")), "{told}");
    aws.take_seen();
    for server in [&kms, &aws.open().await] {
        assert_eq!(kind(server.delete(&request(), &name).await), Some(ErrorKind::Deleted));
        assert_eq!(kind(server.create(&request(), &name).await), Some(ErrorKind::AlreadyExists));
        let page = server.list(&request(), &ListQuery::prefix("")).await.unwrap();
        assert_eq!(page.names, slice::from_ref(&name));
        let status = server.status().await.unwrap();
        assert_eq!(status.degraded, None, "a deletion is no fault");
    }
    let seen = aws.take_seen();
    assert_eq!(count(&seen, "ScheduleKeyDeletion") + count(&seen, "CreateKey"), 0, "nothing is done");
}

/// Another party schedules the deletion of the CMK and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_delete_completes_the_first() {
    let aws = Aws::start().await;
    let (kms, name) = (aws.open().await, key("half"));
    kms.create(&request(), &name).await.unwrap();
    kms.hmac(&request(), &name, b"m").await.unwrap();
    let cmk = aws.cmk("alias/kms/k/half").await;
    aws.ask("ScheduleKeyDeletion", json!({"KeyId": cmk, "PendingWindowInDays": 7})).await;
    kms.delete(&request(), &name).await.unwrap();
    assert_eq!(aws.states().await, ["PendingDeletion", "PendingDeletion"]);
    assert_eq!(kind(kms.delete(&request(), &name).await), Some(ErrorKind::Deleted));
}

/// This mock of AWS still shows and uses a CMK after its deletion was scheduled.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_was_deleted_here_never_seals_again_whatever_aws_shows() {
    let aws = Aws::start().await;
    // The cache keeps nothing for longer than 20 ms.
    let kms = aws
        .open_with(|config| {
            config.any = Duration::from_millis(20);
            config.reuse.max_age = Duration::from_millis(20);
        })
        .await;
    let name = key("stale");
    kms.create(&request(), &name).await.unwrap();
    let dek = kms.generate(&request(), &name, b"").await.unwrap();
    let before = aws.ask("DescribeKey", json!({"KeyId": "alias/kms/k/stale"})).await.to_string();
    let before: &'static [u8] = before.into_bytes().leak();
    aws.fail_if(move |operation, parameters| {
        let is_key = operation == "DescribeKey" && !parameters["KeyId"].to_string().contains("/hmac/");
        match operation {
            _ if is_key => Fault::Garbage(before),
            // The deletion is not really scheduled, so AWS would still seal.
            "ScheduleKeyDeletion" => Fault::Garbage(br#"{"KeyId": "stale", "DeletionDate": 4.0e9}"#),
            _ => Fault::None,
        }
    });
    let deleted = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..8)
        .map(|_| {
            let (kms, name, deleted) = (Arc::clone(&kms), name.clone(), Arc::clone(&deleted));
            let sealed = dek.ciphertext.clone();
            tokio::spawn(async move {
                let (mut refused, began) = (0, Instant::now());
                while began.elapsed() < Duration::from_secs(4) {
                    let was_deleted = deleted.load(Ordering::SeqCst);
                    let generated = kms.generate(&request(), &name, b"").await.map(drop);
                    let opened = kms.decrypt(&request(), &name, &sealed, b"").await.map(drop);
                    if was_deleted {
                        assert_eq!(kind(generated), Some(ErrorKind::Deleted));
                        assert_eq!(kind(opened), Some(ErrorKind::Deleted));
                        refused += 1;
                    }
                    tokio::time::sleep(Duration::from_millis(1)).await;
                }
                refused
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    kms.delete(&request(), &name).await.unwrap();
    deleted.store(true, Ordering::SeqCst);
    for client in clients {
        assert!(client.await.unwrap() > 20);
    }
    assert_eq!(kind(kms.create(&request(), &name).await), Some(ErrorKind::AlreadyExists));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deletion_that_is_cancelled_in_aws_brings_the_key_back() {
    let aws = Aws::start().await;
    let any = Duration::from_secs(1);
    let servers =
        [aws.open_with(|config| config.any = any).await, aws.open_with(|config| config.any = any).await];
    let name = key("restored");
    servers[0].create(&request(), &name).await.unwrap();
    let dek = servers[0].generate(&request(), &name, b"c").await.unwrap();
    let mac = servers[0].hmac(&request(), &name, b"m").await.unwrap();
    servers[1].decrypt(&request(), &name, &dek.ciphertext, b"c").await.unwrap();
    servers[0].delete(&request(), &name).await.unwrap();
    tokio::time::sleep(any).await;
    for server in &servers {
        let opened = server.decrypt(&request(), &name, &dek.ciphertext, b"c").await;
        assert_eq!(kind(opened), Some(ErrorKind::Deleted), "on every server within any");
    }
    for alias in ["alias/kms/k/restored", "alias/kms/hmac/restored"] {
        aws.ask("CancelKeyDeletion", json!({"KeyId": aws.cmk(alias).await})).await;
    }
    tokio::time::sleep(any).await;
    for server in &servers {
        let error = server.generate(&request(), &name, b"c").await.err().unwrap();
        assert!(error.chain().to_string().contains("is disabled in AWS KMS"), "{}", error.chain());
    }
    for alias in ["alias/kms/k/restored", "alias/kms/hmac/restored"] {
        aws.ask("EnableKey", json!({"KeyId": aws.cmk(alias).await})).await;
    }
    tokio::time::sleep(any).await;
    for server in &servers {
        let opened = server.decrypt(&request(), &name, &dek.ciphertext, b"c").await.unwrap();
        assert!(opened.expose() == dek.plaintext.expose());
        server.generate(&request(), &name, b"c").await.unwrap();
        assert_eq!(server.hmac(&request(), &name, b"m").await.unwrap(), mac);
    }
    // The key can be deleted again.
    servers[0].delete(&request(), &name).await.unwrap();
    assert_eq!(kind(servers[0].generate(&request(), &name, b"c").await), Some(ErrorKind::Deleted));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_former_releases_left_and_what_was_given_back_block_nothing() {
    let aws = Aws::start().await;
    let made = aws.ask("CreateKey", json!({"Tags": [{"TagKey": "kms:name", "TagValue": "freed"}]})).await;
    let id = made["KeyMetadata"]["KeyId"].as_str().unwrap();
    let alias = format!("alias/kms/deleted/freed/{id}");
    aws.ask("CreateAlias", json!({"AliasName": alias, "TargetKeyId": id})).await;
    aws.ask("ScheduleKeyDeletion", json!({"KeyId": id, "PendingWindowInDays": 7})).await;
    let (kms, name) = (aws.open().await, key("freed"));
    assert_eq!(kind(kms.generate(&request(), &name, b"").await), Some(ErrorKind::NotFound));
    let page = kms.list(&request(), &ListQuery::prefix("")).await.unwrap();
    assert!(page.names.is_empty(), "{page:?}");
    // A create that AWS refuses after `CreateKey` schedules the deletion of the new CMK.
    aws.fail_if(|operation, _| match operation {
        "CreateAlias" => Fault::Error(400, "AccessDeniedException"),
        _ => Fault::None,
    });
    assert_eq!(kind(kms.create(&request(), &name).await), Some(ErrorKind::Denied));
    aws.fail(Fault::None);
    assert_eq!(aws.states().await, ["PendingDeletion", "PendingDeletion"]);
    assert_eq!(kind(kms.generate(&request(), &name, b"").await), Some(ErrorKind::NotFound));
    kms.create(&request(), &name).await.unwrap();
    kms.generate(&request(), &name, b"").await.unwrap();
    let findings = kms_aws::check(aws.config()).await;
    assert!(findings.iter().all(|found| found.level == Level::Good), "{findings:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn racers_for_the_first_hmac_of_a_key_get_the_same() {
    let aws = Aws::start().await;
    let servers = [aws.open().await, aws.open().await, aws.open().await];
    servers[0].create(&request(), &key("raced")).await.unwrap();
    let racers: Vec<_> = (0..12)
        .map(|racer| {
            let kms = Arc::clone(&servers[racer % servers.len()]);
            tokio::spawn(async move { kms.hmac(&request(), &key("raced"), b"message").await.unwrap() })
        })
        .collect();
    let mut macs = Vec::new();
    for racer in racers {
        macs.push(racer.await.unwrap());
    }
    assert!(macs.iter().all(|mac| *mac == macs[0]), "one HMAC on all servers");
    let enabled = aws.states().await.into_iter().filter(|state| state == "Enabled").count();
    assert_eq!(enabled, 2, "the key's CMK and that of its HMACs; the losers' are pending deletion");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_was_moved_is_noticed() {
    let aws = Aws::start().await;
    let (kms, other) = (aws.open().await, aws.open().await);
    let name = key("anew");
    kms.create(&request(), &name).await.unwrap();
    let old = other.generate(&request(), &name, b"").await.unwrap();
    kms.delete(&request(), &name).await.unwrap();
    // Somebody deletes the alias to free the name before AWS erases the CMK.
    aws.ask("DeleteAlias", json!({"AliasName": "alias/kms/k/anew"})).await;
    kms.create(&request(), &name).await.unwrap();
    let new = kms.generate(&request(), &name, b"").await.unwrap();
    // The other server trusts its alias for 5 minutes. A ciphertext that does not open makes it look again.
    let opened = other.decrypt(&request(), &name, &new.ciphertext, b"").await.unwrap();
    assert!(opened.expose() == new.plaintext.expose());
    assert_eq!(
        kind(kms.decrypt(&request(), &name, &old.ciphertext, b"").await),
        Some(ErrorKind::NotAuthentic)
    );
}

/// This mock of AWS shows neither the alias nor the CMK of a new key. The server does not report the key as
/// absent.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_here_and_is_not_seen_is_not_absent() {
    let aws = Aws::start().await;
    let kms = aws.open_with(|config| config.any = Duration::from_millis(50)).await;
    let name = key("unseen");
    kms.create(&request(), &name).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    aws.fail_if(|_, _| Fault::Error(400, "NotFoundException"));
    let short = || Request::new(request().identity, Duration::from_secs(2));
    for outcome in [
        kms.describe(&short(), &name).await.map(drop),
        kms.generate(&short(), &name, b"").await.map(drop),
        kms.hmac(&short(), &name, b"").await.map(drop),
        kms.delete(&short(), &name).await.map(drop),
    ] {
        let kind = kind(outcome);
        assert!(matches!(kind, Some(ErrorKind::Disabled | ErrorKind::Timeout)), "{kind:?}");
    }
    assert_eq!(kind(kms.create(&short(), &name).await), Some(ErrorKind::AlreadyExists));
    aws.fail(Fault::None);
    kms.generate(&request(), &name, b"").await.unwrap();
}

/// This stub of AWS shows a new alias late.
#[tokio::test(flavor = "multi_thread")]
async fn an_alias_that_is_seen_late_hinders_nobody() {
    let aws = Aws::start().await;
    aws.fail_if(|operation, parameters| {
        let by_alias = parameters["KeyId"].as_str().is_some_and(|key| key.starts_with("alias/"));
        if operation == "DescribeKey" && by_alias {
            Fault::Error(400, "NotFoundException")
        } else {
            Fault::None
        }
    });
    let kms = aws.open_with(|config| config.any = Duration::from_millis(100)).await;
    kms.create(&request(), &key("late")).await.unwrap();
    let dek = kms.generate(&request(), &key("late"), b"").await.unwrap();
    tokio::time::sleep(Duration::from_millis(200)).await;
    kms.generate(&request(), &key("late"), b"").await.unwrap();
    kms.decrypt(&request(), &key("late"), &dek.ciphertext, b"").await.unwrap();
    assert_eq!(kind(kms.create(&request(), &key("late")).await), Some(ErrorKind::AlreadyExists));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_whose_answer_is_lost_is_not_made_twice() {
    let aws = Aws::start().await;
    let kms = aws.open().await;
    aws.fail_if(|operation, _| if operation == "CreateAlias" { Fault::ResetAfter } else { Fault::None });
    kms.create(&request(), &key("lost")).await.unwrap();
    aws.fail(Fault::None);
    kms.generate(&request(), &key("lost"), b"").await.unwrap();
    assert_eq!(aws.states().await, ["Enabled"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_was_cut_off_is_finished_by_its_word() {
    let aws = Aws::start().await;
    let (kms, name) = (aws.open_with(|config| config.any = Duration::ZERO).await, key("cut-off"));
    kms.create(&request(), &name).await.unwrap();
    let dek = kms.generate(&request(), &name, b"c").await.unwrap();
    let mac = kms.hmac(&request(), &name, b"m").await.unwrap();
    for denied_calls in [1, 2] {
        kms.delete(&request(), &name).await.unwrap();
        // The login lacks kms:EnableKey, for the first CMK or for the second.
        let calls = std::sync::atomic::AtomicUsize::new(0);
        aws.fail_if(move |operation, _| {
            let is_denied =
                operation == "EnableKey" && calls.fetch_add(1, Ordering::SeqCst) + 1 == denied_calls;
            if is_denied { Fault::Error(400, "AccessDeniedException") } else { Fault::None }
        });
        assert_eq!(kind(kms.restore(&request(), &name, false).await), Some(ErrorKind::Denied));
        aws.fail(Fault::None);
        if denied_calls == 2 {
            let error = kms.restore(&request(), &name, false).await.unwrap_err();
            assert!(error.chain().to_string().contains("'--resume' enables it"), "{error:?}");
        }
        kms.restore(&request(), &name, true).await.unwrap();
        assert_eq!(aws.states().await, ["Enabled", "Enabled"]);
        let opened = kms.decrypt(&request(), &name, &dek.ciphertext, b"c").await.unwrap();
        assert!(opened.expose() == dek.plaintext.expose());
        assert_eq!(kms.hmac(&request(), &name, b"m").await.unwrap(), mac);
        assert_eq!(kind(kms.restore(&request(), &name, true).await), Some(ErrorKind::Conflict));
    }
}
