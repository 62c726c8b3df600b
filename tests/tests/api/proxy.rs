//! A proxy terminates the TLS of clients and forwards their certificates.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_server::settings::ProxySettings;
use kms_tests::{Protocol, TestIdentity, TestServer};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::certificates::{authority, pem_of, signed};

const HEADER: &str = "x-tls-client-cert";

fn forwarded(identity: &TestIdentity) -> String {
    utf8_percent_encode(&identity.certificate_pem(), NON_ALPHANUMERIC).to_string()
}

#[tokio::test]
async fn a_proxy_speaks_for_its_clients_and_nobody_else_does() {
    let (proxy, app) = (TestIdentity::new(), TestIdentity::new());
    let mut builder = TestServer::builder().policy("app", &["/v1/key/generate/my-*"], &[], &[app.identity()]);
    builder.settings.tls.proxy =
        Some(ProxySettings { identities: vec![proxy.identity()], cert_header: HEADER.to_owned() });
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    builder.settings.log.audit_file = Some(log.clone());
    let server = builder.key("my-key").start().await;
    let certificate = forwarded(&app);
    let headers = [(HEADER, certificate.as_str()), ("x-forwarded-for", "192.0.2.7, 198.51.100.1")];
    for protocol in Protocol::ALL {
        let mut through = server.client(protocol, &proxy);
        let path = "/v1/key/generate/my-key";
        let answer = through.send_with("POST", path, &headers, "{}").await.unwrap();
        assert_eq!(answer.code(), 200, "{}", answer.text());
        let answer = through.send_with("POST", "/v1/key/generate/other", &headers, "{}").await.unwrap();
        assert_eq!(answer.code(), 403, "it has the rights of its client only");
        let pem = app.certificate_pem();
        for (what, value) in [
            ("base64 of the DER", STANDARD.encode(&app.chain[0])),
            ("form-encoded PEM", forwarded(&app).replace("%20", "+")),
            ("PEM in one line", pem.trim_end().replace('\n', " ")),
        ] {
            let answer = through.send_with("POST", path, &[(HEADER, &value)], "{}").await.unwrap();
            assert_eq!(answer.code(), 200, "{what}: {}", answer.text());
            let answer = through
                .send_with("GET", "/v1/identity/self/describe", &[(HEADER, &value)], "")
                .await
                .unwrap();
            assert_eq!(answer.member("identity"), app.identity().to_string(), "{what}");
        }
        for bad in ["nonsense", "-----BEGIN%20CERTIFICATE-----"] {
            let answer =
                through.send_with("GET", "/v1/identity/self/describe", &[(HEADER, bad)], "").await.unwrap();
            assert_eq!(answer.code(), 400, "{bad}: {}", answer.text());
        }
        for bad in ["", "nonsense", "-----BEGIN%20CERTIFICATE-----"] {
            let answer = through.send_with("POST", path, &[(HEADER, bad)], "{}").await.unwrap();
            assert_eq!(
                (answer.code(), answer.member("message").as_str()),
                (400, "tls: client certificate is required")
            );
        }
        assert_eq!(
            through.send("POST", path, "{}").await.unwrap().code(),
            400,
            "a proxy has no rights of its own"
        );

        let mut stranger = server.client(protocol, &TestIdentity::new());
        let answer = stranger.send_with("POST", path, &headers, "{}").await.unwrap();
        assert_eq!(answer.code(), 403, "from any other peer the header is passed over");
        let admin = server.admin(protocol).send_with("POST", path, &headers, "{}").await.unwrap();
        assert_eq!(admin.code(), 200);
    }
    let (app, admin) = (app.identity().to_string(), server.admin_identity().identity().to_string());
    server.stop().await;
    let log = std::fs::read_to_string(log).unwrap();
    let line = log.lines().find(|line| line.contains(&app)).unwrap();
    assert!(
        line.contains("\"ip\":\"198.51.100.1\""),
        "what the proxy added, not what the client said: {line}"
    );
    let line = log.lines().find(|line| line.contains(&admin)).unwrap();
    assert!(line.contains("\"ip\":\"127.0.0.1\""), "{line}");
}

#[tokio::test]
async fn where_clients_are_verified_those_of_a_proxy_are_too() {
    let ca = authority();
    let (proxy, known, foreign) = (signed(&ca, |_| {}), signed(&ca, |_| {}), TestIdentity::new());
    let identities = [known.identity(), foreign.identity()];
    let mut builder =
        TestServer::builder().verify_clients(&pem_of(&ca.0)).policy("app", &["/v1/status"], &[], &identities);
    builder.settings.tls.proxy =
        Some(ProxySettings { identities: vec![proxy.identity()], cert_header: HEADER.to_owned() });
    let server = builder.start().await;
    let mut through = server.client(Protocol::Http2, &proxy);
    for (client, code) in [(&known, 200), (&foreign, 400)] {
        let answer =
            through.send_with("GET", "/v1/status", &[(HEADER, &forwarded(client))], "").await.unwrap();
        assert_eq!(answer.code(), code, "{}", answer.text());
    }
}

#[tokio::test]
async fn the_address_of_a_client_is_the_one_that_the_proxy_added() {
    let (proxy, app) = (TestIdentity::new(), TestIdentity::new());
    let mut builder = TestServer::builder().policy("app", &["/v1/status"], &[], &[app.identity()]);
    builder.settings.tls.proxy =
        Some(ProxySettings { identities: vec![proxy.identity()], cert_header: HEADER.to_owned() });
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("audit.log");
    builder.settings.log.audit_file = Some(log.clone());
    let server = builder.start().await;
    let certificate = forwarded(&app);
    let cases: [(&[&str], &str); 7] = [
        (&["192.0.2.7"], "192.0.2.7"),
        (&["198.51.100.1, 192.0.2.8:4711"], "192.0.2.8"),
        (&["198.51.100.1", "198.51.100.2, [2001:db8::7]:4711"], "2001:db8::7"),
        (&["198.51.100.1, 2001:db8::8"], "2001:db8::8"),
        (&["198.51.100.1, unknown"], "127.0.0.1"),
        (&["198.51.100.1", ""], "127.0.0.1"),
        (&[], "127.0.0.1"),
    ];
    for protocol in Protocol::ALL {
        let mut through = server.client(protocol, &proxy);
        for (lines, _) in &cases {
            let mut headers = vec![(HEADER, certificate.as_str())];
            headers.extend(lines.iter().map(|line| ("x-forwarded-for", *line)));
            let answer = through.send_with("GET", "/v1/status", &headers, "").await.unwrap();
            assert_eq!(answer.code(), 200, "{}", answer.text());
        }
    }
    server.stop().await;
    let log = std::fs::read_to_string(log).unwrap();
    let found: Vec<String> = log
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["request"]["ip"].to_string())
        .collect();
    let expected = cases.iter().chain(&cases).map(|(_, ip)| format!("\"{ip}\""));
    assert_eq!(found, expected.collect::<Vec<_>>());
}
