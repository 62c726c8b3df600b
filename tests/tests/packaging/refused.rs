//! What the chart refuses: values that would end in a crash loop, in manifests that Kubernetes refuses, or in a loss.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use kms_tests::shell::{Shell, text};
use serde_json::Value;

use super::rendered::{chart, judge, render};

/// Values, and what is said against them. `$tls`, `$root` and `$memory` stand for the values of [`filled_in`].
const REFUSED: &[(&str, &str)] = &[
    (
        "$tls\n$root\nreplicas: 2\nconfig: {keystore: {fs: {}}}",
        "replicas: the key store config.keystore.fs is for one server, not 2",
    ),
    ("$tls\nreplicas: 0\n$memory", "at '/replicas': minimum: got 0, want 1"),
    ("$tls\nreplicas: two\n$memory", "at '/replicas': got string, want"),
    (
        "$tls\nconfig: {keystore: {}}",
        "config.keystore: exactly one key store is needed (fs, postgres, vault, aws or memory), found 0",
    ),
    ("$tls\nconfig: {keystore: {fs: {}, memory: {}}}", "exactly one key store is needed"),
    ("$tls\nconfig: {keystore: {sql: {}}}", "additional properties 'sql' not allowed"),
    ("$tls\nconfig: {keystore: {fs: {}}}", "rootKey.existingSecret: config.keystore.fs needs a root key"),
    (
        "$tls\nconfig: {keystore: {postgres: {}}}",
        "rootKey.existingSecret: config.keystore.postgres needs a root key",
    ),
    (
        "$tls\n$root\nconfig: {keystore: {vault: {}}}",
        "rootKey.existingSecret: only config.keystore.fs and config.keystore.postgres",
    ),
    ("$tls\n$root\nconfig: {keystore: {fs: {path: /data}}}", "config.keystore.fs.path: the chart sets it"),
    ("$tls\npersistence: {createStore: true}\n$memory", "persistence.createStore: only the embedded store"),
    (
        "$tls\n$root\npersistence: {accessModes: [ReadWriteMany]}\nconfig: {keystore: {fs: {}}}",
        "at '/persistence/accessModes/0': value must be one of 'ReadWriteOnce'",
    ),
    ("$tls\nconfig: {address: ':1', keystore: {memory: {}}}", "config.address: the chart sets it"),
    ("$tls\nconfig: {tls: {key: a}, keystore: {memory: {}}}", "config.tls.key: the chart sets it"),
    ("$tls\nconfg: {}\n$memory", "additional properties 'confg' not allowed"),
    ("$tls\nconfig: {kestore: {}, keystore: {memory: {}}}", "additional properties 'kestore' not allowed"),
    ("$memory", "tls: a certificate is needed"),
    (
        "tls: {certManager: {enabled: true}}\n$memory",
        "tls.certManager.issuerRef.name: cert-manager needs an issuer",
    ),
    ("$tls\nprobes: {port: 7373}\n$memory", "at '/probes/port'"),
    ("$tls\nservice: {type: ExternalName}\n$memory", "at '/service/type'"),
    (
        "$tls\n$root\n$memory\nreplicas: 1",
        "rootKey.existingSecret: only config.keystore.fs and config.keystore.postgres",
    ),
    ("$tls\nconfig: {keystore: {fs: {}}, kms: []}", "config.kms: empty, expected a root"),
    ("$tls\nconfig: {keystore: {fs: {}}, kms: {}}", "config.kms: empty, expected a root"),
    ("$tls\nconfig: {keystore: {vault: {}}, kms: []}", "config.kms: empty, expected a root"),
    (
        "$tls\nconfig: {keystore: {fs: {}}, kms: [{id: a}]}",
        "config.kms[0]: exactly one of aws, vault and local is needed, found 0",
    ),
    (
        "$tls\nconfig: {keystore: {fs: {}}, kms: {aws: {}, local: {}}}",
        "config.kms: exactly one of aws, vault and local is needed, found 2",
    ),
    (
        "$tls\nconfig: {keystore: {fs: {}}, kms: [{aws: {key: a}}, {local: {}}]}",
        "config.kms[1].local: exactly one of root_key_file and root_key_env is needed, found 0",
    ),
    (
        "$tls\nconfig: {keystore: {memory: {}}, kms: {aws: {key: a}}}",
        "config.kms: config.keystore.memory takes no root",
    ),
    (
        "$tls\nconfig: {keystore: {aws: {}}}",
        "config.keystore.aws: exactly one of kms and secretsmanager is needed, found 0",
    ),
    (
        "$tls\nconfig: {keystore: {aws: {kms: {}, secretsmanager: {}}}}",
        "config.keystore.aws: exactly one of kms and secretsmanager is needed, found 2",
    ),
    (
        "$tls\n$root\nconfig: {keystore: {fs: {pth: /data}}}",
        "at '/config/keystore/fs': additional properties 'pth' not allowed",
    ),
    (
        "$tls\nconfig: {keystore: {vault: {tls: {cert_file: a}}}}",
        "at '/config/keystore/vault/tls': additional properties 'cert_file' not allowed",
    ),
    ("$tls\n$memory\nconfig: null", "missing property 'config'"),
    ("$tls\nconfig: {keystore: null}", "missing property 'keystore'"),
    (
        "$tls\n$memory\npodLabels: {app.kubernetes.io/name: other}",
        "podLabels: the chart sets the label app.kubernetes.io/name",
    ),
    ("$tls\n$memory\npodLabels: {a: 'not a label'}", "at '/podLabels/a'"),
    (
        "$tls\n$memory\npodAnnotations: {checksum/config: a}",
        "podAnnotations: the chart sets the annotation checksum/config",
    ),
    (
        "$tls\n$memory\nmonitoring: {serviceMonitor: {labels: {app.kubernetes.io/instance: a}}}",
        "monitoring.serviceMonitor.labels: the chart sets the label app.kubernetes.io/instance",
    ),
    ("$tls\n$memory\nnameOverride: Foo_Bar!", "at '/nameOverride'"),
    ("$tls\n$memory\nfullnameOverride: Foo_Bar!", "at '/fullnameOverride'"),
    (
        "$tls\n$memory\nfullnameOverride: a-23456789012345678901234567890123456789012345678---b",
        "fullnameOverride: the objects would be called 'a-",
    ),
    ("$tls\n$memory\nimage: {tag: 'a b'}", "at '/image/tag': 'a b' does not match pattern"),
    ("$tls\n$memory\nimage: {repository: 'kms:latest'}", "at '/image/repository'"),
    ("$memory\ntls: {existingSecret: My_Secret}", "at '/tls/existingSecret'"),
    (
        "$tls\n$memory\npreStopSeconds: 60\nterminationGracePeriodSeconds: 3",
        "preStopSeconds: 60 leaves no time to the server to end within terminationGracePeriodSeconds, which is 3",
    ),
    ("$tls\n$memory\npreStopSeconds: 30", "preStopSeconds: 30 leaves no time"),
    (
        "$tls\n$memory\nextraVolumes: [{name: tls, emptyDir: {}}]",
        "extraVolumes: the chart has a volume 'tls' already",
    ),
    (
        "$tls\n$memory\nextraVolumeMounts: [{name: a, mountPath: /etc/kms/tls/}]",
        "extraVolumeMounts: the chart mounts something at /etc/kms/tls already",
    ),
];

