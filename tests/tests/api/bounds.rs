//! Everything from outside has a bound. The server answers or closes what exceeds it, and leaves nothing
//! hanging.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kms_server::Bounds;
use kms_tests::client::{read_frame, tls_connect};
use kms_tests::{Protocol, TestIdentity, TestServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
/// The head of a HEADERS frame of 100 bytes on stream 1, with END_HEADERS.
const HEADERS: &[u8] = &[0, 0, 100, 1, 4, 0, 0, 0, 1];
/// A whole HEADERS frame of one byte on stream 1, without END_HEADERS.
const OPEN_HEADERS: &[u8] = &[0, 0, 1, 1, 0, 0, 0, 0, 1, 0x82];
/// The head of a DATA frame of 100 bytes on stream 1.
const DATA: &[u8] = &[0, 0, 100, 0, 0, 0, 0, 0, 1];

/// Returns short bounds, so that the tests are short.
///
/// [`the_bounds_are_those_that_are_promised`] tests the real ones.
fn short() -> Bounds {
    let mut bounds = Bounds::default();
    bounds.head = Duration::from_millis(600);
    bounds.data = Duration::from_millis(1200);
    bounds.write = Duration::from_millis(1200);
    bounds.idle = Duration::from_millis(1500);
    bounds.close = Duration::from_millis(600);
    bounds
}

async fn connect(server: &TestServer, alpn: &str) -> TlsStream<TcpStream> {
    let config = server.admin_identity().client_config(&[alpn]);
    tls_connect(server.address(), Arc::new(config)).await.unwrap()
}

/// Sends `parts` with a pause after each, and waits until the server closes the connection.
///
/// Returns how long that took and what the server sent.
async fn until_closed(
    tls: &mut TlsStream<TcpStream>,
    parts: &[&[u8]],
    pause: Duration,
) -> (Duration, Vec<u8>) {
    let begun = Instant::now();
    let (mut read, mut write) = tokio::io::split(tls);
    let sending = async {
        for part in parts {
            if write.write_all(part).await.and(write.flush().await).is_err() {
                break;
            }
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    let reading = async {
        let mut answer = Vec::new();
        let _ = read.read_to_end(&mut answer).await;
        answer
    };
    let answer = tokio::select! {
        answer = tokio::time::timeout(Duration::from_secs(20), reading) => answer.expect("left hanging"),
        () = sending => unreachable!(),
    };
    (begun.elapsed(), answer)
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_frames_have_to_be_completed() {
    let server = TestServer::builder().bounds(short()).start().await;
    let start = [PREFACE, SETTINGS].concat();
    let drip: Vec<&[u8]> = b"GET /version HTTP/1.1\r\nhost: abcdefghijklmnopqrstuvwxyz".chunks(1).collect();
    let drip2: Vec<&[u8]> = [start.as_slice()]
        .into_iter()
        .chain(HEADERS.chunks(1))
        .chain([0u8; 60].chunks(1).map(|_| &b"\0"[..]))
        .collect();
    let cases: Vec<(&str, &str, Vec<&[u8]>, u128)> = vec![
        ("http/1.1", "nothing at all", vec![], 600),
        ("http/1.1", "a half head", vec![b"GET /version HTTP/1.1\r\nhost:"], 600),
        ("http/1.1", "a head drop by drop", drip, 600),
        ("h2", "nothing at all", vec![], 600),
        ("h2", "a half preface", vec![&PREFACE[..10]], 600),
        ("h2", "a preface without settings", vec![PREFACE], 600),
        ("h2", "a half frame header", vec![&start, &HEADERS[..4]], 600),
        ("h2", "half of a HEADERS frame", vec![&start, HEADERS, &[0; 20]], 600),
        ("h2", "a frame drop by drop", drip2, 600),
        ("h2", "HEADERS without END_HEADERS", vec![&start, OPEN_HEADERS], 600),
    ];
    for (alpn, what, parts, bound) in cases {
        let mut tls = connect(&server, alpn).await;
        let (took, answer) = until_closed(&mut tls, &parts, Duration::from_millis(40)).await;
        let (least, most) = (bound - 200, bound + 700);
        assert!((least..most).contains(&took.as_millis()), "{alpn}, {what}: {took:?}");
        assert!(!String::from_utf8_lossy(&answer).contains("version"), "{alpn}, {what}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_head_has_the_same_bound() {
    let server = TestServer::builder().bounds(short()).start().await;
    let mut tls = connect(&server, "http/1.1").await;
    for _ in 0..3 {
        tls.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut buffer = [0; 1024];
        assert!(tls.read(&mut buffer).await.unwrap() > 0);
        // This is longer than a head may take. The time between requests does not count.
        tokio::time::sleep(Duration::from_millis(900)).await;
    }
    let (took, _) = until_closed(&mut tls, &[b"GET /ver"], Duration::ZERO).await;
    assert!((400..1300).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_frame_may_take_longer_than_a_head() {
    let server = TestServer::builder().bounds(short()).route_timeout(Duration::from_secs(10)).start().await;
    let mut tls = connect(&server, "h2").await;
    // HPACK: POST, https, and a path that is not indexed.
    let path = b"/v1/key/generate/a";
    let mut block = vec![0x83, 0x87, 0x04, u8::try_from(path.len()).unwrap()];
    block.extend_from_slice(path);
    let mut headers = vec![0, 0, u8::try_from(block.len()).unwrap(), 1, 4, 0, 0, 0, 1];
    headers.extend(block);
    let request = [PREFACE, SETTINGS, headers.as_slice(), DATA, b"{"].concat();
    let (took, _) = until_closed(&mut tls, &[&request], Duration::ZERO).await;
    assert!((1000..2200).contains(&took.as_millis()), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_have_to_be_completed() {
    let server = TestServer::builder().bounds(short()).start().await;
    // The header of a TLS record announces a client hello that never arrives.
    for bytes in [&b""[..], &[0x16, 3, 1, 2, 0, 1], &[0x16, 3]] {
        let begun = Instant::now();
        let mut tcp = TcpStream::connect(server.address()).await.unwrap();
        tcp.write_all(bytes).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(10), tcp.read_to_end(&mut Vec::new())).await;
        assert!(read.is_ok(), "left hanging");
        let took = begun.elapsed().as_millis();
        assert!((400..1300).contains(&took), "{took}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_end_and_busy_ones_stay() {
    let server = TestServer::builder().bounds(short()).start().await;
    for protocol in Protocol::ALL {
        let mut client = server.admin(protocol);
        client.connect().await.unwrap();
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(4) {
            assert_eq!(client.send("GET", "/version", "").await.unwrap().code(), 200);
            assert!(client.is_connected());
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let idle = Instant::now();
        while client.is_connected() {
            assert!(idle.elapsed() < Duration::from_secs(5), "{protocol:?} is left open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert!(idle.elapsed() > Duration::from_millis(800), "{protocol:?}: {:?}", idle.elapsed());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_peer_that_stays_although_it_is_told_to_go_is_closed() {
    let server = TestServer::builder().bounds(short()).start().await;
    for (alpn, parts) in
        [("h2", [PREFACE, SETTINGS]), ("http/1.1", [b"GET /version HTTP/1.1\r\n", b"host: x\r\n\r\n"])]
    {
        let mut tls = connect(&server, alpn).await;
        let (took, _) = until_closed(&mut tls, &parts, Duration::ZERO).await;
        let bounds = short().idle..short().idle + short().close + Duration::from_secs(2);
        assert!(bounds.contains(&took), "{alpn}: {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_does_not_read_is_closed() {
    let server = TestServer::builder().key("a").bounds(short()).start().await;
    let plaintext = "A".repeat(800_000);
    let body = format!("{{\"plaintext\":\"{plaintext}\"}}");
    let request =
        format!("PUT /v1/key/encrypt/a HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let mut tls = connect(&server, "http/1.1").await;
    let begun = Instant::now();
    let outcome = loop {
        if let Err(error) = tls.write_all(request.as_bytes()).await {
            break error;
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "left hanging");
    };
    assert!(
        matches!(outcome.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe),
        "{outcome}"
    );
    assert_eq!(server.admin(Protocol::Http1).send("GET", "/version", "").await.unwrap().code(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_flood_ends_its_connection_only() {
    let server = TestServer::start().await;
    let mut good = server.admin(Protocol::Http2);
    assert_eq!(good.send("GET", "/version", "").await.unwrap().code(), 200);
    let mut tls = connect(&server, "h2").await;
    let mut flood = [PREFACE, SETTINGS].concat();
    for number in 0..20_000u32 {
        let stream = (2 * number + 1).to_be_bytes();
        // HPACK: GET, https, path /. RST_STREAM with CANCEL follows.
        flood.extend_from_slice(&[0, 0, 3, 1, 5]);
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(&[0x82, 0x87, 0x84, 0, 0, 4, 3, 0]);
        flood.extend_from_slice(&stream);
        flood.extend_from_slice(&[0, 0, 0, 8]);
    }
    let (took, answer) = until_closed(&mut tls, &[&flood], Duration::ZERO).await;
    assert!(took < Duration::from_secs(5), "{took:?}");
    // The answer has GOAWAY (frame type 7) with ENHANCE_YOUR_CALM (11), unless the connection was reset
    // before that was read.
    let goaway = answer.windows(17).any(|frame| frame[3] == 7 && frame[13..17] == [0, 0, 0, 11]);
    assert!(goaway || answer.len() < 17, "{answer:?}");
    let begun = Instant::now();
    assert_eq!(good.send("GET", "/version", "").await.unwrap().code(), 200);
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_a_connection_are_limited_and_more_so_for_strangers() {
    let stranger = TestIdentity::new();
    let server = TestServer::start().await;
    for (identity, streams) in [(server.admin_identity(), 256), (&stranger, 8)] {
        let config = Arc::new(identity.client_config(&["h2"]));
        let mut tls = tls_connect(server.address(), config).await.unwrap();
        tls.write_all(&[PREFACE, SETTINGS].concat()).await.unwrap();
        let (kind, _, settings) = read_frame(&mut tls).await.unwrap();
        assert_eq!(kind, 4, "the first frame is SETTINGS");
        let value = |id: u8| {
            let setting = settings.chunks(6).find(|setting| setting[1] == id)?;
            Some(u32::from_be_bytes(setting[2..6].try_into().unwrap()))
        };
        assert_eq!(value(3), Some(streams), "MAX_CONCURRENT_STREAMS");
        assert_eq!(value(6), Some(16_384), "MAX_HEADER_LIST_SIZE");
    }
}

/// A refusal waits for no body. The server sends it at once and then resets the stream with `NO_ERROR`, so
/// that the client takes the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_on_http2_is_sent_at_once_and_its_stream_reset() {
    let server = TestServer::builder().key("a").start().await;
    let stranger = TestIdentity::new();
    for identity in [server.admin_identity(), &stranger] {
        let mut tls = tls_connect(server.address(), Arc::new(identity.client_config(&["h2"]))).await.unwrap();
        // POST, https, path /. This route does not exist, and the body never arrives.
        let request = [0, 0, 3, 1, 4, 0, 0, 0, 1, 0x83, 0x87, 0x84];
        tls.write_all(&[PREFACE, SETTINGS, &request].concat()).await.unwrap();
        let begun = Instant::now();
        let mut answered = false;
        let reset = loop {
            let frame = tokio::time::timeout(Duration::from_secs(5), read_frame(&mut tls)).await;
            match frame.expect("the stream is left open").unwrap() {
                (0, 1, _) => {
                    assert!(begun.elapsed() < Duration::from_millis(800), "{:?}", begun.elapsed());
                    answered = true;
                }
                (3, _, code) => break code,
                _ => {}
            }
        };
        assert!(answered && reset == [0, 0, 0, 0], "{answered} {reset:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_strangers_make_room_and_known_clients_keep_their_connections() {
    let member = TestIdentity::new();
    let builder = TestServer::builder().key("a").connections(40);
    let server = builder.policy("p", &["/v1/key/*"], &[], &[member.identity()]).start().await;
    let mut before = Vec::new();
    for protocol in Protocol::ALL {
        for identity in [&member, server.admin_identity()] {
            let mut client = server.client(protocol, identity);
            assert_eq!(client.send("POST", "/v1/key/generate/a", "{}").await.unwrap().code(), 200);
            before.push(client);
        }
    }
    let config = Arc::new(TestIdentity::new().client_config(&["http/1.1"]));
    let mut idle = Vec::new();
    for number in 0..300 {
        if number % 3 == 0 {
            idle.push((None, Some(TcpStream::connect(server.address()).await.unwrap())));
            continue;
        }
        let mut tls = tls_connect(server.address(), Arc::clone(&config)).await.unwrap();
        tls.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let answer = tokio::time::timeout(Duration::from_secs(2), tls.read_u8()).await;
        assert_eq!(answer.expect("a stranger can always come").unwrap(), b'H');
        idle.push((Some(tls), None));
    }
    let mut late = server.client(Protocol::Http2, &member);
    let begun = Instant::now();
    assert_eq!(late.send("POST", "/v1/key/generate/a", "{}").await.unwrap().code(), 200);
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    for mut client in before {
        assert!(client.is_connected(), "it was closed for a stranger");
        assert_eq!(client.send("POST", "/v1/key/generate/a", "{}").await.unwrap().code(), 200);
    }
    let metrics = server.admin(Protocol::Http1).send("GET", "/metrics", "").await.unwrap();
    let line =
        metrics.text().lines().find_map(|line| line.strip_prefix("kms_connections_evicted_total ")).unwrap();
    assert!(line.parse::<f64>().unwrap() >= 260.0, "{line}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_beyond_the_limit_wait_for_their_turn() {
    let server = TestServer::builder().connections(3).bounds(short()).start().await;
    let mut held = Vec::new();
    for _ in 0..3 {
        let mut client = server.admin(Protocol::Http1);
        assert_eq!(client.send("GET", "/version", "").await.unwrap().code(), 200);
        held.push(client);
    }
    let mut fourth = server.admin(Protocol::Http1);
    let mut waiting = Box::pin(fourth.send("GET", "/version", ""));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    held.pop();
    let answer = tokio::time::timeout(Duration::from_secs(3), waiting).await.unwrap().unwrap();
    assert_eq!(answer.code(), 200);
}

/// Operators get five seconds for a handshake, a head and a frame.
#[tokio::test(flavor = "multi_thread")]
async fn the_bounds_are_those_that_are_promised() {
    let server = TestServer::start().await;
    let start = [PREFACE, SETTINGS].concat();
    let mut cases: Vec<(TlsStream<TcpStream>, Vec<u8>)> = vec![
        (connect(&server, "http/1.1").await, Vec::new()),
        (connect(&server, "http/1.1").await, b"GET /version HTTP/1.1\r\n".to_vec()),
        (connect(&server, "h2").await, PREFACE[..10].to_vec()),
        (connect(&server, "h2").await, [&start, OPEN_HEADERS].concat()),
        (connect(&server, "h2").await, [&start, &HEADERS[..5]].concat()),
    ];
    let mut all = Vec::new();
    for (mut tls, bytes) in cases.drain(..) {
        all.push(tokio::spawn(async move { until_closed(&mut tls, &[&bytes], Duration::ZERO).await.0 }));
    }
    let address = server.address();
    all.push(tokio::spawn(async move {
        let begun = Instant::now();
        let mut tcp = TcpStream::connect(address).await.unwrap();
        let _ = tcp.read_to_end(&mut Vec::new()).await;
        begun.elapsed()
    }));
    for (number, took) in all.into_iter().enumerate() {
        let took = took.await.unwrap();
        assert!((4500..6500).contains(&took.as_millis()), "case {number}: {took:?}");
    }
    let stranger = TestIdentity::new();
    assert_eq!(
        server.client(Protocol::Http2, &stranger).send("GET", "/version", "").await.unwrap().code(),
        200
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_of_strangers_that_do_not_end_leave_room_for_others() {
    let mut bounds = Bounds::default();
    // All heads have to be open at once, also on slow machines.
    bounds.head = Duration::from_secs(60);
    let server = TestServer::builder().bounds(bounds).start().await;
    let begun = format!("GET /version HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(10_000));
    let config = Arc::new(TestIdentity::new().client_config(&["http/1.1"]));
    let mut held = Vec::new();
    for _ in 0..540 {
        let mut tls = tls_connect(server.address(), Arc::clone(&config)).await.unwrap();
        tls.write_all(begun.as_bytes()).await.unwrap();
        held.push(tls);
    }
    let mut admin = connect(&server, "http/1.1").await;
    for part in [&begun, "\r\n\r\n"] {
        admin.write_all(part.as_bytes()).await.unwrap();
        admin.flush().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut answer = [0; 12];
    admin.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 200");
    // The last heads found no room, and their clients got an answer.
    let mut refused = 0;
    for tls in &mut held[500..] {
        let mut answer = Vec::new();
        let read = tokio::time::timeout(Duration::from_millis(20), tls.read_to_end(&mut answer)).await;
        if read.is_ok() {
            assert!(answer.starts_with(b"HTTP/1.1 503"), "{}", String::from_utf8_lossy(&answer));
            refused += 1;
        }
    }
    assert!(refused >= 20, "{refused} refused");
}

/// A quiet connection gives its buffers back. A head that had begun must not get lost with them.
#[tokio::test(flavor = "multi_thread")]
async fn a_head_sent_in_part_with_the_request_before_is_not_forgotten() {
    let server = TestServer::start().await;
    let mut tls = connect(&server, "http/1.1").await;
    tls.write_all(b"GET /version HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/nothing HT").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"}\n") {
        assert!(tls.read_buf(&mut answer).await.unwrap() > 0);
    }
    tokio::time::sleep(Duration::from_millis(2500)).await;
    tls.write_all(b"TP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.unwrap();
    answer.clear();
    tls.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 404 Not Found"), "{}", String::from_utf8_lossy(&answer));
}
