//! A file that cannot be written, and writes that share a sync.

use super::*;

#[tokio::test]
async fn while_the_file_is_away_a_create_is_refused_and_nothing_is_stored() {
    let fixture = Fixture::new();
    let store = Scripted::with(&[]);
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("before"), &record(1)).await.unwrap();
    let away = fixture.dir.path().join("away");
    fs::rename(fixture.path(), &away).unwrap();
    let error = escrowed.create(&entry("my-key"), &record(2)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ReadOnly);
    assert!(
        NoEscrow::is_under(&error) && error.chain().to_string().contains("removed or replaced"),
        "{error:?}"
    );
    assert_eq!(store.creates(), 1, "the store was not asked");
    escrowed.get(&entry("before")).await.unwrap();
    assert!(escrowed.status().await.unwrap().degraded.is_some());
    // A deletion is done, and noted as soon as that is possible.
    escrowed.delete(&entry("before")).await.unwrap();
    fs::rename(away, fixture.path()).unwrap();
    until(|| escrowed.writer.health.failure().is_none()).await;
    assert_eq!(fixture.restored(), []);
    escrowed.create(&entry("my-key"), &record(2)).await.unwrap();
    assert_eq!(fixture.restored().len(), 1);
}

#[tokio::test]
async fn a_mark_that_cannot_be_written_is_no_yes() {
    let fixture = Fixture::new();
    let store = Scripted::with(&[Step::DoneAnd(ErrorKind::Timeout)]);
    let escrowed = fixture.open(store);
    assert_eq!(kind(escrowed.create(&entry("my-key"), &record(1)).await), Some(ErrorKind::Timeout));
    let away = fixture.dir.path().join("away");
    fs::rename(fixture.path(), &away).unwrap();
    assert_eq!(kind(escrowed.get(&entry("my-key")).await), Some(ErrorKind::ReadOnly));
    fs::rename(away, fixture.path()).unwrap();
    until(|| escrowed.writer.health.failure().is_none()).await;
    let stored = escrowed.get(&entry("my-key")).await.unwrap();
    assert!(fixture.restores("my-key", &stored));
}

#[tokio::test]
async fn with_warn_a_key_is_stored_and_put_into_escrow_later() {
    let fixture = Fixture::new();
    let (escrowed, figures) =
        open(&fixture.settings(EscrowFailure::Warn), Arc::new(MemoryStore::new())).unwrap();
    until(|| figures.is_complete()).await;
    let away = fixture.dir.path().join("away");
    fs::rename(fixture.path(), &away).unwrap();
    escrowed.create(&entry("my-key"), &record(1)).await.unwrap();
    assert_eq!((figures.missing(), figures.is_writable()), (1, false));
    fs::rename(away, fixture.path()).unwrap();
    until(|| figures.missing() == 0).await;
    let stored = escrowed.get(&entry("my-key")).await.unwrap();
    assert!(fixture.restores("my-key", &stored) && figures.is_writable());
}

#[tokio::test]
async fn many_creates_share_the_syncs() {
    let fixture = Fixture::new();
    let (file, contents, _) = EscrowFile::open(&fixture.path()).unwrap();
    let writer = Arc::new(Writer::start(file, &contents).unwrap());
    let tasks: Vec<_> = (0..500)
        .map(|n| {
            let (writer, subject) = (Arc::clone(&writer), Subject::new(&format!("key-{n}"), None));
            tokio::spawn(
                async move { writer.write(vec![Draft::Entry { subject, sealed: vec![1; 300] }]).await },
            )
        })
        .collect();
    let mut places = Vec::new();
    for task in tasks {
        places.extend(task.await.unwrap().unwrap());
    }
    let contents = read(&fixture.path());
    assert!(contents.flaws.is_empty());
    assert!(contents.batch < 250, "{} batches for 500 lines", contents.batch);
    places.sort_unstable();
    places.dedup();
    assert_eq!(places.len(), 500, "each line has a place of its own");
}
