//! Each value lands in the setting that KES gives it to.

use std::path::Path;
use std::time::Duration;

use kms_core::Identity;
use kms_server::settings::ErrorLevel;
use kms_server::settings::KeyStoreSettings;

use super::loading::{IDENTITY, OTHER, START, good, loads, warnings, yaml};

#[test]
fn each_value_of_kes_0_24_lands_where_it_should() {
    let loaded = good("kes-0.24.yml");
    let told = warnings(&loaded);
    let settings = loaded.settings;
    assert_eq!(settings.address.to_string(), "127.0.0.1:7375");
    assert_eq!(settings.admin, Identity::from_hex(OTHER));
    assert_eq!(settings.tls.key, Path::new("/etc/kes/private.key"));
    assert_eq!(settings.tls.cert, Path::new("/etc/kes/public.crt"));
    assert_eq!(settings.tls.ca.as_deref(), Some(Path::new("/etc/kes/clients.crt")));
    assert!(settings.tls.verify_clients);
    let proxy = settings.tls.proxy.unwrap();
    assert_eq!(proxy.identities, [Identity::from_hex(&"a".repeat(64)).unwrap()]);
    assert_eq!(proxy.cert_header, "X-Tls-Client-Cert");
    let app = &settings.policies["my-app"];
    assert_eq!((app.allow.len(), app.deny.len()), (3, 2));
    assert_eq!(app.allow[0], "/v1/key/create/my-app*");
    // The first identity looks like a number and is taken as it is.
    let number = format!("{}1e10", "1234567890".repeat(6));
    assert_eq!(app.identities, [Identity::from_hex(&number).unwrap(), Identity::from_hex(IDENTITY).unwrap()]);
    assert!(settings.policies["ops"].identities.is_empty());
    assert_eq!(settings.cache.any, Duration::from_secs(360));
    assert_eq!(settings.cache.unused, Duration::from_secs(40));
    assert_eq!(settings.cache.offline, Duration::from_secs(10));
    assert!(settings.routes["/v1/ready"].skip_auth);
    assert_eq!(settings.routes["/v1/ready"].timeout, Some(Duration::from_secs(15)));
    assert_eq!(settings.routes["/v1/key/create/"].timeout, Some(Duration::from_secs(20)));
    assert!(!settings.log.error && settings.log.audit);
    let keys: Vec<_> = settings.keys.iter().map(kms_core::KeyName::as_str).collect();
    assert_eq!(keys, ["first-key", "second-key"]);
    let KeyStoreSettings::KesDirectory { path, root_key: None, .. } = settings.key_store else { panic!() };
    assert_eq!(path, Path::new("./keys"));
    assert!(!told.contains("unknown"), "{told}");
}

#[test]
fn the_other_forms_of_yaml_load() {
    for (name, prefix) in
        [("operator.yml", "my-minio"), ("operator-2021.yml", "my-minio"), ("cloud-init.yml", "minio")]
    {
        let loaded = good(name);
        let told = warnings(&loaded);
        assert!(!told.contains("unknown") && !told.contains("no identity"), "{name}: {told}");
        let KeyStoreSettings::Vault(vault) = &loaded.settings.key_store else { panic!("{name}") };
        assert_eq!(vault.prefix, prefix, "{name}");
        let kms_vault::Login::AppRole(login) = &vault.login else { panic!("{name}") };
        assert_eq!(login.engine, "approle", "{name}");
    }
    assert_eq!(good("operator.yml").settings.admin, Identity::from_hex(IDENTITY));
    let old = good("operator-2021.yml").settings;
    assert_eq!(old.admin, None);
    assert_eq!(old.policies["my-policy"].paths.len(), 3);
    assert!(old.policies["my-policy"].allow.is_empty());
    assert_eq!(old.cache.unused, Duration::from_secs(20));
    let cloud = good("cloud-init.yml").settings;
    assert!(!cloud.tls.verify_clients && cloud.log.audit);

    let fs = good("operator-2021-fs.yml").settings;
    let KeyStoreSettings::KesDirectory { path, .. } = fs.key_store else { panic!() };
    assert_eq!(path, Path::new("/tmp/keys"));
    let trino = good("trino.yml").settings;
    assert_eq!(trino.address.port(), 7373);
    assert!(matches!(trino.key_store, KeyStoreSettings::KesDirectory { .. }));
}

