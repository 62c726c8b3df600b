use std::net::Ipv4Addr;
use std::path::Path;

use http::StatusCode;
use kms_core::Identity;

use super::*;

fn open_at(file: &Path, audit_failure: AuditFailure) -> (Arc<Audit>, Writer) {
    let settings = LogSettings { audit_file: Some(file.to_owned()), audit_failure, ..LogSettings::default() };
    let audit = Audit::open(&settings).unwrap();
    let writer = audit.writer.lock().unwrap().take().unwrap();
    (audit, writer)
}

fn record_of(audit: &Audit, path: &str, is_known: bool, room: Option<&LineRoom>) -> Recorded {
    let event = AuditEvent {
        time: "2026-01-02T03:04:05.000006Z".parse().unwrap(),
        ip: Ipv4Addr::LOCALHOST.into(),
        path,
        identity: &Identity::of_public_key(b"x"),
        is_known,
        status: StatusCode::OK,
        took: Duration::from_nanos(1500),
        sent: true,
        backed_up: None,
    };
    audit.record(&event, room)
}

fn record(audit: &Audit, path: &str) -> Recorded {
    record_of(audit, path, true, None)
}

#[tokio::test]
async fn a_request_is_a_line_as_in_kes() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let (audit, mut writer) = open_at(&file, AuditFailure::Drop);
    let mut reader = audit.hub().subscribe(None, ()).unwrap();
    assert_eq!(record(&audit, "/v1/key/create/a\"b"), Recorded::Done);
    writer.turn(false);
    let identity = Identity::of_public_key(b"x");
    let line = format!(
        "{{\"time\":\"2026-01-02T03:04:05.000006Z\",\"request\":{{\"ip\":\"127.0.0.1\",\"path\":\"/v1/key/create/a\\\"b\",\
         \"identity\":\"{identity}\"}},\"response\":{{\"code\":200,\"time\":1500}}}}\n"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), line);
    assert_eq!(reader.recv().await.unwrap(), line);
    std::fs::rename(&file, directory.path().join("audit.log.1")).unwrap();
    audit.reopen();
    let _ = record(&audit, "/b");
    writer.turn(false);
    assert!(std::fs::read_to_string(&file).unwrap().contains("\"/b\""));
}

#[tokio::test]
async fn what_cannot_be_written_is_counted_or_kept_while_requests_are_refused() {
    let full = Path::new("/dev/full");
    let (dropping, mut writer) = open_at(full, AuditFailure::Drop);
    let _ = record(&dropping, "/a");
    assert_eq!(writer.turn(false), writer::Turn { written: 0, lost: 1 });
    assert!(!dropping.refuses());

    let (refusing, mut writer) = open_at(full, AuditFailure::Refuse);
    let recorded = record(&refusing, "/a");
    assert_eq!(recorded, Recorded::InLine(1));
    assert_eq!(writer.turn(false), writer::Turn::default(), "nothing is lost");
    assert!(refusing.refuses() && !refusing.is_written(recorded).await);
    assert_eq!(refusing.end(Duration::ZERO).await.lost, 1, "what is left is told");
}

#[tokio::test]
async fn an_answer_waits_until_its_own_line_was_handed_over() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let (audit, mut writer) = open_at(&file, AuditFailure::Refuse);
    let (first, second) = (record(&audit, "/1"), record(&audit, "/2"));
    let mut waits = Box::pin(audit.is_written(second));
    assert!(futures_pending(&mut waits).await);
    writer.turn(false);
    assert!(waits.await && audit.is_written(first).await);
    assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
    let third = record(&audit, "/3");
    assert!(futures_pending(&mut Box::pin(audit.is_written(third))).await, "each its own");
}

async fn futures_pending(future: &mut (impl Future + Unpin)) -> bool {
    tokio::time::timeout(Duration::from_millis(20), future).await.is_err()
}