/// Root keys that would be on the volume of the store.
const ON_THE_VOLUME: &[(&str, &str)] = &[
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: /var/lib/kms/root.key}}]}",
        "config.kms[0].local.root_key_file: /var/lib/kms/root.key is on the volume of the store",
    ),
    (
        "config: {keystore: {fs: {}}, kms: {local: {root_key_file: /var/lib/kms/root.key}}}",
        "config.kms.local.root_key_file: /var/lib/kms/root.key is on the volume",
    ),
    (
        "config: {keystore: {fs: null}, kms: [{aws: {key: a}}, {local: {root_key_file: /var/lib/kms/../kms/x}}]}",
        "config.kms[1].local.root_key_file: /var/lib/kms/../kms/x is on the volume",
    ),
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: //var//lib/./kms//store/x}}]}",
        "is on the volume of the store",
    ),
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: var/lib/kms/x}}]}",
        "is on the volume of the store",
    ),
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: /var/lib/kms}}]}",
        "is on the volume of the store",
    ),
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: '${PLACE}/x'}}]}\nextraEnv: [{name: PLACE, value: /var/lib/kms}]",
        "config.kms[0].local.root_key_file: it has to name the file without a variable",
    ),
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: /keys/x}}]}\nextraVolumeMounts: [{name: data, mountPath: /keys/}]",
        "/keys/x is on the volume of the store",
    ),
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: /keys/x}}]}\npersistence: {existingClaim: old}\n\
         extraVolumes: [{name: more, persistentVolumeClaim: {claimName: old}}]\nextraVolumeMounts: [{name: more, mountPath: /keys}]",
        "/keys/x is on the volume of the store",
    ),
    (
        "config: {keystore: {fs: {}}, kms: [{local: {root_key_file: /keys/x}}]}\n\
         extraVolumes: [{name: a, emptyDir: {}}, {name: more, persistentVolumeClaim: {claimName: data-main-kms-0}}]\n\
         extraVolumeMounts: [{name: a, mountPath: /a}, {name: more, mountPath: /keys}]",
        "/keys/x is on the volume of the store",
    ),
    (
        "$root\nconfig: {keystore: {fs: {}}}\nextraEnv: [{name: KMS_KEYSTORE__FS__ROOT_KEY_FILE, value: /var/lib/kms/root.key}]",
        "extraEnv[0]: KMS_KEYSTORE__FS__ROOT_KEY_FILE overrides config.keystore.fs, which the chart sets",
    ),
    (
        "$root\nconfig: {keystore: {fs: {}}}\nextraEnv: [{name: A}, {name: KMS_keystore__fs__path, value: /tmp}]",
        "extraEnv[1]: KMS_keystore__fs__path overrides config.keystore.fs",
    ),
    (
        "config: {keystore: {fs: {}}, kms: {local: {root_key_env: A}}}\nextraEnv: [{name: KMS_KMS__LOCAL__ROOT_KEY_FILE, value: //var/lib/kms/x}]",
        "extraEnv[0]: KMS_KMS__LOCAL__ROOT_KEY_FILE names a root key's file",
    ),
];

