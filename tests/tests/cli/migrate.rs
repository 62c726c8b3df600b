//! `kms migrate` between local stores, from KES's directory, and from MinIO's static key.

use std::fs;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kms_core::KeyName;
use kms_core::primitives::SecretBytes;
use kms_core::store::{EntryName, KeyStore};
use kms_core::transfer::{StoredKey, former_name, names};
use kms_tests::moving::{Local, Sealed, checked, client};
use kms_tests::shell::{Done, Shell, text};
use serde_json::Value;
use tempfile::TempDir;

/// Two embedded stores in one directory.
struct Two {
    dir: TempDir,
    from: Local,
    to: Local,
}

impl Two {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (Local::new(dir.path(), "from"), Local::new(dir.path(), "to"));
        Self { dir, from, to }
    }

    fn run(&self, more: &[&str]) -> Done {
        let sides = ["migrate", "--from", text(&self.from.config), "--to", text(&self.to.config)];
        Shell::default().run(&[&sides, more].concat())
    }

    fn json(&self, more: &[&str]) -> Value {
        serde_json::from_str(&self.run(&[&["--json"], more].concat()).ok()).unwrap()
    }
}

fn key(name: &str) -> KeyName {
    KeyName::new(name).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_move_whole_and_a_second_run_finds_nothing_to_do() {
    let two = Two::new();
    let sealed = Sealed::under_new_keys(two.from.open(), 30).await;

    let dry = two.json(&["--dry-run"]);
    assert_eq!((&dry["counts"]["moved"], &dry["counts"]["proven"]), (&30.into(), &0.into()), "{dry}");
    assert!(!two.to.is_there(), "a dry run makes no store");

    let done = two.run(&[]);
    let told = done.ok();
    assert!(told.contains("30 keys in ") && told.contains(": 30 moved\n"), "{told}");
    assert!(told.contains("Proof: 30 keys read back from "), "{told}");
    sealed.assert_opens(two.to.open()).await;

    let again = two.json(&[]);
    assert_eq!(
        (&again["counts"]["present"], &again["counts"]["proven"]),
        (&30.into(), &30.into()),
        "{again}"
    );

    // A version that came later goes after the others.
    client(two.from.open()).rotate(&key("key-00000")).await.unwrap();
    let later = two.json(&["key-00000"]);
    assert_eq!((&later["counts"]["keys"], &later["counts"]["completed"]), (&1.into(), &1.into()), "{later}");
    assert_eq!(StoredKey::read(&two.to.open(), &key("key-00000")).await.unwrap().versions(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_of_the_name_is_a_conflict_is_passed_over_or_gives_way() {
    let two = Two::new();
    let sealed = Sealed::under_new_keys(two.from.open(), 3).await;
    let theirs = Sealed::under_new_keys(two.to.open(), 2).await;
    let ours = StoredKey::read(&two.from.open(), &key("key-00001")).await.unwrap().fingerprint();
    let old = StoredKey::read(&two.to.open(), &key("key-00001")).await.unwrap().fingerprint();
    let hex = |fingerprint: &kms_core::primitives::Fingerprint| hex::encode(fingerprint.as_bytes());

    let done = two.run(&[]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    for part in [hex(&ours), hex(&old), "--merge".to_owned(), "--force".to_owned()] {
        assert!(done.stdout.contains(&part), "{part}: {}", done.stdout);
    }
    assert!(
        done.stderr.contains("2 keys did not get to ") && done.stdout.contains("1 moved, 2 in conflict"),
        "{done:?}"
    );
    theirs.assert_opens(two.to.open()).await;

    let merged = two.json(&["--merge"]);
    assert_eq!(
        (&merged["counts"]["passed_over"], &merged["counts"]["present"]),
        (&2.into(), &1.into()),
        "{merged}"
    );
    theirs.assert_opens(two.to.open()).await;

    let dry = two.json(&["--force", "--dry-run"]);
    assert_eq!(dry["counts"]["replaced"], 2, "{dry}");
    theirs.assert_opens(two.to.open()).await;

    // Nobody else can open an embedded store, so nothing is asked.
    let forced = two.json(&["--force"]);
    assert_eq!(
        (&forced["counts"]["replaced"], &forced["counts"]["proven"]),
        (&2.into(), &3.into()),
        "{forced}"
    );
    let store = two.to.open();
    sealed.assert_opens(std::sync::Arc::clone(&store)).await;
    let former = former_name(&key("key-00001"), &old).unwrap();
    let kept = StoredKey::read(&store, &former).await.unwrap();
    assert_eq!((kept.fingerprint() == old, kept.versions()), (true, 2));
    assert_eq!(names(&store).await.unwrap().len(), 5);
    assert!(store.get(&EntryName::version(&key("key-00001"), &old, 2)).await.is_err(), "no remnant is left");
    drop(store);
    let again = two.json(&["--force"]);
    assert_eq!(again["counts"]["present"], 3, "{again}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replacement_that_was_cut_off_is_told_and_the_same_command_completes_it() {
    let two = Two::new();
    let sealed = Sealed::under_new_keys(two.from.open(), 2).await;
    Sealed::under_new_keys(two.to.open(), 1).await;
    let (cut, other) = (key("key-00000"), key("elsewhere"));
    let hex = |key: &StoredKey| hex::encode(key.fingerprint().as_bytes());
    let note = async |name: &KeyName, old: &StoredKey, new: &StoredKey| {
        let content = SecretBytes::new(format!("{} {}", hex(old), hex(new)).into_bytes());
        two.to.open().create(&EntryName::replacing(name), &content).await.unwrap();
    };
    let old = StoredKey::read(&two.to.open(), &cut).await.unwrap();
    let new = StoredKey::read(&two.from.open(), &cut).await.unwrap();
    // As after a cut that came before the other key was kept, and one of a move from elsewhere.
    note(&cut, &old, &new).await;
    note(&other, &old, &new).await;
    let check = || checked(two.dir.path(), &two.to.config);
    let found = check();
    for name in [&cut, &other] {
        let told = format!("the replacement of key '{name}' by another key was cut off");
        assert!(found.contains(&told), "{found}");
    }
    assert!(found.contains("kms migrate --force"), "{found}");

    let told = two.run(&["--force", "--dry-run"]).ok();
    assert!(told.contains("key 'key-00000': the other key of this name would be kept"), "{told}");
    assert!(told.contains("its replacement was cut off, and would be completed"), "{told}");
    assert!(told.contains("note: key 'elsewhere': its replacement in "), "{told}");
    let dry = two.json(&["--force", "--dry-run"]);
    assert_eq!((&dry["counts"]["replaced"], &dry["counts"]["moved"]), (&1.into(), &1.into()), "{dry}");
    assert_eq!(dry["cut_off"], serde_json::json!(["elsewhere"]), "{dry}");
    // Without --force the note stays, and is told.
    assert_eq!(two.run(&["--dry-run"]).stdout.matches("its replacement in ").count(), 2);

    let told = two.run(&["--force"]).ok();
    assert!(told.contains("its replacement had been cut off, and is complete now"), "{told}");
    sealed.assert_opens(two.to.open()).await;
    let found = check();
    assert!(!found.contains("'key-00000' by another key") && found.contains("'elsewhere'"), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_damaged_at_the_source_fails_by_name_and_the_others_move() {
    let two = Two::new();
    {
        let store = two.from.open();
        Sealed::under_new_keys(std::sync::Arc::clone(&store), 3).await;
        let fingerprint = StoredKey::read(&store, &key("key-00002")).await.unwrap().fingerprint();
        store.delete(&EntryName::version(&key("key-00002"), &fingerprint, 2)).await.unwrap();
    }
    let done = two.run(&[]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(done.stdout.contains("failed: key 'key-00002': "), "{done:?}");
    assert!(done.stdout.contains("2 moved, 1 failed"), "{done:?}");
    assert_eq!(names(&two.to.open()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn what_cannot_work_is_refused_before_anything_is_made() {
    let two = Two::new();
    let refused = |more: &[&str]| two.run(more).error();
    assert!(refused(&[]).contains("is the volume mounted?"));
    client(two.from.open()).create(&key("my-key")).await.unwrap();
    assert!(refused(&["--force", "--merge"]).contains("one of --force and --merge"));
    assert!(refused(&["a*b"]).contains("pattern 'a*b'"));
    assert!(refused(&["--server", "127.0.0.1:1"]).contains("another product"));
    {
        let _open = two.from.open();
        let told = refused(&[]);
        assert!(told.contains("is in use by process") && told.contains("stop its server first"), "{told}");
    }
    let config = |name: &str, content: &str| {
        let path = two.dir.path().join(name);
        fs::write(&path, content).unwrap();
        text(&path).to_owned()
    };
    let to = |path: &str| {
        Shell::default().run(&["migrate", "--from", text(&two.from.config), "--to", path]).error()
    };
    let aws = config("aws.toml", "[keystore.aws.kms]\nregion = \"eu-central-1\"\n");
    assert!(to(&aws).contains("never leave AWS KMS"));
    let memory = config("memory.toml", "[keystore.memory]\n");
    assert!(to(&memory).contains("keystore.memory"));
    assert!(to(text(&two.from.config)).contains("the same key store"));
    assert!(to("nofile").contains("cannot read the config file"));
    assert!(Shell::default().run(&["migrate"]).error().contains("--from FILE"));
    assert!(
        Shell::default().run(&["migrate", "--from", text(&two.from.config)]).error().contains("--to FILE")
    );
    assert!(!two.to.is_there());
}

#[tokio::test]
async fn a_directory_of_kes_is_read_as_it_is() {
    let two = Two::new();
    let keys = two.dir.path().join("kes-keys");
    fs::create_dir(&keys).unwrap();
    let record = |byte: u8| format!("{{\"bytes\":\"{}\"}}", STANDARD.encode([byte; 32]));
    for n in 1..=3 {
        fs::write(keys.join(format!("kes-key-{n}")), record(n)).unwrap();
    }
    let config = two.dir.path().join("kes.yml");
    fs::write(&config, format!("version: v1\nkeystore:\n  fs:\n    path: {}\n", keys.display())).unwrap();
    let run = |more: &[&str]| {
        let sides = ["migrate", "--from", text(&config), "--to", text(&two.to.config)];
        Shell::default().run(&[&sides, more].concat())
    };
    let told = run(&["kes-key-*"]).ok();
    assert!(told.contains(": 3 moved"), "{told}");
    assert_eq!(fs::read_dir(&keys).unwrap().count(), 3, "nothing was made in it");
    assert!(!two.dir.path().join("kes-keys.root-key").exists());

    fs::write(keys.join("broken"), "no record").unwrap();
    let done = run(&["--quiet"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(
        done.stdout.contains("failed: key 'broken': ") && done.stdout.contains("3 were there already"),
        "{done:?}"
    );

    // A server has taken the directory into its encrypted store. A key that it made is there, too.
    fs::remove_file(keys.join("broken")).unwrap();
    let back = Shell::default().run(&["migrate", "--from", text(&two.to.config), "--to", text(&config)]).ok();
    assert!(back.contains("3 were there already"), "{back}");
    let from = Local::new(two.dir.path(), "third");
    client(from.open()).create(&key("fourth")).await.unwrap();
    Shell::default().run(&["migrate", "--from", text(&from.config), "--to", text(&config)]).ok();
    let told = run(&[]).ok();
    assert!(told.contains("1 moved, 3 were there already"), "{told}");
}

fn static_key(two: &Two, value: &str, more: &[&str]) -> Done {
    let shell = Shell::default().set("MINIO_KMS_SECRET_KEY", value);
    shell.run(&[&["migrate", "--from-static", "--to", text(&two.to.config)], more].concat())
}

#[tokio::test]
async fn minio_s_static_key_moves_in_with_or_without_its_hmac_key() {
    let bytes = [9; 32];
    let value = format!("minio-key:{}", STANDARD.encode(bytes));
    let two = Two::new();
    let told = static_key(&two, &value, &[]).ok();
    assert!(
        told.contains("1 moved") && told.contains("STS sessions") && told.contains("--keep-hmac"),
        "{told}"
    );
    let mac = client(two.to.open()).hmac(&key("minio-key"), b"root access key").await.unwrap();
    // A second run leaves the HMAC key as it is.
    assert!(static_key(&two, &value, &[]).ok().contains("1 were there already"));
    assert_eq!(client(two.to.open()).hmac(&key("minio-key"), b"root access key").await.unwrap(), mac);
    let done = static_key(&two, &value, &["--keep-hmac"]);
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(done.stdout.contains("its HMAC key is another one"), "{done:?}");

    let two = Two::new();
    let file = two.dir.path().join("secret");
    fs::write(&file, format!("{value}\n")).unwrap();
    let shell = Shell::default().set("MINIO_KMS_SECRET_KEY_FILE", file.display());
    let told = shell.run(&["migrate", "--from-static", "--keep-hmac", "--to", text(&two.to.config)]).ok();
    assert!(told.contains("STS sessions go on"), "{told}");
    let mac = client(two.to.open()).hmac(&key("minio-key"), b"root access key").await.unwrap();
    // What `openssl dgst -sha256 -mac HMAC` says of this message under 32 bytes of value 9.
    assert_eq!(hex::encode(mac), "59e81599332fa396847430014749cf0dd38d103338c71c069dbcc3d126a0f5ea");
    // The form of 2020.
    let two = Two::new();
    let shell = Shell::default().set("MINIO_KMS_MASTER_KEY", format!("minio-key:{}", hex::encode(bytes)));
    shell.run(&["migrate", "--from-static", "--to", text(&two.to.config)]).ok();
}

#[test]
fn a_static_key_that_cannot_move_is_refused_before_anything_is_written_and_shows_no_secret() {
    let two = Two::new();
    let secret = STANDARD.encode([9; 32]);
    for (value, told) in [
        (format!("my.key:{secret}"), "key name 'my.key'"),
        (format!("-key:{secret}"), "key name '-key'"),
        (secret.clone(), "expected NAME:KEY with 32 bytes in base64"),
        (format!("{secret}:my-key"), "expected NAME:KEY with 32 bytes in base64"),
        (format!("my-key:{}", &secret[..40]), "expected NAME:KEY with 32 bytes in base64"),
    ] {
        let error = static_key(&two, &value, &[]).error();
        assert!(error.contains("MINIO_KMS_SECRET_KEY: ") && error.contains(told), "{error}");
        assert!(!error.contains(&secret[..20]), "{error}");
    }
    let to = ["migrate", "--from-static", "--to", text(&two.to.config)];
    assert!(Shell::default().run(&to).error().contains("none of MINIO_KMS_SECRET_KEY"));
    let both = Shell::default().set("MINIO_KMS_SECRET_KEY", "a").set("MINIO_KMS_MASTER_KEY", "b");
    assert!(both.run(&to).error().contains("MINIO_KMS_SECRET_KEY and MINIO_KMS_MASTER_KEY are set"));
    assert!(!two.to.is_there());
}

#[tokio::test]
async fn force_asks_on_a_store_that_servers_may_use() {
    let two = Two::new();
    client(two.from.open()).create(&key("my-key")).await.unwrap();
    let config = two.dir.path().join("vault.toml");
    fs::write(&config, VAULT).unwrap();
    let sides = ["migrate", "--force", "--from", text(&two.from.config), "--to", text(&config)];
    let done = Shell::default().run_with(&sides, b"no\n");
    assert_eq!(done.status.code(), Some(1), "{done:?}");
    assert!(done.stderr.contains("no server may use it"), "{done:?}");
    assert!(done.stderr.contains("nothing was changed"), "{done:?}");
}

const VAULT: &str =
    "[keystore.vault]\nendpoint = \"http://127.0.0.1:1\"\n[keystore.vault.token]\nvalue = \"none\"\n";
