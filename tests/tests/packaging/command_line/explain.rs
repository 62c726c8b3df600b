//! `kms policy explain`, from logs as servers write them and from a real one.

use std::fs;
use std::path::PathBuf;

use kms_tests::shell::{Shell, text};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::identity;

/// An identity whose policy is `app`, one with none, and the admin.
const APP: u8 = 2;
const STRANGER: u8 = 3;
const ADMIN: u8 = 1;

fn setup(lines: &[(u8, &str, u16)]) -> (TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (config, log) = (dir.path().join("kms.toml"), dir.path().join("audit.log"));
    let content = format!(
        "[admin]\nidentity = \"{}\"\n[tls]\ncert = \"c\"\nkey = \"k\"\n[keystore.memory]\n[policy.app]\n\
         allow = [\"/v1/key/create/app-*\", \"/v1/key/decrypt/*\"]\ndeny = [\"/v1/key/bulk/decrypt/app-secret\"]\n\
         identities = [\"{}\"]\n[policy.wide]\nallow = [\"/v1/*\"]\nidentities = []\n",
        identity(ADMIN),
        identity(APP)
    );
    fs::write(&config, content).unwrap();
    let line = |(n, (who, path, code)): (usize, &(u8, &str, u16))| {
        let request = json!({"ip": "192.0.2.1", "path": path, "identity": identity(*who)});
        json!({"time": format!("2026-01-02T03:04:{n:02}.5Z"), "request": request, "response": {"code": code, "time": 1000}})
            .to_string()
    };
    let lines: Vec<_> = lines.iter().enumerate().map(line).collect();
    fs::write(&log, lines.join("\n") + "\n").unwrap();
    (dir, config, log)
}

fn explained(arguments: &[&str]) -> Value {
    let json = [&["policy", "explain", "--json"], arguments].concat();
    serde_json::from_str(&Shell::default().run(&json).ok()).unwrap()
}

#[test]
fn each_reason_is_told_with_what_helps() {
    let (_dir, config, log) = setup(&[
        (APP, "/v1/key/generate/app-one", 403),
        (APP, "/v1/key/generate/app-one", 403),
        (APP, "/v1/key/generate/app-one", 200),
        (APP, "/v1/key/decrypt/app-secret", 403),
        (APP, "/v1/key/create/app-new", 403),
        (APP, "/v9/what", 403),
        (STRANGER, "/v1/status", 403),
        (ADMIN, "/v1/metrics", 403),
    ]);
    let all = explained(&["--config", text(&config), text(&log)]);
    assert_eq!(all["events"], 8);
    let of = |who: u8| {
        let identities = all["identities"].as_array().unwrap();
        identities.iter().find(|found| found["identity"] == identity(who)).unwrap()
    };
    let request = |who: u8, path: &str| {
        let requests = of(who)["requests"].as_array().unwrap();
        requests.iter().find(|request| request["path"] == path).unwrap().clone()
    };
    let missing = request(APP, "/v1/key/generate/app-one");
    assert_eq!((&missing["count"], &missing["why"]), (&json!(2), &json!("not_allowed")));
    assert_eq!(
        (&missing["first"], &missing["last"]),
        (&json!("2026-01-02T03:04:00Z"), &json!("2026-01-02T03:04:01Z"))
    );
    let denied = request(APP, "/v1/key/decrypt/app-secret");
    assert_eq!(denied["why"], "denied_by_rule");
    let reason = denied["reason"].as_str().unwrap();
    assert!(
        reason.contains("'/v1/key/bulk/decrypt/app-secret', which leads to the same")
            && reason.contains("no further allow helps")
    );
    assert_eq!(request(APP, "/v1/key/create/app-new")["why"], "allowed_now");
    assert_eq!(request(APP, "/v9/what")["why"], "no_route");
    assert_eq!(of(APP)["allow"], json!(["/v1/key/generate/app-one"]));
    assert_eq!(of(APP)["policy"], "app");
    assert_eq!(request(STRANGER, "/v1/status")["why"], "no_policy");
    assert_eq!(of(STRANGER)["policies_that_allow"], json!(["wide"]));
    assert_eq!(request(ADMIN, "/v1/metrics")["why"], "allowed_now");

    let told = Shell::default().run(&["policy", "explain", "--config", text(&config), text(&log)]).ok();
    for part in [
        "has policy 'app'",
        "/v1/key/generate/app-one  2 times, from 2026-01-02T03:04:00Z to 2026-01-02T03:04:01Z",
        "\"/v1/key/generate/app-one\",",
        "in `allow` of [policy.app]",
        "has no policy in",
        "Allowed already by policy 'wide'.",
    ] {
        assert!(told.contains(part), "{part} is not in\n{told}");
    }
}

#[test]
fn one_identity_can_be_asked_for_and_stdin_is_read() {
    let (_dir, config, log) = setup(&[
        (APP, "/v1/key/generate/a", 403),
        (STRANGER, "/v1/status", 403),
        (APP, "/v1/key/generate/b", 403),
    ]);
    let content = fs::read(&log).unwrap();
    let ask = ["policy", "explain", "--json", "--config", text(&config), "--identity", &identity(APP)];
    let from_stdin: Value = serde_json::from_str(&Shell::default().run_with(&ask, &content).ok()).unwrap();
    assert_eq!(from_stdin["identities"].as_array().unwrap().len(), 1);
    assert_eq!(from_stdin["identities"][0]["allow"], json!(["/v1/key/generate/a", "/v1/key/generate/b"]));
    // Without a config a deny cannot be told from a missing allow.
    let blind = explained(&[text(&log), "--identity", &identity(APP)]);
    assert_eq!(blind["identities"][0]["requests"][0]["why"], "unknown");
    let broken = Shell::default().run_with(&["policy", "explain"], b"03:04:05  403  no JSON\n");
    assert!(!broken.status.success() && broken.stderr.contains("the log has no events"), "{broken:?}");
}

