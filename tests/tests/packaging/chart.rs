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
        ("ServiceMonitor", &["monitoring", "monitoring-renamed"]),
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
    for name in ["monitoring", "monitoring-renamed"] {
        let release = &releases[name];
        let label = release.only("ServiceMonitor")["spec"]["jobLabel"].as_str().unwrap();
        let jobs: BTreeSet<&str> = release
            .of_kind("Service")
            .filter_map(|service| service["metadata"]["labels"][label].as_str())
            .collect();
        assert_eq!(jobs, BTreeSet::from(["kms"]), "{name}: the job of Prometheus");
    }
    assert!(rules.contains("up{job=~\".*kms.*\"} == 0"), "KmsDown selects this job");
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
    // The root key comes from a secret, so it is on no volume with keys.
    for line in release.config().lines() {
        let Some(file) = line.trim().strip_prefix("root_key_file = ") else { continue };
        let mounts = release.container()["volumeMounts"].as_array().unwrap();
        let mount = mounts.iter().find(|mount| {
            let at = mount["mountPath"].as_str().unwrap();
            file.trim_matches('"').strip_prefix(at).is_some_and(|rest| rest.starts_with('/'))
        });
        let volumes = release.pod()["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == mount.unwrap()["name"]);
        assert_eq!(volume.unwrap()["secret"]["secretName"], "root", "{name}: {line}");
    }
    assert!(
        workload["kind"] != "StatefulSet" || release.config().contains("path = \"/var/lib/kms/store\""),
        "{name}"
    );
}

/// The server itself takes the config, and has nothing against it.
pub fn assert_loads(name: &str, release: &Release) {
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
fn helm_lints_the_chart() {
    let output = helm(&["lint", "--strict"], CASES[0].1);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("1 chart(s) linted, 0 chart(s) failed"), "{told}");
    assert!(!told.contains("[WARNING]") && !told.contains("[ERROR]"), "{told}");
}
