//! The file: every cut, every flipped byte, and files of several servers.

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// Returns the text of a small file in which three entries are marked.
fn small_file() -> (String, Vec<Subject>) {
    let subject = |name: &str| Subject::new(name, Some("00112233445566778899aabbccddeeff"));
    let subjects: Vec<_> = ["a", "b", "c"].map(subject).to_vec();
    let whole = |byte: u8| Sealed::Whole(vec![byte; 20]);
    let place = |batch, n| Place { batch, n };
    let entry = |index: usize| Says::Entry { subject: subjects[index].clone(), sealed: whole(1) };
    let stored = |index: usize, entry| Says::Stored { entry, subject: subjects[index].clone() };
    let batches = [
        vec![Says::Begins { version: FORMAT.into() }],
        vec![entry(0), entry(1)],
        vec![stored(0, place(2, 1)), entry(2)],
        vec![stored(2, place(3, 2))],
        vec![stored(1, place(2, 2))],
    ];
    let mut text = String::new();
    for (batch, says) in (1..).zip(batches) {
        let of = u32::try_from(says.len()).unwrap();
        for (n, says) in (1..).zip(says) {
            let at = jiff::Timestamp::UNIX_EPOCH;
            Line { place: Place { batch, n }, of, at, says }.push_to(&mut text);
        }
    }
    (text, subjects)
}

/// Fails if one of the entries is neither whole and stored, nor told of.
fn judge(text: &[u8], subjects: &[Subject], what: &str) -> Contents {
    let contents = Contents::read(text, true).unwrap();
    let flaws = contents.flaws.clone();
    let again = Contents::read(text, true).unwrap();
    let held = held(vec![contents]);
    for subject in subjects {
        let is_whole = held
            .iter()
            .any(|one| one.subject == *subject && one.state == State::Stored && one.sealed.is_some());
        assert!(is_whole || !flaws.is_empty(), "{what}: '{}' disappeared silently", subject.name);
    }
    again
}

#[test]
fn a_whole_file_has_no_flaw() {
    let (text, subjects) = small_file();
    assert!(judge(text.as_bytes(), &subjects, "whole").flaws.is_empty());
}

#[test]
fn no_flipped_byte_makes_a_marked_entry_disappear_silently() {
    let (text, subjects) = small_file();
    let last_line = text.trim_end().rfind('\n').unwrap();
    for at in 0..text.len() {
        for bit in 0..8 {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1 << bit;
            let contents = judge(&changed, &subjects, &format!("byte {at}, bit {bit}"));
            assert!(!contents.flaws.is_empty(), "byte {at}, bit {bit} was not seen");
            // A power cut leaves a line without an end, or zeros, and only in the last batch.
            let is_damage = contents.flaws.iter().any(|flaw| flaw.kind == FlawKind::Damage);
            let is_cut = at > last_line && (at + 1 == text.len() || changed[at] == 0);
            assert_eq!(is_damage, !is_cut, "byte {at}, bit {bit}: {:?}", contents.flaws);
        }
    }
}

#[test]
fn each_cut_leaves_all_that_was_synced_before_the_last_batch() {
    let (text, subjects) = small_file();
    let begins: Vec<usize> = text.match_indices('\n').map(|(at, _)| at + 1).collect();
    for at in 0..text.len() {
        let contents = Contents::read(&text.as_bytes()[..at], true).unwrap();
        assert!(
            contents.flaws.iter().all(|flaw| flaw.kind == FlawKind::AtTheEnd),
            "{at}: {:?}",
            contents.flaws
        );
        let stored: Vec<_> =
            held(vec![contents]).into_iter().filter(|one| one.state == State::Stored).collect();
        // The marks are in the lines 4, 6 and 7.
        let marks = [3, 5, 6].iter().filter(|line| at >= begins[**line]).count();
        assert_eq!(stored.len(), marks, "cut at {at}");
        assert!(stored.iter().all(|one| subjects.contains(&one.subject)));
    }
}