/// Returns values with what the marks in them stand for.
fn filled_in(values: &str) -> String {
    let marks = [
        ("$tls", "tls: {existingSecret: cert}"),
        ("$root", "rootKey: {existingSecret: root}"),
        ("$memory", "config: {keystore: {memory: {}}}"),
    ];
    marks.iter().fold(values.to_owned(), |text, (mark, value)| text.replace(mark, value))
}

#[track_caller]
fn assert_refused(values: &str, complaint: &str) {
    let values = filled_in(values);
    let told = render(&values).err().unwrap_or_else(|| panic!("{values} is taken"));
    assert!(told.contains(complaint) && !told.contains("nil pointer"), "{values}: {told}");
}

#[test]
fn values_that_cannot_work_are_refused_by_name() {
    for (values, complaint) in REFUSED {
        assert_refused(values, complaint);
    }
}

#[test]
fn a_root_key_on_the_volume_that_it_protects_is_refused() {
    for (values, complaint) in ON_THE_VOLUME {
        assert_refused(&format!("$tls\n{values}"), complaint);
    }
}

/// Each value of values.yaml as null: Helm takes it out, and a template finds nothing in its place.
#[test]
fn a_value_that_is_taken_out_is_refused_by_name_or_not_needed() {
    let text = fs::read_to_string(chart().join("values.yaml")).unwrap();
    let mut paths = paths_in(&text);
    // What is in these is Kubernetes' own, and whoever changes it knows what it needs.
    paths.retain(|path| path.len() == 1 || !path[0].to_lowercase().ends_with("securitycontext"));
    assert!(paths.len() > 80, "{paths:?}");
    let mut taken = BTreeMap::new();
    for path in paths {
        let name = path.last().unwrap();
        let inner = path.iter().rev().fold("null".to_owned(), |inner, key| format!("{{\"{key}\": {inner}}}"));
        let mut values: Value = serde_json::from_str(&inner).unwrap();
        for (section, more) in [
            ("tls", serde_json::json!({"certManager": {"enabled": true, "issuerRef": {"name": "ca"}}})),
            ("rootKey", serde_json::json!({"existingSecret": "root"})),
            ("serviceAccount", serde_json::json!({"token": {"enabled": true}})),
            ("networkPolicy", serde_json::json!({"enabled": true})),
            ("podDisruptionBudget", serde_json::json!({"enabled": true})),
            (
                "monitoring",
                serde_json::json!({"serviceMonitor": {"enabled": true}, "dashboard": {"enabled": true}}),
            ),
            ("config", serde_json::json!({"keystore": {"fs": {}}})),
        ] {
            add(&mut values[section], &more);
        }
        let values = values.to_string();
        match render(&values) {
            Ok(_) => drop(taken.insert(path.join("."), values)),
            Err(told) => {
                let named =
                    told.contains(&format!("missing property '{name}'")) || told.contains(&path.join("."));
                assert!(named || told.contains("missing properties"), "{path:?}: {told}");
            }
        }
    }
    let cases: Vec<(&str, &str)> = taken.iter().map(|(path, values)| (&**path, &**values)).collect();
    judge(&cases);
}

