//! The chart: what it refuses, and what it renders.

use std::collections::BTreeSet;
use std::fs;

use kms_tests::shell::{Shell, text};
use serde_json::Value;

use super::cases::CASES;
use super::rendered::{Release, chart, complaints, helm, judge, render};

#[test]
fn what_the_chart_renders_is_valid_restricted_and_coherent() {
    let releases = judge(&CASES);
    for (name, release) in &releases {
        assert_restricted(name, release);
        assert_coherent(name, release);
        assert_loads(name, release);
    }
    for (name, kind, replicas) in
        [("fs", "StatefulSet", 1), ("vault", "Deployment", 2), ("postgres", "Deployment", 3)]
    {
        let workload = releases[name].workload();
        assert_eq!(
            (workload["kind"].as_str(), workload["spec"]["replicas"].as_u64()),
            (Some(kind), Some(replicas))
        );
    }
    let has = |name: &str, kind: &str| releases[name].of_kind(kind).count();
    for (kind, with) in [
        (
            "PodDisruptionBudget",
            &[
                "vault",
                "vault-kubernetes",
                "postgres",
                "postgres-roots",
                "aws",
                "aws-secrets",
                "network-policy-peers",
            ][..],
        ),
        ("NetworkPolicy", &["network-policy", "network-policy-peers"]),
        ("Certificate", &["cert-manager"]),
        ("ServiceMonitor", &["monitoring"]),
        ("PrometheusRule", &["monitoring"]),
    ] {
        let found: BTreeSet<&str> = releases.keys().copied().filter(|name| has(name, kind) == 1).collect();
        assert_eq!(found, with.iter().copied().collect(), "{kind}");
    }
    let account = releases["aws"].only("ServiceAccount");
    assert_eq!(
        account["metadata"]["annotations"]["eks.amazonaws.com/role-arn"],
        "arn:aws:iam::111122223333:role/kms"
    );
    assert_eq!(releases["vault"].container()["image"], format!("kms:{}", env!("CARGO_PKG_VERSION")));
    let names = &releases["cert-manager"].only("Certificate")["spec"]["dnsNames"];
    for name in ["main-kms", "main-kms.storage.svc", "main-kms.storage.svc.cluster.local", "kms.example.com"]
    {
        assert!(names.as_array().unwrap().contains(&name.into()), "{names}");
    }
    let rules = fs::read_to_string(chart().join("../../prometheus/rules.yml")).unwrap();
    let alerts = rules.lines().filter(|line| line.trim_start().starts_with("- alert:")).count();
    let shipped = &releases["monitoring"].only("PrometheusRule")["spec"]["groups"][0]["rules"];
    assert_eq!(shipped.as_array().unwrap().len(), alerts);
    let dashboard = releases["monitoring"].only("ConfigMap")["data"]["kms.json"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(dashboard).unwrap()["title"], "kms key servers");
}

/// The rules of the profile "restricted" of Kubernetes' pod security standards, and a read-only root directory.
fn assert_restricted(name: &str, release: &Release) {
    let (pod, container) = (&release.pod()["securityContext"], &release.container()["securityContext"]);
    assert_eq!(pod["runAsNonRoot"], true, "{name}");
    assert_eq!(pod["seccompProfile"]["type"], "RuntimeDefault", "{name}");
    assert_eq!(container["allowPrivilegeEscalation"], false, "{name}");
    assert_eq!(container["capabilities"], serde_json::json!({"drop": ["ALL"]}), "{name}");
    assert_eq!(container["readOnlyRootFilesystem"], true, "{name}");
    assert_eq!(release.pod()["automountServiceAccountToken"], false, "{name}");
    for host in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(release.pod()[host].is_null(), "{name}: {host}");
    }
    for volume in release.pod()["volumes"].as_array().unwrap() {
        let kinds = ["secret", "projected", "emptyDir", "persistentVolumeClaim"];
        assert!(kinds.iter().any(|kind| !volume[kind].is_null()), "{name}: {volume}");
    }
}