/// Blocks of the last batch that did not reach the disk are zeros, and each of them may take the ends of several lines.
#[test]
fn blocks_that_are_missing_in_the_last_batch_are_no_damage() {
    let (mut text, subjects) = small_file();
    let begins = text.len();
    for n in 1..=5 {
        let says = Says::Entry { subject: subjects[0].clone(), sealed: Sealed::Whole(vec![7; 90]) };
        let at = jiff::Timestamp::UNIX_EPOCH;
        Line { place: Place { batch: 6, n }, of: 5, at, says }.push_to(&mut text);
    }
    for size in [1, 100, 300, 700] {
        for from in begins..text.len() {
            for to in [from + size, text.len()] {
                let mut cut = text.clone().into_bytes();
                let to = to.min(cut.len());
                cut[from..to].fill(0);
                let contents = judge(&cut, &subjects, &format!("{from} to {to}"));
                let damage = contents.flaws.iter().find(|flaw| flaw.kind == FlawKind::Damage);
                assert_eq!(damage, None, "{from} to {to}");
                assert_eq!(
                    contents.tail.map(|tail| tail.offset),
                    u64::try_from(begins).ok(),
                    "{from} to {to}"
                );
            }
        }
    }
}

/// The first start after a power cut is cut off by another one, before the line that tells of the torn end is on the disk.
#[test]
fn a_power_cut_after_a_power_cut_is_no_damage() {
    let (whole, subjects) = small_file();
    let at = jiff::Timestamp::UNIX_EPOCH;
    let entry = |batch, n, of| {
        let says = Says::Entry { subject: subjects[0].clone(), sealed: Sealed::Whole(vec![7; 20]) };
        let mut text = String::new();
        Line { place: Place { batch, n }, of, at, says }.push_to(&mut text);
        text.into_bytes()
    };
    for entries in 1..3 {
        let mut torn = whole.clone().into_bytes();
        for n in 1..=entries {
            torn.extend(entry(6, n, entries));
        }
        // Zeros in the record of the last line.
        let record = torn.len() - 6;
        torn[record..record + 3].fill(0);
        let tail = Contents::read(&*torn, true).unwrap().tail.unwrap();
        assert_eq!(usize::try_from(tail.offset).unwrap(), whole.len());
        let begins = torn.len();
        let mut told = String::new();
        let says = Says::Torn { batch: tail.batch, offset: tail.offset };
        Line { place: Place { batch: 7, n: 1 }, of: 3, at, says }.push_to(&mut told);
        let behind = begins + told.len();
        let more = [&torn[..], told.as_bytes(), &entry(7, 2, 3), &entry(7, 3, 3)].concat();
        assert!(Contents::read(&*more, true).unwrap().tail.is_none());
        for from in begins..behind {
            for to in [from + 1, behind - 1, behind, behind + 30] {
                let mut cut = more.clone();
                cut[from..to.max(from + 1)].fill(0);
                let contents = judge(&cut, &subjects, &format!("{from} to {to}"));
                let damage = contents.flaws.iter().find(|flaw| flaw.kind == FlawKind::Damage);
                assert_eq!(damage, None, "{entries} entries, {from} to {to}");
                assert_eq!(contents.tail.map(|again| again.offset), Some(tail.offset), "{from} to {to}");
            }
        }
    }
}

#[test]
fn lines_that_were_taken_out_or_came_twice_are_told() {
    let (text, subjects) = small_file();
    let lines: Vec<&str> = text.split_inclusive('\n').collect();
    for out in 0..lines.len() - 1 {
        let rest: String =
            lines.iter().enumerate().filter(|(at, _)| *at != out).map(|(_, line)| *line).collect();
        let contents = judge(rest.as_bytes(), &subjects, &format!("line {out}"));
        assert!(contents.flaws.iter().any(|flaw| flaw.kind == FlawKind::Damage), "line {out} is missing");
    }
    let twice = format!("{text}{}", lines[1]);
    assert_eq!(Contents::read(twice.as_bytes(), true).unwrap().flaws.len(), 1);
}

