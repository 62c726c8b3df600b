//! How often the server reads the status of the key store, whoever asks for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use kms_core::ErrorKind;
use kms_server::settings::RouteSettings;
use kms_tests::faults::FaultyStore;
use kms_tests::{Protocol, STATUS_KEPT, TestServer, TestServerBuilder, ask_at_once};

use super::probes::get;

fn server(store: &FaultyStore) -> TestServerBuilder {
    let mut server = TestServer::builder();
    server.settings.probes = Some(SocketAddr::from(([127, 0, 0, 1], 0)));
    let open = RouteSettings { skip_auth: true, ..RouteSettings::default() };
    server.settings.routes = ["/v1/ready", "/v1/status"].map(|path| (path.to_owned(), open)).into();
    server.store(store.clone())
}

/// Sends requests to the listener for probes, to `/v1/ready` and to `/v1/status` at once, and returns the
/// statuses.
async fn ask_everywhere(server: &TestServer) -> Vec<u16> {
    let (address, probes) = (server.address(), server.probes_address().unwrap());
    // The admin asks, because strangers have fewer streams.
    let admin = server.admin_identity();
    let of_probes = async {
        let asking: Vec<_> = (0..20).map(|_| tokio::spawn(get(probes, "/v1/ready"))).collect();
        let mut codes = Vec::new();
        for asking in asking {
            codes.push(asking.await.unwrap().split(' ').nth(1).unwrap().parse().unwrap());
        }
        codes
    };
    let ready = ask_at_once(address, admin, "/v1/ready", 200);
    let status = ask_at_once(address, admin, "/v1/status", 200);
    let (of_probes, ready, status) = tokio::join!(of_probes, ready, status);
    [of_probes, ready, status].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_ask_at_once_hear_the_answer_to_one_question() {
    let store = FaultyStore::new();
    let server = server(&store).start().await;
    let before = store.statuses();
    store.hang();
    let (asked, ()) = tokio::join!(ask_everywhere(&server), async {
        store.wait_for_waiting(1).await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        assert_eq!(store.statuses() - before, 1, "one question while none is answered");
        store.resume();
    });
    assert_eq!(asked, [200; 420]);
    let began = Instant::now();
    while began.elapsed() < 2 * STATUS_KEPT {
        assert_eq!(ask_everywhere(&server).await, [200; 420]);
    }
    let seconds = usize::try_from(began.elapsed().as_secs()).unwrap();
    let questions = store.statuses() - before;
    assert!((2..=seconds + 2).contains(&questions), "{questions} in {seconds} s");
}

/// No request waits longer than the timeout of its route. The server does not ask again while the store is
/// silent.
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_says_nothing_is_asked_once() {
    let store = FaultyStore::new();
    let server = server(&store).route_timeout(Duration::from_secs(1)).start().await;
    let before = store.statuses();
    store.hang();
    let began = Instant::now();
    for _ in 0..2 {
        assert_eq!(ask_everywhere(&server).await, [504; 420]);
    }
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
    assert_eq!(store.statuses() - before, 1);
    // The question to the store goes on after its clients have left.
    store.resume();
    let mut admin = server.admin(Protocol::Http1);
    assert_eq!(admin.send("GET", "/v1/ready", "").await.unwrap().code(), 200);
    assert_eq!(store.statuses() - before, 1);
}

#[tokio::test]
async fn an_answer_is_told_for_a_second_and_no_longer() {
    let store = FaultyStore::new();
    let server = server(&store).start().await;
    let mut admin = server.admin(Protocol::Http1);
    let mut ready = async || admin.send("GET", "/v1/ready", "").await.unwrap().code();
    for (fault, code) in [(None, 200), (Some(ErrorKind::Sealed), 504), (Some(ErrorKind::LoginRefused), 502)] {
        store.fail(fault);
        tokio::time::sleep(STATUS_KEPT).await;
        assert_eq!(ready().await, code, "{fault:?}");
        let asked = store.statuses();
        store.fail(Some(ErrorKind::Unsupported));
        assert_eq!(ready().await, code, "{fault:?}");
        assert_eq!(store.statuses(), asked);
    }
}