/// Names that have to be the same in several places are.
fn assert_coherent(name: &str, release: &Release) {
    let workload = release.workload();
    let labels = &workload["spec"]["template"]["metadata"]["labels"];
    let selects =
        |selector: &Value| selector.as_object().unwrap().iter().all(|(key, value)| &labels[key] == value);
    assert!(selects(&workload["spec"]["selector"]["matchLabels"]), "{name}");
    let ports: Vec<&str> = release.container()["ports"]
        .as_array()
        .unwrap()
        .iter()
        .map(|port| port["name"].as_str().unwrap())
        .collect();
    for service in release.of_kind("Service") {
        assert!(selects(&service["spec"]["selector"]), "{name}: {service}");
        assert!(
            ports.contains(&service["spec"]["ports"][0]["targetPort"].as_str().unwrap()),
            "{name}: {service}"
        );
    }
    for kind in ["PodDisruptionBudget", "NetworkPolicy"] {
        for one in release.of_kind(kind) {
            let selector = ["selector", "podSelector"].map(|key| &one["spec"][key]["matchLabels"]);
            assert!(
                selector.iter().any(|selector| selector.is_object() && selects(selector)),
                "{name}: {one}"
            );
        }
    }
    for monitor in release.of_kind("ServiceMonitor") {
        let wanted = monitor["spec"]["selector"]["matchLabels"].as_object().unwrap();
        let seen = release.of_kind("Service").filter(|service| {
            wanted.iter().all(|(key, value)| &service["metadata"]["labels"][key] == value)
                && service["spec"]["ports"][0]["name"] == monitor["spec"]["endpoints"][0]["port"]
        });
        assert_eq!(seen.count(), 1, "{name}");
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        assert_eq!(release.container()[probe]["httpGet"]["port"], "metrics", "{name}");
    }
    let names = |list: &Value| -> Vec<String> {
        let list = list.as_array().map(Vec::as_slice).unwrap_or_default();
        list.iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    let mut volumes = names(&release.pod()["volumes"]);
    let claims = workload["spec"]["volumeClaimTemplates"].as_array().map(Vec::as_slice).unwrap_or_default();
    volumes.extend(claims.iter().map(|claim| claim["metadata"]["name"].as_str().unwrap().to_owned()));
    volumes.sort();
    let mut mounts = names(&release.container()["volumeMounts"]);
    mounts.sort();
    assert_eq!(volumes, mounts, "{name}: each volume is mounted, and each mount has a volume");
    // The root key is on no volume with keys.
    if release.config().contains("root_key_file") {
        assert!(release.config().contains("root_key_file = \"/etc/kms/root-key/root.key\""), "{name}");
        let volumes = release.pod()["volumes"].as_array().unwrap();
        let root = volumes.iter().find(|volume| volume["name"] == "root-key").unwrap();
        assert!(root["secret"]["secretName"] == "root", "{name}: {root}");
    }
    assert!(
        workload["kind"] != "StatefulSet" || release.config().contains("path = \"/var/lib/kms/store\""),
        "{name}"
    );
}

/// The server itself takes the config, and has nothing against it.
fn assert_loads(name: &str, release: &Release) {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, release.config()).unwrap();
    let nobody = "0".repeat(64);
    let mut shell = Shell::default().set("NOBODY", &nobody);
    for variable in release.container()["env"].as_array().map(Vec::as_slice).unwrap_or_default() {
        shell = shell
            .set(variable["name"].as_str().unwrap(), variable["value"].as_str().unwrap_or("from-a-secret"));
    }
    let path = "/v1/key/create/<a";
    let done = shell.run(&["policy", "test", "--config", text(&file), "--identity", &nobody, path]);
    let expected = i32::from(name != "everything-else");
    assert_eq!(done.status.code(), Some(expected), "{name}: {done:?}\n{}", release.config());
    let decided = done.stdout.contains("allow") || done.stdout.contains("policy");
    assert!(decided && !done.stderr.contains("config.toml"), "{name}: {done:?}");
}

#[test]
fn what_the_schemas_are_for_is_refused() {
    let good = render(CASES[12].1).unwrap();
    assert_eq!(complaints(&good), "");
    for (from, to, complaint) in [
        ("runAsNonRoot: true", "runAsNonRot: true", "Deployment main-kms: Kubernetes 1.25.0"),
        ("containerPort: 7373", "containerPort: https", "Deployment main-kms: Kubernetes 1."),
        ("jobLabel:", "jobLable:", "ServiceMonitor main-kms: $.spec"),
        ("for: 2m", "for: soon", "PrometheusRule main-kms: $.spec.groups[0].rules[0]"),
        ("kind: Service\n", "kind: Servce\n", "Couldn't find schema for kind Servce"),
    ] {
        assert!(good.contains(from), "{from}");
        let told = complaints(&good.replacen(from, to, 1));
        assert!(told.contains(complaint), "{from} -> {to}: {told}");
    }
}