#[test]
fn an_effect_has_room_for_its_line_or_does_not_begin() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let (refusing, mut writer) = open_at(&file, AuditFailure::Refuse);
    let path = "&".repeat(16_000);
    let room = refusing.reserve(&path).unwrap();
    assert!(room.is_some());
    let mut count = 0;
    while record(&refusing, &path) != Recorded::Lost {
        count += 1;
    }
    assert!(refusing.reserve(&path).is_err(), "it is full");
    assert_ne!(
        record_of(&refusing, &path, true, room.as_ref()),
        Recorded::Lost,
        "the line with room is there"
    );
    drop(room);
    let waited = refusing.shared.waiting().lines.len();
    assert!((MAX_WAITING - 8192..=MAX_WAITING).contains(&waited), "{waited} bytes waited");
    assert_eq!(writer.turn(false).written, count + 1);
    assert!(refusing.reserve(&path).is_ok(), "there is room again");
    let text = std::fs::read_to_string(&file).unwrap();
    assert!(text.lines().last().unwrap().contains("\"refused\":1"), "what was lost is told");
    let (dropping, mut writer) = open_at(&file, AuditFailure::Drop);
    assert!(dropping.reserve(&path).unwrap().is_none());
    (0..4000).for_each(|_| {
        let _ = record(&dropping, &path);
    });
    let turn = writer.turn(false);
    assert!(turn.written + turn.lost == 4000 && turn.lost > 1000, "{turn:?}");
}

#[test]
fn strangers_have_so_many_lines_and_the_number_of_the_others() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let (audit, mut writer) = open_at(&file, AuditFailure::Drop);
    for _ in 0..1000 {
        let _ = record_of(&audit, "/stranger", false, None);
        let _ = record(&audit, "/known");
    }
    writer.turn(true);
    let text = std::fs::read_to_string(&file).unwrap();
    let count = |what: &str| text.lines().filter(|line| line.contains(what)).count();
    assert_eq!((count("/known"), count("/stranger")), (1000, 256));
    assert_eq!(count("\"strangers\":744"), 1, "{:?}", text.lines().last());
}

/// A flood's last lines are left out, and nothing comes after them.
#[test]
fn the_number_of_strangers_is_told_though_nothing_else_happens() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("audit.log");
    let (audit, mut writer) = open_at(&file, AuditFailure::Drop);
    writer.tell_strangers = Duration::from_millis(200);
    let metrics = Metrics::new().unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.run(&metrics));
        let written = |what: &str| {
            let began = Instant::now();
            let mut found = false;
            while !found && began.elapsed() < Duration::from_secs(10) {
                found = std::fs::read_to_string(&file).unwrap().contains(what);
                std::thread::sleep(Duration::from_millis(20));
            }
            found
        };
        (0..256).for_each(|_| drop_recorded(record_of(&audit, "/stranger", false, None)));
        drop_recorded(record(&audit, "/known"));
        let known = written("/known");
        std::thread::sleep(Duration::from_millis(300));
        (0..10).for_each(|_| drop_recorded(record_of(&audit, "/stranger", false, None)));
        let told = written("\"strangers\":10");
        // The writer has to end before the assertion, because the scope waits for it.
        audit.shared.waiting().end = true;
        audit.shared.wake.notify_one();
        assert!(known && told);
    });
}

fn drop_recorded(_: Recorded) {}

#[test]
fn requests_that_were_refused_are_told_by_their_number_when_the_log_works_again() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().join("log");
    std::os::unix::fs::symlink("/dev/full", &place).unwrap();
    let (audit, mut writer) = open_at(&place, AuditFailure::Refuse);
    let _ = record(&audit, "/1");
    writer.turn(false);
    (0..3).for_each(|_| audit.refused());
    writer.turn(false);
    let file = directory.path().join("file");
    std::fs::remove_file(&place).unwrap();
    std::os::unix::fs::symlink(&file, &place).unwrap();
    writer.turn(false);
    assert!(!audit.refuses());
    let text = std::fs::read_to_string(&file).unwrap();
    let lines: Vec<_> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains("/1") && lines[1].contains("\"refused\":3"), "{lines:?}");
}