/// Adds values where there are none; a null stays.
fn add(values: &mut Value, more: &Value) {
    match (values, more) {
        (Value::Object(there), Value::Object(more)) => {
            for (key, value) in more {
                match there.get_mut(key) {
                    Some(Value::Null) => {}
                    Some(inner) => add(inner, value),
                    None => drop(there.insert(key.clone(), value.clone())),
                }
            }
        }
        (empty @ Value::Null, more) => *empty = more.clone(),
        _ => {}
    }
}

/// Returns the path of each key of a YAML text in blocks of two spaces.
fn paths_in(text: &str) -> Vec<Vec<String>> {
    let (mut path, mut paths) = (Vec::new(), Vec::new());
    for line in text.lines() {
        let bare = line.trim_start();
        let Some((key, _)) = bare.split_once(':').filter(|_| !bare.starts_with('#')) else { continue };
        path.truncate((line.len() - bare.len()) / 2);
        path.push(key.to_owned());
        paths.push(path.clone());
    }
    paths
}

/// The chart's schema knows each key of the config that the server knows, and no other.
#[test]
fn the_schema_has_the_keys_of_the_config() {
    let schema = fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let mut sections = BTreeMap::new();
    keys_of(&schema, &schema["properties"]["config"], "", &mut sections);
    assert!(sections.len() > 30, "{sections:?}");
    for (section, known) in sections {
        // The chart knows no key store that the server refuses by its name.
        let refused: &[&str] = match &*section {
            "keystore" => &["azure", "gcp", "fortanix", "gemalto", "entrust", "generic", "kes"],
            _ => &[],
        };
        let mut found = keys_of_the_server(&section);
        found.retain(|key| !refused.contains(&&**key));
        assert_eq!(found, known, "[{section}]");
    }
}

/// Collects the keys of each section of the config that the schema closes.
fn keys_of(schema: &Value, section: &Value, name: &str, sections: &mut BTreeMap<String, BTreeSet<String>>) {
    let section = match section["$ref"].as_str() {
        Some(definition) => &schema["definitions"][definition.strip_prefix("#/definitions/").unwrap()],
        None => section,
    };
    let at = |key: &str| if name.is_empty() { key.to_owned() } else { format!("{name}.{key}") };
    if let Some(inner) = section["anyOf"].as_array() {
        return keys_of(schema, &inner[0], name, sections);
    }
    if section["additionalProperties"].is_object() {
        return keys_of(schema, &section["additionalProperties"], &at("\"/any\""), sections);
    }
    if section["items"]["properties"].is_object() {
        // A list in TOML, of which the one element has these keys.
        return keys_of(schema, &section["items"], &format!("[{name}]"), sections);
    }
    let Some(keys) = section["properties"].as_object() else { return };
    sections.insert(name.to_owned(), keys.keys().cloned().collect());
    for (key, inner) in keys {
        keys_of(schema, inner, &at(key), sections);
    }
}

/// Returns the keys that the server knows in a section: it lists them when it meets another one.
fn keys_of_the_server(section: &str) -> BTreeSet<String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    let header = if section.is_empty() { String::new() } else { format!("[{section}]\n") };
    let name = if section.starts_with('[') { "name = \"a\"\n" } else { "" };
    fs::write(&file, format!("{header}{name}no_such_key = 1\n")).unwrap();
    let words = ["policy", "test", "--config", text(&file), "--identity", &"0".repeat(64), "/"];
    let refused = Shell::default().run(&words);
    let refused = refused.error();
    assert!(refused.contains("no_such_key"), "[{section}]: {refused}");
    let listed = refused.split_once("expected one of ").or_else(|| refused.split_once("expected "));
    let Some((_, listed)) = listed else { return BTreeSet::new() };
    let words = listed.split(|letter: char| !letter.is_ascii_lowercase() && letter != '_');
    let other = ["", "none", "here"];
    words.filter(|word| !other.contains(word)).map(str::to_owned).collect()
}