#[test]
fn helm_lints_the_chart_and_says_what_is_wrong_with_values() {
    let output = helm(&["lint", "--strict"], CASES[0].1);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("1 chart(s) linted, 0 chart(s) failed"), "{told}");
    assert!(!told.contains("[WARNING]") && !told.contains("[ERROR]"), "{told}");

    let good = "tls: {existingSecret: cert}\n";
    let root = "rootKey: {existingSecret: root}\n";
    for (values, complaint) in [
        (
            format!("{good}{root}replicas: 2\nconfig: {{keystore: {{fs: {{}}}}}}"),
            "replicas: the key store config.keystore.fs is for one server, not 2",
        ),
        (
            format!("{good}replicas: 0\nconfig: {{keystore: {{memory: {{}}}}}}"),
            "at '/replicas': minimum: got 0, want 1",
        ),
        (
            format!("{good}replicas: two\nconfig: {{keystore: {{memory: {{}}}}}}"),
            "at '/replicas': got string, want",
        ),
        (
            format!("{good}config: {{keystore: {{}}}}"),
            "config.keystore: exactly one key store is needed (fs, postgres, vault, aws or memory), found 0",
        ),
        (
            format!("{good}config: {{keystore: {{fs: {{}}, memory: {{}}}}}}"),
            "exactly one key store is needed",
        ),
        (format!("{good}config: {{keystore: {{sql: {{}}}}}}"), "additional properties 'sql' not allowed"),
        (
            format!("{good}config: {{keystore: {{fs: {{}}}}}}"),
            "rootKey.existingSecret: config.keystore.fs needs a root key",
        ),
        (
            format!("{good}config: {{keystore: {{postgres: {{}}}}}}"),
            "rootKey.existingSecret: config.keystore.postgres needs a root key",
        ),
        (
            format!("{good}{root}config: {{keystore: {{vault: {{}}}}}}"),
            "rootKey.existingSecret: only config.keystore.fs and config.keystore.postgres",
        ),
        (
            format!("{good}{root}config: {{keystore: {{fs: {{path: /data}}}}}}"),
            "config.keystore.fs.path: the chart sets it",
        ),
        (
            format!("{good}persistence: {{createStore: true}}\nconfig: {{keystore: {{memory: {{}}}}}}"),
            "persistence.createStore: only the embedded store",
        ),
        (
            format!(
                "{good}{root}persistence: {{accessModes: [ReadWriteMany]}}\nconfig: {{keystore: {{fs: {{}}}}}}"
            ),
            "at '/persistence/accessModes/0': value must be one of 'ReadWriteOnce'",
        ),
        (
            format!("{good}config: {{address: ':1', keystore: {{memory: {{}}}}}}"),
            "config.address: the chart sets it",
        ),
        (
            format!("{good}config: {{tls: {{key: a}}, keystore: {{memory: {{}}}}}}"),
            "config.tls.key: the chart sets it",
        ),
        (
            format!("{good}confg: {{}}\nconfig: {{keystore: {{memory: {{}}}}}}"),
            "additional properties 'confg' not allowed",
        ),
        (
            format!("{good}config: {{kestore: {{}}, keystore: {{memory: {{}}}}}}"),
            "additional properties 'kestore' not allowed",
        ),
        ("config: {keystore: {memory: {}}}".to_owned(), "tls: a certificate is needed"),
        (
            "tls: {certManager: {enabled: true}}\nconfig: {keystore: {memory: {}}}".to_owned(),
            "tls.certManager.issuerRef.name: cert-manager needs an issuer",
        ),
        (
            format!("{good}probes: {{port: 7373}}\nconfig: {{keystore: {{memory: {{}}}}}}"),
            "at '/probes/port'",
        ),
        (
            format!("{good}service: {{type: ExternalName}}\nconfig: {{keystore: {{memory: {{}}}}}}"),
            "at '/service/type'",
        ),
    ] {
        let told = render(&values).err().unwrap_or_else(|| panic!("{values} is taken"));
        assert!(told.contains(complaint), "{values}: {told}");
    }
}

/// The chart's schema knows each top-level key of the config that the server knows, and no other.
#[test]
fn the_schema_has_the_keys_of_the_config() {
    let schema = fs::read_to_string(chart().join("values.schema.json")).unwrap();
    let schema: Value = serde_json::from_str(&schema).unwrap();
    let known = schema["properties"]["config"]["properties"].as_object().unwrap();
    let known: BTreeSet<&str> = known.keys().map(String::as_str).collect();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("config.toml");
    fs::write(&file, "no_such_key = 1\n").unwrap();
    let refused = Shell::default().run(&[
        "policy",
        "test",
        "--config",
        text(&file),
        "--identity",
        &"0".repeat(64),
        "/",
    ]);
    let refused = refused.error();
    let listed =
        refused.split_once("expected one of ").or_else(|| refused.split_once("expected ")).unwrap().1;
    let words = listed.split(|letter: char| !letter.is_ascii_lowercase());
    let keys: BTreeSet<&str> =
        words.filter(|word| !word.is_empty() && *word != "one" && *word != "of").collect();
    assert_eq!(keys, known, "{refused}");
}