#[tokio::test]
async fn a_torn_end_is_told_once_and_hides_nothing_that_comes_later() {
    let (text, _) = small_file();
    for at in text.trim_end().rfind('\n').unwrap() - 40..text.len() {
        for garbage in [&b""[..], &[0; 100], b"\0\n\n", b"x\0\ny"] {
            let fixture = Fixture::new();
            let torn = [&text.as_bytes()[..at], garbage].concat();
            fs::write(fixture.path(), &torn).unwrap();
            let store = Arc::new(MemoryStore::new());
            let escrowed = fixture.open(store);
            let later = record(7);
            escrowed.create(&entry("later"), &later).await.unwrap();
            fixture.closed(escrowed).await;
            let contents = read(&fixture.path());
            assert!(
                contents.flaws.iter().all(|flaw| flaw.kind == FlawKind::Torn),
                "{at}: {:?}",
                contents.flaws
            );
            assert!(states(&fixture.path()).contains(&("later".to_owned(), State::Stored)), "cut at {at}");
        }
    }
}

#[tokio::test]
async fn another_file_in_its_place_is_left_alone() {
    let fixture = Fixture::new();
    for content in ["root:x:0:0:root:/root:/bin/sh\n", "0123456789abcdef 1 1/1 x y\n"] {
        fs::write(fixture.path(), content).unwrap();
        let settings = fixture.settings(EscrowFailure::Refuse);
        let error = open(&settings, Arc::new(MemoryStore::new())).err().unwrap().to_string();
        assert!(error.contains("escrow.path") && error.contains("no escrow file"), "{error}");
        assert_eq!(fs::read_to_string(fixture.path()).unwrap(), content);
    }
    let mut text = String::new();
    let says = Says::Begins { version: "2".into() };
    let at = jiff::Timestamp::now();
    Line { place: Place { batch: 1, n: 1 }, of: 1, at, says }.push_to(&mut text);
    fs::write(fixture.path(), &text).unwrap();
    let settings = fixture.settings(EscrowFailure::Refuse);
    let error = open(&settings, Arc::new(MemoryStore::new())).err().unwrap().to_string();
    assert!(error.contains("version 2"), "{error}");
    assert_eq!(fs::read_to_string(fixture.path()).unwrap(), text);
}

