//! The chart, rendered by Helm and held against Kubernetes' schemas.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kms_tests::programs::program;
use kms_tests::shell::text;
use serde_json::Value;
use tempfile::TempDir;

/// The namespace of every release here.
pub const NAMESPACE: &str = "storage";

/// Returns the directory of the chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging/helm/kms")
}

/// Runs Helm on the chart with these values.
pub fn helm(command: &[&str], values: &str) -> Output {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("values.yaml");
    fs::write(&file, values).unwrap();
    let mut helm = Command::new(program("helm"));
    // Helm that is built from its module takes itself for one of an old Kubernetes.
    helm.args(command).arg(chart()).args(["--kube-version", "1.37.0", "--namespace", NAMESPACE, "--values"]);
    helm.arg(file).env("HOME", directory.path()).output().unwrap()
}

/// Renders a release called `main`, or returns what Helm says against it.
pub fn render(values: &str) -> Result<String, String> {
    let output = helm(&["template", "main"], values);
    if output.status.success() {
        Ok(String::from_utf8(output.stdout).unwrap())
    } else {
        Err(String::from_utf8(output.stderr).unwrap())
    }
}

/// The manifests of one release.
pub struct Release {
    manifests: Vec<Value>,
}

impl Release {
    /// Returns the manifests of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.manifests.iter().filter(move |manifest| manifest["kind"] == kind)
    }

    /// Returns the only manifest of a kind.
    #[track_caller]
    pub fn only<'a>(&'a self, kind: &'a str) -> &'a Value {
        let mut found = self.of_kind(kind);
        let first = found.next().unwrap_or_else(|| panic!("no {kind}"));
        assert!(found.next().is_none(), "more than one {kind}");
        first
    }

    /// Returns the Deployment or the StatefulSet.
    pub fn workload(&self) -> &Value {
        let is_workload =
            |manifest: &&Value| manifest["kind"] == "Deployment" || manifest["kind"] == "StatefulSet";
        self.manifests.iter().find(is_workload).unwrap()
    }

    /// Returns the specification of the pods.
    pub fn pod(&self) -> &Value {
        &self.workload()["spec"]["template"]["spec"]
    }

    /// Returns the container.
    pub fn container(&self) -> &Value {
        let containers = self.pod()["containers"].as_array().unwrap();
        assert_eq!(containers.len(), 1);
        &containers[0]
    }

    /// Returns the server's config.
    pub fn config(&self) -> &str {
        self.only("Secret")["stringData"]["config.toml"].as_str().unwrap()
    }
}

/// Renders releases and holds all their manifests against the schemas.
pub fn judge<'a>(cases: &[(&'a str, &str)]) -> BTreeMap<&'a str, Release> {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str| directory.path().join(format!("{name}.yaml"));
    for (name, values) in cases {
        fs::write(file(name), render(values).unwrap_or_else(|why| panic!("{name}: {why}"))).unwrap();
    }
    let judged = judgement(&directory, cases.iter().map(|(name, _)| file(name)));
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
    let mut judged: Value = serde_json::from_slice(&judged.stdout).unwrap();
    let releases = judged["releases"].as_array().unwrap();
    assert!(releases.len() == 2 && releases[0] != releases[1], "{releases:?}");
    let mut manifests =
        |name: &str| serde_json::from_value(judged["files"][text(&file(name))].take()).unwrap();
    cases.iter().map(|&(name, _)| (name, Release { manifests: manifests(name) })).collect()
}

/// Holds one text of manifests against the schemas, and returns the complaints.
pub fn complaints(manifests: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("one.yaml");
    fs::write(&file, manifests).unwrap();
    let judged = judgement(&directory, [file].into_iter());
    String::from_utf8(judged.stderr).unwrap()
}

fn judgement(directory: &TempDir, files: impl Iterator<Item = PathBuf>) -> Output {
    let schemas = Path::new(env!("CARGO_MANIFEST_DIR")).join("tools/crds");
    let mut judge = Command::new(program("judge-manifests"));
    judge.arg(schemas).args(files).current_dir(directory.path()).output().unwrap()
}