/// Clients choose the paths that a log has.
#[test]
fn a_client_cannot_ask_its_way_to_more_than_it_was_denied() {
    let names = ["x", "*", "a*b", "[a-z]", "ab", "bc", "cd", "de", "ef", "fg", "gh", "hi"];
    let paths: Vec<_> = names.iter().map(|name| format!("/v1/key/generate/{name}")).collect();
    let lines: Vec<_> = paths.iter().map(|path| (APP, path.as_str(), 403)).collect();
    let (_dir, config, log) = setup(&lines);
    let all = explained(&["--config", text(&config), text(&log)]);
    let of_app = &all["identities"][0];
    let mut plain: Vec<_> = paths.iter().filter(|path| !path.contains(['*', '['])).cloned().collect();
    plain.sort();
    assert_eq!(of_app["allow"], json!(plain));
    assert_eq!(of_app["shorter"], Value::Null);
    let requests = of_app["requests"].as_array().unwrap();
    let odd = requests.iter().filter(|request| request["why"] == "no_such_name").count();
    assert_eq!(odd, 3, "{requests:?}");

    // What is shorter is apart from what was asked for, and says what it costs.
    let many: Vec<_> = (0..60).map(|n| format!("/v1/key/generate/tenant-{n}")).collect();
    let (_dir, config, log) = setup(&many.iter().map(|path| (APP, path.as_str(), 403)).collect::<Vec<_>>());
    let told = Shell::default().run(&["policy", "explain", "--config", text(&config), text(&log)]).ok();
    let (lines, shorter) = told.split_once("they also allow names that nobody asked for").unwrap();
    assert!(!lines.contains("tenant-*") && shorter.contains("\"/v1/key/generate/tenant-*\","), "{told}");
    assert!(lines.contains("and 10 more, which --json prints"), "{told}");
}

#[test]
fn a_client_without_an_identity_is_told_as_that() {
    let (_dir, config, log) = setup(&[]);
    let line = json!({"time": "2026-01-02T03:04:05Z", "request": {"ip": "192.0.2.1", "path": "", "identity": ""},
        "response": {"code": 403, "time": 1000}});
    fs::write(&log, format!("{line}\n")).unwrap();
    let told = Shell::default().run(&["policy", "explain", "--config", text(&config), text(&log)]).ok();
    assert!(told.contains("(no path)") && told.contains("has no identity that a policy can name"), "{told}");
    assert!(!told.contains("allow"), "{told}");
}

/// What is suggested is put into the config, and the same requests pass.
#[test]
fn what_is_suggested_lets_the_requests_of_a_real_server_pass() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let new =
        ["identity", "new", "--key", &file("k"), "--cert", &file("c"), "--ip", "127.0.0.1", "localhost"];
    Shell::default().run(&new).ok();
    let key = |shell: Shell| {
        let printed = shell.run(&["identity", "new"]).ok();
        printed.split_whitespace().find(|word| word.starts_with("kes:v1:")).unwrap().to_owned()
    };
    let (api_key, port) = (key(Shell::default()), kms_tests::programs::free_port());
    let identity = Shell::default().run(&["identity", "of", &api_key]).ok();
    let identity = identity.split_whitespace().last().unwrap();
    let config = file("kms.toml");
    let write = |allow: &str| {
        let content = format!(
            "address = \"127.0.0.1:{port}\"\n[admin]\nidentity = \"disabled\"\n[tls]\ncert = \"{}\"\nkey = \"{}\"\n\
             [keystore.memory]\n[[keys]]\nname = \"app-a\"\n[[keys]]\nname = \"app-b\"\n[log]\naudit = \"on\"\naudit_file = \"{}\"\n\
             [policy.app]\nallow = [{allow}]\nidentities = [\"{identity}\"]\n",
            file("c"),
            file("k"),
            file("audit.log")
        );
        fs::write(&config, content).unwrap();
    };
    let client = Shell::default()
        .set("KES_SERVER", format!("https://127.0.0.1:{port}"))
        .set("KES_API_KEY", &api_key)
        .set("KES_CA_CERT", file("c"));
    let requests: [&[&str]; 4] =
        [&["key", "dek", "app-a"], &["key", "dek", "app-b"], &["key", "ls", "app-"], &["status"]];

    write("");
    let serving = Shell::default().serve(&["--config", &config]);
    for request in requests {
        assert!(!client.run(request).status.success(), "{request:?}");
    }
    assert!(serving.stop().success());
    let all = explained(&["--config", &config, "--identity", &api_key, &file("audit.log")]);
    let allow = &all["identities"][0]["allow"];
    let allow: Vec<_> = allow.as_array().unwrap().iter().map(Value::to_string).collect();
    assert!(allow.contains(&"\"/v1/key/generate/app-a\"".to_owned()), "{allow:?}");

    write(&allow.join(", "));
    let _serving = Shell::default().serve(&["--config", &config]);
    for request in requests {
        client.run(request).ok();
    }
    assert!(!client.run(&["key", "create", "app-c"]).status.success());
}
