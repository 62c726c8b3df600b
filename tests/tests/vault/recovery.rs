//! `docs/recovery.md` as it is written: a backup, a drill, the loss of everything, three restores, a deletion, a move, and a
//! second root.

use std::os::unix::fs::PermissionsExt as _;

use kms_tests::programs::free_port;
use kms_tests::recipient::OWNER;

use super::guide::{logs_of, programs, run};

const PAGE: &str = include_str!("../../../docs/recovery.md");

#[tokio::test(flavor = "multi_thread")]
async fn the_page_leads_to_keys_that_open_again() {
    let directory = tempfile::tempdir().unwrap();
    let programs = programs(directory.path(), "kms").await;
    // What age-keygen prints, without age: a key that is made anew at each run would prove nothing more.
    let keygen = programs.join("age-keygen");
    let script = format!(
        "#!/bin/sh\nset -e\numask 077\ncase \"$1\" in\n-o) echo {} > \"$2\" ;;\n-y) test -f \"$2\" && echo {} ;;\n*) exit 1 ;;\nesac\n",
        OWNER.secret, OWNER.public
    );
    std::fs::write(&keygen, script).unwrap();
    std::fs::set_permissions(&keygen, std::fs::Permissions::from_mode(0o755)).unwrap();
    let work = directory.path().join("work");
    std::fs::create_dir(&work).unwrap();
    let output = run(&self::script(), &programs, &work).await;
    let text = String::from_utf8_lossy(&output.stdout);
    let logs = || logs_of(&work, &["vault.log", "kms.log"]);
    assert!(output.status.success(), "{text}\n{}\n{}", String::from_utf8_lossy(&output.stderr), logs());
    for told in [
        "1 key with 1 version are in keys.backup, for 1 recipient",
        "keys.backup: whole; 1 key with 1 version",
        "good: 1 key with 1 version",
        "aGVsbG8=",
        "each of its roots opens",
        "unread-header  is away",
        "1 key with 1 version are in second.backup, for 1 recipient",
    ] {
        assert!(text.contains(told), "'{told}' is not in {text}");
    }
    let restored = text.matches("1 key restored, 0 there already, with 0 versions added; 1 opened").count();
    assert_eq!(restored, 2, "{text}");
    assert_eq!(text.matches("aGVsbG8=").count(), 2, "what was sealed opens, also after a deletion: {text}");
    assert!(text.contains("Proof: 1 key read back"), "the key of escrow moves: {text}");
}

/// Returns the shell blocks of the page as one script, which uses free ports and waits where a reader would.
fn script() -> String {
    let mut script =
        String::from("set -euo pipefail\nset -m\ntrap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n");
    let (kms, vault) = (free_port().to_string(), free_port().to_string());
    let page = PAGE.replace(":7373", &format!(":{kms}")).replace(":8200", &format!(":{vault}"));
    let mut blocks = 0;
    for block in page.split("```sh\n").skip(1) {
        let block = block.split("```").next().unwrap();
        blocks += 1;
        script.push_str(block);
        let Some(started) = block.lines().last().filter(|line| line.ends_with('&')) else { continue };
        let port = if started.starts_with("vault") { &vault } else { &kms };
        let is_up = format!("(: < /dev/tcp/127.0.0.1/{port}) 2>/dev/null");
        let wait = |until: &str| format!("for i in $(seq 300); do {until} && break; sleep 0.1; done\n");
        script.push_str(&wait(&is_up));
        if started.starts_with("vault") {
            let is_ready =
                "env VAULT_ADDR=http://127.0.0.1:PORT VAULT_TOKEN=dev vault kv list secret/ >/dev/null 2>&1";
            let is_ready = is_ready.replace("PORT", port);
            script.push_str(&wait(&format!("{is_ready} || [ $? = 2 ]")));
        }
    }
    assert_eq!(blocks, 16, "the page changed: look whether all of it is still run");
    script
}
