//! Configs that `tests/tools/judge-configs` showed to KES 0.24.
//!
//! This server accepts what KES accepts. It refuses what KES refuses, in one line with the file, the line and
//! the key. Where it differs, the table says why.

use std::collections::BTreeMap;
use std::path::Path;

use kms_server::config::{Environment, load_text};

#[derive(serde::Deserialize)]
struct Case {
    name: String,
    config: String,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    /// Whether KES 0.24 accepts the config.
    kes: bool,
    /// Why this server differs.
    differs: Option<String>,
}

fn cases() -> Vec<Case> {
    let table = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/judged.json");
    serde_json::from_str(&std::fs::read_to_string(table).unwrap()).unwrap()
}

#[test]
fn a_config_is_taken_where_kes_takes_it_and_refused_where_it_refuses() {
    let (mut wrong, cases) = (Vec::new(), cases());
    assert!(cases.len() > 600, "{} configs", cases.len());
    for Case { name, config, variables, kes, differs } in cases {
        let environment: Environment = variables.into_iter().collect();
        let judged = load_text(&config.replace("@PORT@", "7373"), "c.yml", &environment);
        if judged.is_ok() != (kes != differs.is_some()) {
            wrong
                .push(format!("{name}: KES {kes}, differs {differs:?}, ours {:?}", judged.map(|_| ()).err()));
        }
    }
    assert!(wrong.is_empty(), "{}\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn a_refusal_names_file_line_and_key_in_the_words_of_a_config() {
    for Case { name, config, variables, .. } in cases() {
        let environment: Environment = variables.into_iter().collect();
        let lines = config.lines().count();
        let Err(problem) = load_text(&config.replace("@PORT@", "7373"), "c.yml", &environment) else {
            continue;
        };
        let told = problem.to_string();
        assert!(!told.contains('\n'), "{name}: {told}");
        for word in ["struct", "enum", "Raw", "Option", "sequence", "variant", "u64", "usize", "tuple"] {
            // "Sequence" is also a word of YAML.
            assert!(!told.contains(word) || told.contains("invalid YAML"), "{name}: {told}");
        }
        // A setting that is missing has no line.
        let place = problem.place.strip_prefix("c.yml").unwrap_or_else(|| panic!("{name}: {told}"));
        match place.strip_prefix(':') {
            Some(line) => {
                assert!(line.parse().is_ok_and(|line: usize| (1..=lines + 1).contains(&line)), "{told}");
            }
            None => assert!(told.contains("missing") || told.contains("no "), "{name}: {told}"),
        }
        assert!(!problem.key.is_empty() || told.contains("invalid YAML"), "{name}: {told}");
    }
}

#[test]
fn every_config_of_the_field_is_taken() {
    let variables = ["ADMIN_IDENTITY", "APP_IDENTITY", "MINIO_KES_IDENTITY", "VAULT_ROLE", "VAULT_SECRET"];
    let environment: Environment =
        variables.iter().enumerate().map(|(n, name)| (*name, format!("{n:064x}"))).collect();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs");
    let mut read = 0;
    for file in std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
        if file.extension().is_some_and(|extension| extension == "json") {
            continue;
        }
        let loaded = kms_server::config::load(&file, &environment);
        loaded.unwrap_or_else(|problem| panic!("{problem}"));
        read += 1;
    }
    assert!(read >= 10);
}
