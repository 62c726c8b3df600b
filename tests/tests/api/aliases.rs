//! A policy can allow and deny every path of every route under each of its names. The server and `kms policy
//! test` agree.

use std::fmt::Write as _;
use std::process::{Command, Stdio};

use kms_tests::process::kms_binary;
use kms_tests::{Client, Protocol, TestIdentity, TestServer};
use serde_json::Value;

/// The routes that policies protect: a method, and all paths that lead to the same handler.
const ROUTES: [(&str, &[&str]); 21] = [
    ("PUT", &["/v1/key/decrypt/", "/v1/key/bulk/decrypt/"]),
    ("PUT", &["/v1/key/generate/"]),
    ("PUT", &["/v1/key/encrypt/"]),
    ("PUT", &["/v1/key/hmac/"]),
    ("GET", &["/v1/key/describe/"]),
    ("PUT", &["/v1/key/create/"]),
    ("PUT", &["/v1/key/import/"]),
    ("GET", &["/v1/key/list/"]),
    ("DELETE", &["/v1/key/delete/"]),
    ("GET", &["/v1/ready"]),
    ("GET", &["/v1/status"]),
    ("GET", &["/v1/metrics", "/metrics"]),
    ("GET", &["/v1/api"]),
    ("GET", &["/v1/policy/describe/"]),
    ("GET", &["/v1/policy/read/"]),
    ("GET", &["/v1/policy/list/"]),
    ("GET", &["/v1/identity/describe/"]),
    ("GET", &["/v1/identity/list/"]),
    ("GET", &["/v1/log/error", "/v1/log/error/trace"]),
    ("GET", &["/v1/log/audit", "/v1/log/audit/trace"]),
    // Policies do not protect these two routes.
    ("GET", &["/version", "/v1/identity/self/describe"]),
];

/// A request of one client under a policy of its own.
struct Case {
    who: TestIdentity,
    method: &'static str,
    path: String,
    allow: String,
    deny: Option<String>,
    passes: bool,
}

/// Returns a path of a route. If the route takes a name, the path has this one.
fn path(route: &str, name: &str) -> String {
    if route.ends_with('/') { format!("{route}{name}") } else { route.to_owned() }
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (method, paths) in ROUTES {
        let is_open = paths.contains(&"/version");
        for asked in paths {
            let mut add = |allow: String, deny: Option<String>, passes: bool| {
                let (who, path) = (TestIdentity::new(), path(asked, "a"));
                cases.push(Case { who, method, path, allow, deny, passes: passes || is_open });
            };
            for named in paths {
                let (exact, prefix) = (path(named, "a"), path(named, "") + "*");
                // If an alias begins like the path itself, the prefix pattern of one allows the other.
                let allows = exact == path(asked, "a");
                add(exact.clone(), None, allows);
                add(prefix.clone(), None, allows || path(asked, "a").starts_with(named));
                for deny in [exact, prefix] {
                    add("/*".to_owned(), Some(deny), false);
                }
                let other = if named.ends_with('/') { path(named, "b") } else { format!("{named}/b") };
                add("/*".to_owned(), Some(other), true);
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_denied_under_one_path_is_denied_under_all() {
    let cases = cases();
    let mut builder = TestServer::builder().key("a");
    let mut config =
        "admin.identity = \"disabled\"\n[tls]\ncert = \"c\"\nkey = \"k\"\n[keystore.memory]\n".to_owned();
    for (number, case) in cases.iter().enumerate() {
        let deny: Vec<&str> = case.deny.iter().map(String::as_str).collect();
        let (name, identity) = (format!("p{number}"), case.who.identity());
        builder = builder.policy(&name, &[&case.allow], &deny, &[identity]);
        write!(
            config,
            "[policy.{name}]\nallow = [{:?}]\ndeny = {deny:?}\nidentities = [\"{identity}\"]\n",
            case.allow
        )
        .unwrap();
    }
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kms.toml");
    std::fs::write(&file, config).unwrap();
    let server = builder.start().await;
    let binary = tokio::task::block_in_place(kms_binary);

    for case in &cases {
        let Case { who, method, path, allow, deny, passes } = case;
        let told = format!("{path} with allow {allow} and deny {deny:?}");
        let mut client = server.client(Protocol::Http2, who);
        let code = match *method {
            // `open` does not wait for the end of the body: some answers have none.
            "GET" => client.open(path).await.unwrap().status().as_u16(),
            method => client.send(method, path, "").await.unwrap().code(),
        };
        assert_eq!(code != 403, *passes, "{code}: {told}");
        let status = Command::new(&binary)
            .args(["policy", "test", "--config"])
            .arg(&file)
            .args(["--identity", &who.identity().to_string(), path])
            .stdout(Stdio::null())
            .status()
            .unwrap();
        assert_eq!(status.code(), Some(i32::from(!passes)), "kms policy test: {told}");
    }

    // Check that the list above has every route of the server.
    let mut admin: Client = server.admin(Protocol::Http2);
    let listed: Vec<Value> =
        serde_json::from_str(admin.send("GET", "/v1/api", "").await.unwrap().text()).unwrap();
    for route in listed {
        let path = route["path"].as_str().unwrap();
        assert!(ROUTES.iter().any(|(_, paths)| paths.contains(&path)), "{path}");
    }
}
