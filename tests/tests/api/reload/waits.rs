//! Reloads that have to wait, and files that cannot be loaded at first.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use kms_tests::Protocol;
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use super::super::certificates::{authority, pem_of, signed};
use super::server::{
    FILES_LOADED, GENERATE, LOADED, REFUSED, Reloaded, server_certificate, write_certificate,
};

const FILES_REFUSED: &str = "cannot be used, the old ones stay in force";

const LATER: &str = "take effect at the next start: keystore";

/// Time for the server to look at the certificate files several times.
const LOOKS: Duration = Duration::from_secs(5);

/// Replaces a file by a pipe.
fn put_pipe(path: &Path) {
    let pipe = path.with_extension("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::RWXU, 0).unwrap();
    fs::rename(pipe, path).unwrap();
}

/// Replaces a file or a pipe by a file.
fn put_file(path: &Path, content: &str) {
    let file = path.with_extension("new");
    fs::write(&file, content).unwrap();
    fs::rename(file, path).unwrap();
}

/// Waits until a reload reads the pipe, and opens it for writing.
fn writer(pipe: &Path) -> fs::File {
    let pipe = pipe.to_owned();
    let (sender, opened) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(fs::OpenOptions::new().write(true).open(pipe)));
    opened.recv_timeout(Duration::from_secs(20)).expect("nobody reads the pipe").unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_heard_while_a_reload_waits_for_a_file() {
    let mut server = tokio::task::block_in_place(Reloaded::start);
    let config = server.file("kms.toml");
    put_pipe(&config);
    server.hang_up();
    let _writer = writer(&config);
    let mut app = server.client(Protocol::Http2, &server.app);
    assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    kill_process(Pid::from_child(server.child()), Signal::TERM).unwrap();
    server.until_told("server stops", 1);
    assert_eq!(server.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_during_a_reload_are_one_more_reload() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let config = server.file("kms.toml");
    put_pipe(&config);
    server.hang_up();
    let mut pipe = writer(&config);
    put_file(&config, &server.config("off", None));
    for _ in 0..3 {
        server.hang_up();
    }
    let mut app = server.client(Protocol::Http2, &server.app);
    assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    pipe.write_all(server.config("off", Some(&server.app)).as_bytes()).unwrap();
    drop(pipe);
    server.until_told(LOADED, 2);
    assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 403, "the last one counts");
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.log().matches(LOADED).count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_is_renewed_during_a_reload_is_loaded_after_it() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let before = server_certificate(&server).await;
    let config = server.file("kms.toml");
    put_pipe(&config);
    server.hang_up();
    let mut pipe = writer(&config);
    write_certificate(server.directory.path());
    pipe.write_all(server.config("off", Some(&server.app)).as_bytes()).unwrap();
    drop(pipe);
    server.until_told(LOADED, 1);
    let began = Instant::now();
    while server_certificate(&server).await == before {
        assert!(began.elapsed() < Duration::from_secs(20), "the old certificate is presented");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The files do not change. For a while the system does not let the server open them.
#[tokio::test(flavor = "multi_thread")]
async fn files_that_could_not_be_loaded_are_tried_again_though_they_have_not_changed() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let before = server_certificate(&server).await;
    let process = Some(Pid::from_child(server.child()));
    let of_files = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(4096) };
        prlimit(process, Resource::Nofile, limit).unwrap();
    };
    of_files(1);
    write_certificate(server.directory.path());
    server.until_told(FILES_REFUSED, 1);
    tokio::time::sleep(LOOKS).await;
    assert_eq!(server.log().matches(FILES_REFUSED).count(), 1, "{}", server.log());
    of_files(4096);
    server.until_told(FILES_LOADED, 1);
    assert_ne!(server_certificate(&server).await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_is_told_once_and_told_again_when_it_is_another() {
    let server = tokio::task::block_in_place(Reloaded::start);
    let before = server_certificate(&server).await;
    let key = server.file("server.key");
    let good = fs::read_to_string(&key).unwrap();
    put_file(&key, "no key");
    server.until_told(FILES_REFUSED, 1);
    // Another file fails for the same reason.
    put_file(&key, "no key either");
    tokio::time::sleep(LOOKS).await;
    assert_eq!(server.log().matches(FILES_REFUSED).count(), 1, "{}", server.log());
    // The server does not wait for a pipe.
    put_pipe(&key);
    server.until_told(FILES_REFUSED, 2);
    assert!(server.log().contains("server.key: it is a pipe"), "{}", server.log());
    server.hang_up();
    server.until_told(REFUSED, 1);
    assert_eq!(server_certificate(&server).await, before);
    put_file(&key, &good);
    server.until_told(FILES_LOADED, 1);
    server.hang_up();
    server.until_told(LOADED, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn cas_in_a_pipe_are_refused_and_not_waited_for() {
    let authority = authority();
    let ca = pem_of(&authority.0);
    let mut server = tokio::task::block_in_place(|| {
        let identities = (signed(&authority, |_| {}), signed(&authority, |_| {}));
        Reloaded::start_with(identities.0, identities.1, &[("ca.crt", &ca)], |server| {
            server.config("on", Some(&server.app)).replace("ca = \"server.crt\"", "ca = \"ca.crt\"")
        })
    });
    put_pipe(&server.file("ca.crt"));
    server.until_told(FILES_REFUSED, 1);
    server.hang_up();
    server.until_told(REFUSED, 1);
    assert!(server.log().contains("ca.crt: it is a pipe"), "{}", server.log());
    let mut app = server.client(Protocol::Http2, &server.app);
    assert_eq!(app.send("POST", GENERATE, "{}").await.unwrap().code(), 200);
    put_file(&server.file("ca.crt"), &ca);
    server.until_told(FILES_LOADED, 1);
    server.hang_up();
    server.until_told(LOADED, 1);
    kill_process(Pid::from_child(server.child()), Signal::TERM).unwrap();
    assert_eq!(server.ended().code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_the_next_start_is_told_against_what_is_in_force() {
    let vault = |server: &Reloaded, token: &str| {
        let section = format!(
            "[keystore.vault]\nendpoint = \"http://127.0.0.1:1\"\ntls.ca = \"server.crt\"\ntoken.value = \"{token}\""
        );
        let config = server.config("off", Some(&server.app)).replace("[keystore.memory]", &section);
        config.replace("[[keys]]\nname = \"my-key\"\n", "")
    };
    let server = tokio::task::block_in_place(|| {
        let (admin, app) = (kms_tests::TestIdentity::new(), kms_tests::TestIdentity::new());
        Reloaded::start_with(admin, app, &[], |server| vault(server, "one"))
    });
    // Only a secret differs, and no text shows it.
    server.reload(&vault(&server, "two"), LATER);
    // The change is still not in force.
    server.reload(&vault(&server, "two"), LATER);
    server.reload(&vault(&server, "one"), LOADED);
    assert_eq!(server.log().matches(LATER).count(), 2, "{}", server.log());
}
