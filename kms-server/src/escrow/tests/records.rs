//! Records of one key that differ in their HMAC key: none is taken for another one.

use kms_core::store::HmacKey;

use super::*;

/// Returns a record of the key with this byte, and of the HMAC key with that one.
fn with_hmac(byte: u8, hmac: Option<u8>) -> SecretBytes {
    let mut record = KeyRecord::new(SecretKey::take(&mut [byte; 32]), Cipher::Aes256, "tests").unwrap();
    record.hmac_key = hmac.map(|hmac| HmacKey(SecretKey::take(&mut [hmac; 32])));
    record.encode()
}

/// Returns the lines of the first files: without what tells records of one key apart.
fn as_of_the_first_files(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let mut old = String::new();
    for line in text.split_inclusive('\n') {
        let mut line = Line::parse(line.as_bytes()).unwrap();
        match &mut line.says {
            Says::Entry { subject, .. }
            | Says::Stored { subject, .. }
            | Says::Refused { subject, .. }
            | Says::Removing(subject)
            | Says::Gone(subject) => subject.record = None,
            _ => {}
        }
        line.push_to(&mut old);
    }
    fs::write(path, old).unwrap();
}

async fn replace(store: &MemoryStore, content: &SecretBytes) {
    store.delete(&entry("my-key")).await.unwrap();
    store.create(&entry("my-key"), content).await.unwrap();
}

fn plan_of(fixture: &Fixture, wanted: &[String]) -> (Option<String>, Vec<String>) {
    let held = held(vec![read(&fixture.path())]);
    let plan = Plan::of(&held, wanted);
    let chosen = plan.choices.get(&name("my-key")).map(|choice| held[choice.key].subject.what());
    (chosen, plan.ambiguous.into_values().flatten().collect())
}

#[tokio::test]
async fn a_record_with_another_hmac_key_is_added_and_asked_for() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    let (one, other) = (with_hmac(1, Some(1)), with_hmac(1, Some(2)));
    escrowed.create(&entry("my-key"), &one).await.unwrap();
    // Another program, such as a move with '--force'.
    replace(&store, &other).await;
    fixture.closed(escrowed).await;
    let (escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    until(|| figures.ambiguous() == 1).await;
    assert!(!figures.is_complete(), "a restore would not bring it back unasked");
    let held_now = held(vec![read(&fixture.path())]);
    assert_eq!(held_now.len(), 2, "the file has both");
    let (chosen, several) = plan_of(&fixture, &[]);
    assert_eq!(chosen, None, "nothing says which one is current");
    assert_eq!(several.len(), 2, "{several:?}");
    // The fingerprint alone means both. What is told with it means one.
    let fingerprint = held_now[0].subject.fingerprint.to_string();
    assert_eq!(plan_of(&fixture, std::slice::from_ref(&fingerprint)).0, None);
    for held in &held_now {
        let what = held.subject.what();
        assert_eq!(plan_of(&fixture, std::slice::from_ref(&what)).0, Some(what));
    }
    let opened = held_now.iter().map(|one| open_record(one, &fixture.identities()).unwrap().1);
    assert!(opened.eq([one, other]));
    // It is not written once more.
    fixture.closed(escrowed).await;
    let len = fs::metadata(fixture.path()).unwrap().len();
    let (_escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store).unwrap();
    until(|| figures.ambiguous() == 1).await;
    assert_eq!(fs::metadata(fixture.path()).unwrap().len(), len);
}

#[tokio::test]
async fn a_record_that_was_read_with_another_hmac_key_is_added() {
    for (first, second) in [(Some(1), None), (None, Some(1)), (Some(1), Some(2))] {
        let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
        let escrowed = fixture.open(store.clone());
        escrowed.create(&entry("my-key"), &with_hmac(1, first)).await.unwrap();
        let other = with_hmac(1, second);
        replace(&store, &other).await;
        escrowed.get(&entry("my-key")).await.unwrap();
        until(|| held(vec![read(&fixture.path())]).len() == 2).await;
        // One of them is removed through the server, and that is no word about the other.
        escrowed.delete(&entry("my-key")).await.unwrap();
        assert!(fixture.restores("my-key", &with_hmac_as(&fixture, 0)), "{first:?}, {second:?}");
    }
}

/// Returns what the n-th entry of the file holds.
fn with_hmac_as(fixture: &Fixture, n: usize) -> SecretBytes {
    open_record(&held(vec![read(&fixture.path())])[n], &fixture.identities()).unwrap().1
}

#[tokio::test]
async fn a_line_of_a_record_with_another_hmac_key_than_it_says_is_found() {
    let fixture = Fixture::new();
    let escrowed = fixture.open(Arc::new(MemoryStore::new()));
    escrowed.create(&entry("my-key"), &with_hmac(1, Some(1))).await.unwrap();
    let mut held = held(vec![read(&fixture.path())]);
    held[0].subject.record = held[0].subject.record.map(|record| record.map(|byte| byte ^ 1));
    let why = open_record(&held[0], &fixture.identities()).err().unwrap();
    assert!(why.contains("another record of its key"), "{why}");
}

#[tokio::test]
async fn files_without_marks_are_read_and_each_key_is_added_once_more() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    let record = with_hmac(1, Some(1));
    escrowed.create(&entry("my-key"), &record).await.unwrap();
    escrowed.create(&entry("gone"), &with_hmac(2, Some(1))).await.unwrap();
    escrowed.delete(&entry("gone")).await.unwrap();
    fixture.closed(escrowed).await;
    as_of_the_first_files(&fixture.path());
    assert!(read(&fixture.path()).flaws.is_empty());
    assert!(fixture.restores("my-key", &record));
    assert_eq!(fixture.restored().len(), 1, "the deletion counts");
    let (escrowed, figures) = open(&fixture.settings(EscrowFailure::Refuse), store.clone()).unwrap();
    assert_eq!(figures.missing(), 0);
    until(|| figures.is_complete()).await;
    assert_eq!(held(vec![read(&fixture.path())]).len(), 3);
    assert_eq!(fixture.restored().len(), 1, "both lines of it are one key");
    let held_now = held(vec![read(&fixture.path())]);
    let left: Vec<_> = Plan::of(&held_now, &[]).left.iter().map(|(n, _)| *n).collect();
    assert_eq!(left, [1], "only the key that is gone");
    // A deletion counts for the line without a mark, too.
    escrowed.delete(&entry("my-key")).await.unwrap();
    assert_eq!(fixture.restored(), []);
}

#[tokio::test]
async fn who_opens_a_file_without_marks_tells_its_records_apart() {
    let (fixture, store) = (Fixture::new(), Arc::new(MemoryStore::new()));
    let escrowed = fixture.open(store.clone());
    escrowed.create(&entry("my-key"), &with_hmac(1, Some(1))).await.unwrap();
    store.delete(&entry("my-key")).await.unwrap();
    escrowed.create(&entry("my-key"), &with_hmac(1, Some(2))).await.unwrap();
    fixture.closed(escrowed).await;
    as_of_the_first_files(&fixture.path());
    let several = |contents| Plan::of(&held(vec![contents]), &[]).ambiguous.len();
    assert_eq!(several(read(&fixture.path())), 0, "nobody can know");
    let mut contents = read(&fixture.path());
    tell_apart(&mut contents, &fixture.identities());
    assert_eq!(several(contents), 1);
}
