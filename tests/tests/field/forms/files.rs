//! The name, the content and the encoding of a file decide how it is read.

use std::path::Path;

use kms_server::config::{Environment, load, load_text};
use kms_server::settings::{KeyStoreSettings, RootKeySource};

use super::loading::{START, config, environment, yaml};

#[test]
fn a_file_without_an_extension_is_read_by_what_it_is() {
    for (name, file) in [("fs-2020.toml", "config"), ("trino.yml", "config"), ("trino.yml", "config.conf")] {
        let text = std::fs::read_to_string(config(name)).unwrap();
        let loaded =
            load_text(&text, file, &environment()).unwrap_or_else(|problem| panic!("{name}: {problem}"));
        assert!(matches!(loaded.settings.key_store, KeyStoreSettings::KesDirectory { .. }));
    }
    let told = load_text("address = 5 5\n", "config", &environment()).unwrap_err().to_string();
    assert!(told.contains("config:1: invalid TOML"), "{told}");
    let told = load_text("address: [5\n", "config", &environment()).unwrap_err().to_string();
    assert!(told.contains("invalid YAML"), "{told}");
}

#[test]
fn a_root_key_may_be_named_and_makes_a_file_in_toml_ours() {
    let text = format!("{START}keystore: {{fs: {{path: keys, root_key_file: root}}}}");
    let KeyStoreSettings::KesDirectory { root_key: Some(RootKeySource::File(file)), .. } =
        yaml(&text).unwrap().settings.key_store
    else {
        panic!()
    };
    assert_eq!(file, Path::new("root"));

    let text = "root = 'disabled'\ntls = {key = 'k', cert = 'c'}\n[keystore.fs]\npath = 'd'\n";
    let with_variable: Environment = [("KMS_ROOT_KEY", "x")].into_iter().collect();
    let settings = load_text(text, "kes.toml", &with_variable).unwrap().settings;
    assert!(matches!(
        settings.key_store,
        KeyStoreSettings::KesDirectory { root_key: Some(RootKeySource::Environment(name)), .. } if name == "KMS_ROOT_KEY"
    ));
    let ours = format!("{text}root_key_file = 'r'\n");
    let settings = load_text(&ours, "kes.toml", &environment()).unwrap().settings;
    assert!(matches!(settings.key_store, KeyStoreSettings::Fs { .. }));
}

#[test]
fn a_config_in_utf_16_is_read_and_one_in_no_encoding_is_told_with_its_line() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kes.yml");
    let text = format!("# é 🔑\r\n{}keystore: {{fs: {{path: é🔑}}}}\r\n", START.replace('\n', "\r\n"));
    let read = |content: &[u8]| {
        std::fs::write(&file, content).unwrap();
        load(&file, &environment()).map_err(|problem| problem.to_string())
    };
    let little = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_le_bytes).collect() };
    let big = |text: &str| -> Vec<u8> { text.encode_utf16().flat_map(u16::to_be_bytes).collect() };
    let marked = format!("\u{feff}{text}");
    for content in [little(&marked), big(&marked), marked.clone().into_bytes(), text.clone().into_bytes()] {
        let loaded = read(&content).unwrap();
        let KeyStoreSettings::KesDirectory { path, .. } = loaded.settings.key_store else { panic!() };
        assert_eq!(path, Path::new("é🔑"));
    }
    let name = file.display();
    let mut latin = text.clone().into_bytes();
    latin.extend(b"log: {error: on} # \xe9\n");
    assert_eq!(
        read(&latin).unwrap_err(),
        format!("{name}:5: it is no text in UTF-8, expected UTF-8, or UTF-16 with a byte order mark")
    );
    let mut half = little(&marked);
    half.extend([b'#', 0, 0x00, 0xd8, b'\n', 0]);
    assert_eq!(read(&half).unwrap_err(), format!("{name}:5: it is no text in UTF-16"));
    let mut odd = little(&marked);
    odd.push(b'#');
    assert_eq!(read(&odd).unwrap_err(), format!("{name}:5: it is no text in UTF-16"));
}