#[test]
fn the_toml_of_2020_loads() {
    let loaded = good("guide-2020.toml");
    assert_eq!(warnings(&loaded), "");
    let settings = loaded.settings;
    assert_eq!(settings.admin, None);
    assert_eq!(settings.cache.any, Duration::from_secs(300));
    assert_eq!(settings.policies["minio"].identities, [Identity::from_hex(IDENTITY).unwrap()]);
    let KeyStoreSettings::Vault(vault) = settings.key_store else { panic!() };
    assert_eq!((vault.endpoint.as_str(), vault.prefix.as_str()), ("https://127.0.0.1:8200", "minio"));
    assert_eq!((vault.engine.as_str(), vault.version), ("kv", kms_vault::KvVersion::V1));
    let kms_vault::Login::AppRole(login) = vault.login else { panic!() };
    assert_eq!(login.retry, Some(Duration::from_secs(15)));

    let settings = good("fs-2020.toml").settings;
    assert_eq!(settings.admin, Identity::from_hex(IDENTITY));
    assert!(matches!(settings.key_store, KeyStoreSettings::KesDirectory { .. }));
}

#[test]
fn levels_of_kes_0_24_choose_what_is_logged() {
    for (level, error, least, audit) in [
        ("on", true, ErrorLevel::All, true),
        ("''", true, ErrorLevel::All, true),
        ("INFO", true, ErrorLevel::All, true),
        ("debug+2", true, ErrorLevel::All, true),
        ("INFO+2", true, ErrorLevel::Warn, false),
        ("warn", true, ErrorLevel::Warn, false),
        ("'4'", true, ErrorLevel::Warn, false),
        ("ERROR", true, ErrorLevel::Error, false),
        ("ERROR+1", false, ErrorLevel::Error, false),
        ("off", false, ErrorLevel::Error, false),
    ] {
        let (settings, _) = loads(&format!("log: {{error: {level}, audit: {level}}}\n"));
        let log = &settings.log;
        assert_eq!((log.error, log.error_level, log.audit), (error, least, audit), "{level}");
        assert_eq!(log.least(), error.then_some(least));
    }
    let (_, told) = loads("log: {audit: WARN}\n");
    assert!(told.contains("kes.yml:4: log.audit: there is no audit log"), "{told}");
}

#[test]
fn a_reference_is_a_whole_value_in_yaml_and_anything_else_means_itself() {
    let path = |path: &str| {
        let text = format!("{START}keystore: {{fs: {{path: {path}}}}}\n");
        yaml(&text).map(|loaded| {
            let told = warnings(&loaded);
            let KeyStoreSettings::KesDirectory { path, .. } = loaded.settings.key_store else { panic!() };
            (path.display().to_string(), told)
        })
    };
    for whole in ["'${VAULT_ROLE}'", "'${ VAULT_ROLE }'", "' ${VAULT_ROLE} '"] {
        let (read, told) = path(whole).unwrap();
        assert!(read == "role" && !told.contains("${"), "{whole}: {read} {told}");
    }
    for literal in ["x${VAULT_ROLE}", "${VAULT_ROLE", "a${b}c"] {
        let (read, told) = path(&format!("'{literal}'")).unwrap();
        assert_eq!(read, literal);
        assert!(told.contains("keystore.fs.path: '${' in the middle of a text means itself"), "{told}");
    }
    let told = path("'${ NO_SUCH }'").unwrap_err().to_string();
    assert!(told.contains("environment variable 'NO_SUCH' is not set"), "{told}");
}

#[test]
fn an_address_is_read_as_go_reads_it() {
    for (text, expected) in [
        ("127.0.0.1:7373", Some("127.0.0.1:7373")),
        (":7373", Some("0.0.0.0:7373")),
        ("0.0.0.0:7373", Some("0.0.0.0:7373")),
        ("[0.0.0.0]:7373", Some("0.0.0.0:7373")),
        ("[::]:7373", Some("[::]:7373")),
        ("[::1]:7373", Some("[::1]:7373")),
        ("[::ffff:127.0.0.1]:7373", Some("127.0.0.1:7373")),
        ("localhost:7373", Some("127.0.0.1:7373")),
        ("127.0.0.1:https", Some("127.0.0.1:443")),
        ("127.0.0.1:", Some("127.0.0.1:0")),
        ("7373", None),
        ("127.0.0.1", None),
        ("::1:7373", None),
        ("[::1]", None),
        ("[::1]7373", None),
        ("127.1:7373", None),
        ("127.0.0.01:7373", None),
        ("0:7373", None),
        ("0x7f.1:7373", None),
        ("*:7373", None),
        ("http://127.0.0.1:7373", None),
        ("127.0.0.1:99999", None),
        ("127.0.0.1:-1", None),
        ("127.0.0.1: 1", None),
        ("no-such-host.invalid:7373", None),
    ] {
        let read = kms_server::config::parse_address(text);
        assert_eq!(read.as_ref().ok().map(ToString::to_string).as_deref(), expected, "{text}");
    }
    for none in ["", "address: ''\n", "address:\n"] {
        assert_eq!(loads(none).0.address.to_string(), "0.0.0.0:7373");
    }
}