#[tokio::test]
async fn a_second_process_and_a_missing_directory_are_refused() {
    let fixture = Fixture::new();
    let _first = fixture.open(Arc::new(MemoryStore::new()));
    let settings = fixture.settings(EscrowFailure::Refuse);
    let error = open(&settings, Arc::new(MemoryStore::new())).err().unwrap().to_string();
    assert!(error.contains("another process has it open"), "{error}");
    let settings = EscrowSettings { path: fixture.dir.path().join("no/escrow"), ..settings };
    let error = open(&settings, Arc::new(MemoryStore::new())).err().unwrap().to_string();
    assert!(error.contains("is the volume mounted?"), "{error}");
    assert_eq!(fs::metadata(fixture.path()).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn the_files_of_two_servers_are_read_as_one_by_the_times_of_their_lines() {
    let fingerprint = |byte: u8| hex::encode([byte; 16]);
    let subject = |byte: u8| Subject::new("my-key", Some(&fingerprint(byte)));
    let line = |batch: u64, second: i64, says: Says| {
        let mut text = String::new();
        let at = jiff::Timestamp::from_second(second).unwrap();
        Line { place: Place { batch, n: 1 }, of: 1, at, says }.push_to(&mut text);
        text
    };
    let begins = line(1, 0, Says::Begins { version: FORMAT.into() });
    let entry = |batch, at, byte| {
        let sealed = Sealed::Whole(vec![byte]);
        let stored = Says::Stored { entry: Place { batch, n: 1 }, subject: subject(byte) };
        let entry = line(batch, at, Says::Entry { subject: subject(byte), sealed });
        entry + &line(batch + 1, at, stored)
    };
    let chosen = |files: &[String]| {
        let files = files.iter().map(|text| Contents::read(text.as_bytes(), true).unwrap()).collect();
        let held = held(files);
        let plan = Plan::of(&held, &[]);
        plan.choices.get(&name("my-key")).map(|choice| held[choice.key].subject.fingerprint.to_string())
    };
    let file = |parts: &[String]| begins.clone() + &parts.concat();
    // One creates, the other deletes for ever.
    let gone = |at| line(2, at, Says::Gone(subject(1)));
    assert_eq!(chosen(&[file(&[entry(2, 10, 1)]), file(&[gone(20)])]), None);
    assert_eq!(chosen(&[file(&[entry(2, 30, 1)]), file(&[gone(20)])]), Some(fingerprint(1)));
    // The other makes another key of the name.
    let other = file(&[gone(20), entry(3, 21, 2)]);
    assert_eq!(chosen(&[file(&[entry(2, 10, 1)]), other.clone()]), Some(fingerprint(2)));
    assert_eq!(chosen(&[other, file(&[entry(2, 10, 1)])]), Some(fingerprint(2)));
    // Deleted with a grace by one, restored by the other.
    let deleted = line(4, 20, Says::Deleted(subject(1)));
    let restored = line(2, 25, Says::Restored(subject(1)));
    let first = file(&[entry(2, 10, 1), deleted]);
    assert_eq!(chosen(std::slice::from_ref(&first)), None);
    assert_eq!(chosen(&[first, file(&[restored])]), Some(fingerprint(1)));
}

#[test]
fn two_keys_of_one_name_are_told_and_neither_is_taken_unasked() {
    let fingerprints = [1, 2].map(|byte: u8| hex::encode([byte; 16]));
    let subjects = fingerprints.each_ref().map(|one| Subject::new("my-key", Some(one)));
    let mut text = String::new();
    let mut push = |batch, says| {
        let at = jiff::Timestamp::UNIX_EPOCH;
        Line { place: Place { batch, n: 1 }, of: 1, at, says }.push_to(&mut text);
    };
    push(1, Says::Begins { version: FORMAT.into() });
    for (batch, subject) in [(2, &subjects[0]), (4, &subjects[1])] {
        push(batch, Says::Entry { subject: subject.clone(), sealed: Sealed::Whole(vec![1]) });
        push(batch + 1, Says::Stored { entry: Place { batch, n: 1 }, subject: subject.clone() });
    }
    let plan_of = |text: &str, wanted: &[String]| {
        let held = held(vec![Contents::read(text.as_bytes(), true).unwrap()]);
        let plan = Plan::of(&held, wanted);
        let chosen = plan.choices.get(&name("my-key")).map(|choice| held[choice.key].subject.clone());
        (chosen, plan.ambiguous.len())
    };
    assert_eq!(plan_of(&text, &[]), (None, 1));
    for (fingerprint, subject) in fingerprints.iter().zip(&subjects) {
        assert_eq!(plan_of(&text, std::slice::from_ref(fingerprint)), (Some(subject.clone()), 0));
    }
}

#[test]
fn an_endless_line_is_damage_and_hides_nothing_behind_it() {
    let (text, subjects) = small_file();
    let endless = "x".repeat(9 << 20);
    let contents = judge(format!("{endless}\n{text}").as_bytes(), &subjects, "a line");
    assert_eq!(contents.flaws.len(), 1);
    assert_eq!(contents.batch, 5);
    assert_eq!(contents.len, (endless.len() + 1 + text.len()) as u64);
}

#[tokio::test]
async fn a_file_with_the_last_batch_that_there_is_is_refused() {
    let fixture = Fixture::new();
    let mut text = String::new();
    let at = jiff::Timestamp::UNIX_EPOCH;
    for (batch, n) in [(1, 1), (u64::MAX, u32::MAX)] {
        let says = Says::Begins { version: FORMAT.into() };
        Line { place: Place { batch, n }, of: n, at, says }.push_to(&mut text);
    }
    fs::write(fixture.path(), &text).unwrap();
    let settings = fixture.settings(EscrowFailure::Refuse);
    let error = open(&settings, Arc::new(MemoryStore::new())).err().unwrap().to_string();
    assert!(error.contains("batch 18446744073709551615"), "{error}");
}

#[tokio::test]
async fn a_foreign_file_beside_it_stays() {
    let fixture = Fixture::new();
    let foreign = fixture.dir.path().join("escrow.new");
    fs::write(&foreign, "of somebody").unwrap();
    let _escrowed = fixture.open(Arc::new(MemoryStore::new()));
    assert_eq!(fs::read_to_string(&foreign).unwrap(), "of somebody");
    assert_eq!(fs::read_dir(fixture.dir.path()).unwrap().count(), 2, "nothing else was left");
}
