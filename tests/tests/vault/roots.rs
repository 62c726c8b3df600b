//! Roots in Vault's transit engine and beside it, over K/V and over the embedded store.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::primitives::{Cipher, SealingKey, SecretKey};
use kms_core::roots::{Anchor, LocalRoot, Making, Root, RootId, RootState, Roots, WrappedOneByOne};
use kms_core::store::{KeyStore, Wrapped};
use kms_core::{ErrorKind, ListQuery, contract};
use kms_tests::bao::Bao;
use kms_tests::programs::{free_port, program, until};
use kms_tests::shell::{Serving, Shell, field, text};
use kms_vault::{KvVersion, Transit, TransitConfig, VaultConfig};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::common::{entry, kind, open, record};

fn transit(bao: &Bao) -> Root {
    let config = VaultConfig { transit: Some(TransitConfig::new("root")), ..bao.config(KvVersion::V2) };
    Root::new(RootId::of_vault(None, "transit", "root"), Arc::new(Transit::bound(&config).unwrap()))
}

fn local() -> Root {
    let root = LocalRoot::new(SealingKey::new(SecretKey::take(&mut [7; 32]), Cipher::Aes256));
    Root::new(root.id(), Arc::new(root))
}

fn roots(config: VaultConfig, all: Vec<Root>) -> Roots {
    let form = Arc::new(WrappedOneByOne::new(&all));
    Roots::new(open(config), all, form).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_vault_with_two_roots_keeps_the_contract() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("root").await;
    let both = roots(bao.config(KvVersion::V2), vec![transit(&bao), local()]);
    let opened = both.clone().open(Making::OnEmpty).await.unwrap();
    assert!(opened.is_new && opened.warnings.is_empty(), "{:?}", opened.warnings);
    contract::key_store(&opened.store).await;
    assert!(opened.store.list(&ListQuery::prefix("")).await.unwrap().names.is_empty());
    opened.store.create(&entry("my-key"), &record()).await.unwrap();
    let status = both.status().await.unwrap();
    assert!(status.roots.iter().all(|root| root.state == RootState::Opens));
    let records = status.records.unwrap();
    assert_eq!((records.sealed, records.earlier, records.unreadable), (1, 0, 0));
    bao.seal().await;
    let pending = both.clone().open(Making::OnEmpty).await.unwrap();
    assert_eq!(kind(pending.store.get(&entry("my-key")).await), Some(ErrorKind::Sealed));
    bao.unseal().await;
    until("the store opens by itself", async || pending.store.get(&entry("my-key")).await.is_ok()).await;
    for root in [transit(&bao), local()] {
        let alone = roots(bao.config(KvVersion::V2), vec![root]).open(Making::OnEmpty).await.unwrap();
        assert!(alone.store.get(&entry("my-key")).await.unwrap() == record());
    }
    both.remove(transit(&bao).id()).await.unwrap();
    let alone = roots(bao.config(KvVersion::V2), vec![transit(&bao)]).open(Making::OnEmpty).await;
    assert_eq!(alone.err().map(|error| error.kind()), Some(ErrorKind::Corrupt));
    both.add(transit(&bao).id()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn on_version_1_the_anchor_is_made_by_an_operator() {
    let bao = Bao::with_kv(KvVersion::V1).await;
    bao.mount_transit("root").await;
    let both = || roots(bao.config(KvVersion::V1), vec![transit(&bao), local()]);
    let refused = both().open(Making::Explicit).await.err().unwrap();
    assert!(refused.chain().to_string().contains("kms root init"), "{refused:?}");
    let config = || bao.config(KvVersion::V1);
    assert!(Anchor::read(&*open(config())).await.unwrap().is_none());
    both().init().await.unwrap();
    let opened = both().open(Making::Explicit).await.unwrap();
    opened.store.create(&entry("my-key"), &record()).await.unwrap();
    let alone = roots(config(), vec![local()]).open(Making::Explicit).await.unwrap();
    assert!(alone.store.get(&entry("my-key")).await.unwrap() == record());
}

#[tokio::test(flavor = "multi_thread")]
async fn records_under_transit_are_adopted_and_read_beside_new_ones() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("root").await;
    let earlier = Wrapped::new(open(bao.config(KvVersion::V2)), Arc::clone(transit(&bao).wrapper()));
    earlier.create(&entry("old"), &record()).await.unwrap();
    let both = || roots(bao.config(KvVersion::V2), vec![transit(&bao), local()]);
    let running = both().open(Making::OnEmpty).await.unwrap();
    assert!(!running.store.has_key() && running.store.get(&entry("old")).await.unwrap() == record());
    assert_eq!(both().adopt().await.unwrap().records.earlier, 1);
    let opened = both().open(Making::OnEmpty).await.unwrap();
    opened.store.create(&entry("new"), &record()).await.unwrap();
    for store in [&opened.store, &running.store] {
        for name in ["old", "new"] {
            assert!(store.get(&entry(name)).await.unwrap() == record(), "{name}");
        }
    }
    // A server of an earlier release reads what it wrote, and takes nothing for absent.
    assert!(earlier.get(&entry("old")).await.unwrap() == record());
    assert_eq!(kind(earlier.get(&entry("new")).await), Some(ErrorKind::Corrupt));
    assert_eq!(kind(earlier.create(&entry("new"), &record()).await), Some(ErrorKind::AlreadyExists));
    let removed = both().remove(transit(&bao).id()).await.err().unwrap().chain().to_string();
    assert!(removed.contains("'old'") && removed.contains("kms migrate"), "{removed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_that_start_at_once_on_an_empty_engine_end_with_one_store_key() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("root").await;
    for round in 0..50 {
        let config = || VaultConfig { prefix: format!("round-{round}"), ..bao.config(KvVersion::V2) };
        let starts = [false, true].map(|reversed| {
            let mut all = vec![transit(&bao), local()];
            if reversed {
                all.reverse();
            }
            let roots = roots(config(), all);
            tokio::spawn(async move { roots.open(Making::OnEmpty).await.unwrap().store })
        });
        let mut stores = Vec::new();
        for start in starts {
            stores.push(start.await.unwrap());
        }
        for (n, store) in stores.iter().enumerate() {
            store.create(&entry(&format!("key-{n}")), &record()).await.unwrap();
        }
        for store in &stores {
            for n in 0..2 {
                assert!(store.get(&entry(&format!("key-{n}"))).await.unwrap() == record(), "{round}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_whose_key_is_destroyed_while_a_server_runs_keeps_the_time_at_which_it_last_opened() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("root").await;
    let running = roots(bao.config(KvVersion::V2), vec![transit(&bao), local()]);
    let running = running.open(Making::OnEmpty).await.unwrap().store;
    running.create(&entry("my-key"), &record()).await.unwrap();
    running.keep_trying_each(Duration::from_millis(50));
    let id = transit(&bao).id().to_string();
    let opened = || running.roots_opened().into_iter().find(|(root, _)| *root == id).unwrap().1.unwrap();
    let at_start = opened();
    until("it is seen to open again", async || opened() > at_start).await;
    let deletable = json!({ "deletion_allowed": true });
    bao.ask(http::Method::POST, "transit/keys/root/config", deletable).await;
    bao.ask(http::Method::DELETE, "transit/keys/root", Value::Null).await;
    until("the loss is noticed", async || running.closed() == 1).await;
    let last = opened();
    running.try_again().await.unwrap();
    assert_eq!(opened(), last);
    assert!(running.status().await.unwrap().degraded.is_some_and(|why| why.contains(&id)));
    assert!(running.get(&entry("my-key")).await.unwrap() == record());
}

/// Runs a command of Vault's tool as a message prints it, with OpenBao's, which has the same.
fn as_printed(bao: &Bao, message: &str) {
    let command = message.split('\'').find(|part| part.starts_with("vault ")).unwrap();
    let arguments: Vec<_> = command.split(' ').skip(1).collect();
    let shell = Shell::default().set("BAO_ADDR", bao.endpoint()).set("BAO_TOKEN", &bao.root);
    shell.run_binary(&program("bao"), &arguments, b"").ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_was_destroyed_is_freed_by_the_command_that_the_message_prints() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    let both = || roots(bao.config(KvVersion::V2), vec![local()]);
    let destroy = async |entry: &str| {
        let versions = json!({ "versions": [1] });
        bao.ask(http::Method::PUT, &format!("kv/destroy/minio/{entry}"), versions).await;
    };
    both().open(Making::OnEmpty).await.unwrap();
    destroy(".r/store").await;
    let told = both().open(Making::OnEmpty).await.err().unwrap().chain().to_string();
    assert!(told.contains("minio/.r/store"), "{told}");
    as_printed(&bao, &told);
    assert!(Anchor::read(&*open(bao.config(KvVersion::V2))).await.unwrap().is_none());
    both().open(Making::OnEmpty).await.unwrap();

    let other = LocalRoot::new(SealingKey::new(SecretKey::take(&mut [8; 32]), Cipher::Aes256));
    let other = Root::new(RootId::new("other").unwrap(), Arc::new(other));
    let both = || roots(bao.config(KvVersion::V2), vec![local(), other.clone()]);
    both().add(other.id()).await.unwrap();
    destroy(".r/other").await;
    let told = both().add(other.id()).await.unwrap_err().chain().to_string();
    assert!(told.contains("minio/.r/other"), "{told}");
    as_printed(&bao, &told);
    both().add(other.id()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_server_says_when_a_root_last_opened_that_does_not_any_more() {
    let mut bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("root").await;
    let holder = Bao::start().await;
    holder.mount_transit("root").await;
    let node = Node::new(&bao);
    let config = node.over_vault(&holder);
    let (server, probes) = serve_on(&config);
    let client = node.client(&server).set("ROOT", STANDARD.encode([3; 32]));
    client.run(&["key", "create", "my-key"]).ok();
    let status = |shell: &Shell| -> Value {
        let told = shell.run(&["root", "status", "--json", "--config", text(&config)]);
        serde_json::from_str(&told.ok()).unwrap()
    };
    let id = transit(&holder).id().to_string();
    let sample = format!("kms_root_last_opened_timestamp_seconds{{root=\"{id}\"}} ");
    let metrics = probe(probes, "/metrics").await.1;
    let seconds = metrics.lines().find_map(|line| line.strip_prefix(&sample)).unwrap().to_owned();
    assert!(seconds.parse::<u64>().unwrap() > 1_700_000_000, "{seconds}");
    assert_eq!(status(&client)["roots"][1]["opens"], true);

    let deletable = json!({ "deletion_allowed": true });
    holder.ask(http::Method::POST, "transit/keys/root/config", deletable).await;
    holder.ask(http::Method::DELETE, "transit/keys/root", Value::Null).await;
    let lost = &status(&client)["roots"][1];
    let last: jiff::Timestamp = lost["last_opened"].as_str().unwrap().parse().unwrap();
    assert_eq!((&lost["opens"], last.as_second().to_string()), (&false.into(), seconds), "{lost}");
    let told = client.run(&["root", "status", "--config", text(&config)]).ok();
    assert!(told.contains("opens now, at ") && told.contains("it last opened at "), "{told}");
    assert!(told.contains("the server says"), "{told}");

    // Without an identity nobody is asked, and without a server nothing is known.
    let nobody = Shell::default().set("ROOT", STANDARD.encode([3; 32]));
    let told = nobody.run(&["root", "status", "--config", text(&config)]).ok();
    assert!(told.contains("KES_API_KEY") && told.contains("is not known"), "{told}");
    assert!(server.stop().success());
    assert_eq!(status(&client)["roots"][1]["last_opened"], Value::Null);
    bao.kill().await;
}

/// A node on an embedded store whose roots are a transit key and a variable.
struct Node {
    dir: TempDir,
    made: String,
    bao: String,
    token: String,
}

impl Node {
    fn new(bao: &Bao) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let node = dir.path().join("node");
        let made = Shell::default().run(&["init", text(&node), "--json"]).ok();
        std::fs::remove_dir_all(node.join("data")).unwrap();
        let config = bao.config(KvVersion::V2);
        let kms_vault::Login::Token(kms_vault::SecretSource::Value(token)) = &config.login else {
            panic!("the test logs in by token")
        };
        Self { made, bao: bao.endpoint(), token: token.expose().to_owned(), dir }
    }

    fn serve(&self, with_local: bool) -> (Serving, u16) {
        let node = self.dir.path().join("node");
        let probes = free_port();
        let made = std::fs::read_to_string(node.join("config.toml")).unwrap();
        let made: Vec<_> = made.lines().filter(|line| !line.starts_with("root_key_file")).collect();
        let local = if with_local { "[[kms]]\nlocal.root_key_env = \"ROOT\"\n" } else { "" };
        let config = format!(
            "{}\n[probes]\naddress = \"127.0.0.1:{probes}\"\n{local}[[kms]]\n[kms.vault]\nendpoint = \"{}\"\n\
             [kms.vault.token]\nvalue = \"{}\"\n[kms.vault.transit]\nkey = \"root\"\n",
            made.join("\n"),
            self.bao,
            self.token,
        );
        let file = node.join("roots.toml");
        std::fs::write(&file, config).unwrap();
        let shell = Shell::default().set("ROOT", STANDARD.encode([3; 32]));
        (shell.serve(&["--config", text(&file), "--addr", "127.0.0.1:0"]), probes)
    }

    /// Writes a config with the store in Vault, under a local root key and a key of the transit engine of `holder`.
    fn over_vault(&self, holder: &Bao) -> PathBuf {
        let node = self.dir.path().join("node");
        let made = std::fs::read_to_string(node.join("config.toml")).unwrap();
        let sections = made.split("\n[").filter(|section| !section.starts_with("keystore"));
        let rest = sections.collect::<Vec<_>>().join("\n[");
        let vault = |section: &str, endpoint: &str, token: &str, more: &str| {
            format!(
                "[{section}.vault]\nendpoint = \"{endpoint}\"\n{more}[{section}.vault.token]\nvalue = \"{token}\"\n"
            )
        };
        let config = format!(
            "{rest}\n{}[[kms]]\nlocal.root_key_env = \"ROOT\"\n[[kms]]\n{}[kms.vault.transit]\nkey = \"root\"\n",
            vault("keystore", &self.bao, &self.token, "version = \"v2\"\nprefix = \"minio\"\n"),
            vault("kms", &holder.endpoint(), &holder.root, ""),
        );
        let file = node.join("shared.toml");
        std::fs::write(&file, config).unwrap();
        file
    }

    fn client(&self, server: &Serving) -> Shell {
        let stdout = server.stdout();
        let endpoint = stdout.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
        Shell::default()
            .set("KES_SERVER", endpoint)
            .set("KES_CA_CERT", self.dir.path().join("node/server.crt").display())
            .set("KES_API_KEY", field(&self.made, "api_key"))
    }
}

/// Starts a server on a config. Returns it and the port of its probes.
fn serve_on(config: &Path) -> (Serving, u16) {
    let probes = free_port();
    let shell = Shell::default().set("ROOT", STANDARD.encode([3; 32]));
    let shell = shell.set("KMS_PROBES__ADDRESS", format!("127.0.0.1:{probes}"));
    (shell.serve(&["--config", text(config), "--addr", "127.0.0.1:0"]), probes)
}

/// Returns the status and the text of an answer of the listener for probes.
async fn probe(port: u16, path: &str) -> (u16, String) {
    let answer = reqwest::get(format!("http://127.0.0.1:{port}{path}")).await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_serves_while_one_root_opens_and_waits_while_none_does() {
    let mut bao = Bao::start().await;
    bao.mount_transit("root").await;
    let node = Node::new(&bao);
    let (server, _) = node.serve(true);
    node.client(&server).run(&["key", "create", "my-key"]).ok();
    assert!(server.stop().success());

    bao.kill().await;
    let (server, probes) = node.serve(true);
    node.client(&server).run(&["key", "dek", "my-key"]).ok();
    let log = server.stderr();
    assert!(log.contains("root 'vault-") && log.contains("is away"), "{log}");
    let (status, ready) = probe(probes, "/v1/ready").await;
    assert!(status == 200 && ready.contains("does not open"), "{status} {ready}");
    assert!(probe(probes, "/metrics").await.1.contains("kms_roots_closed 1"));
    assert!(server.stop().success());

    let (server, probes) = node.serve(false);
    assert_eq!(probe(probes, "/v1/ready").await.0, 504);
    assert!(!node.client(&server).run(&["key", "dek", "my-key"]).status.success());
    assert!(probe(probes, "/metrics").await.1.contains("kms_roots_closed 1"));
    bao.run().await;
    bao.unseal().await;
    until("the server is ready", async || probe(probes, "/v1/ready").await.0 == 200).await;
    node.client(&server).run(&["key", "dek", "my-key"]).ok();
    assert!(probe(probes, "/metrics").await.1.contains("kms_roots_closed 0"));
}
