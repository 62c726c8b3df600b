//! What a release is made of: one version, crates that compilers of a stated age read, sums, provenance and signatures.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use kms_tests::programs::program;
use kms_tests::shell::{Shell, text};
use serde_json::Value;

/// Returns the directory of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Returns what stands behind `key = ` in a section of the workspace's Cargo.toml.
fn of_workspace(section: &str, key: &str) -> String {
    let manifest = read("Cargo.toml");
    let (_, section) = manifest.split_once(&format!("\n[{section}]\n")).unwrap();
    let section = section.split("\n[").next().unwrap();
    let line = section.lines().find_map(|line| line.strip_prefix(&format!("{key} = "))).unwrap();
    line.split('#').next().unwrap().trim().trim_matches('"').to_owned()
}

/// Runs a program in the repository.
fn run(program: &Path, words: &[&str]) -> Output {
    Command::new(program).args(words).current_dir(root()).output().unwrap()
}

/// Returns stdout and stderr of a program that is to succeed.
#[track_caller]
fn ok(done: &Output) -> String {
    let told = [&done.stdout[..], &done.stderr].concat();
    let told = String::from_utf8_lossy(&told).into_owned();
    assert!(done.status.success(), "{told}");
    told
}

fn metadata(words: &[&str]) -> Value {
    let words = [&["metadata", "--locked", "--format-version", "1"], words].concat();
    let done = run(Path::new(env!("CARGO")), &words);
    assert!(done.status.success(), "{done:?}");
    serde_json::from_slice(&done.stdout).unwrap()
}

#[test]
fn the_version_comes_from_one_place() {
    let version = of_workspace("workspace.package", "version");
    let log = read("CHANGELOG.md");
    let topmost = log.lines().find_map(|line| line.strip_prefix("## ")).unwrap();
    assert_eq!(topmost.split(' ').next(), Some(&*version), "CHANGELOG.md has another release on top");
    let told = Shell::default().run(&["--version"]).ok();
    assert_eq!(told.split_whitespace().nth(1), Some(&*version), "{told}");
    for package in metadata(&["--no-deps"])["packages"].as_array().unwrap() {
        assert_eq!(package["version"], *version, "{}", package["name"]);
        let manifest = fs::read_to_string(package["manifest_path"].as_str().unwrap()).unwrap();
        assert!(
            manifest.contains("\nversion.workspace = true\n"),
            "{} has a version of its own",
            package["name"]
        );
        for dependency in package["dependencies"].as_array().unwrap() {
            // One without a version is only for tests.
            let required = dependency["req"].as_str().unwrap();
            let is_ours = dependency["path"].is_string() && required != "*";
            assert!(!is_ours || required == format!("^{version}"), "{} needs {dependency}", package["name"]);
        }
    }
    let chart = root().join("packaging/helm/kms/Chart.yaml");
    if chart.exists() {
        let chart = fs::read_to_string(chart).unwrap();
        let app = chart.lines().find_map(|line| line.strip_prefix("appVersion:")).unwrap();
        assert_eq!(app.trim().trim_matches('"'), version, "the chart's appVersion");
    }
    // Whatever else is packaged is told the version.
    let mut files = vec![root().join("Containerfile")];
    let mut directories = vec![root().join("packaging"), root().join(".github")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { directories.push(path) } else { files.push(path) }
        }
    }
    // The chart was looked at, and requirements are versions of others.
    let is_told =
        |file: &&PathBuf| !file.ends_with("Chart.yaml") && !text(file).ends_with("requirements.txt");
    for file in files.iter().filter(is_told) {
        let Ok(content) = fs::read_to_string(file) else { continue };
        let names_it =
            content.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').any(|word| word == version);
        assert!(!names_it, "{} names the version {version}", file.display());
    }
}

#[test]
fn the_oldest_compiler_that_is_promised_is_enough() {
    let oldest = of_workspace("workspace.package", "rust-version");
    let number =
        |version: &str| -> Vec<u32> { version.split('.').map(|part| part.parse().unwrap()).collect() };
    for package in metadata(&["--all-features"])["packages"].as_array().unwrap() {
        let Some(needs) = package["rust_version"].as_str() else { continue };
        assert!(number(needs)[..2] <= number(&oldest)[..2], "{} needs Rust {needs}", package["name"]);
    }
    // That compiler is not to be had on each machine, so a lint knows what its standard library lacks. Here it has to find something.
    let lints = read("Cargo.toml");
    let lints = lints.split("\n[workspace.lints.clippy]\n").nth(1).unwrap().split("\n[").next().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (manifest, source) = (directory.path().join("Cargo.toml"), directory.path().join("src"));
    fs::create_dir(&source).unwrap();
    let package = "[package]\nname = 'probe'\nversion = '0.0.0'\nedition = '2024'\nrust-version = '1.90'\n";
    fs::write(&manifest, format!("{package}[lints.clippy]\n{lints}\n[workspace]\n")).unwrap();
    // `Duration::from_mins` is of Rust 1.91.
    let code = "//! Probe.\n/// Returns a minute.\npub const fn minute() -> std::time::Duration {\n    std::time::Duration::from_mins(1)\n}\n";
    fs::write(source.join("lib.rs"), code).unwrap();
    let mut clippy = Command::new(env!("CARGO"));
    clippy
        .args(["clippy", "--quiet", "--offline"])
        .current_dir(directory.path())
        .env_remove("CARGO_TARGET_DIR");
    let done = clippy.args(["--", "-D", "warnings"]).output().unwrap();
    let told = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && told.contains("incompatible-msrv"), "{told}");
}

#[test]
fn the_workflow_of_a_release_is_one_that_runs() {
    ok(&run(&program("actionlint"), &["-shellcheck=", "-pyflakes="]));
    let workflow = read(".github/workflows/release.yml");
    assert!(
        workflow.contains(".ci/run") && workflow.contains("packaging/release --out"),
        "it tests, builds and signs"
    );
    // Its dry run leaves out two things and no other, of which the workflow does the upload itself.
    let script = read("packaging/release");
    assert_eq!(script.matches("left out in a dry run").count(), 1);
}

#[test]
fn sums_provenance_and_signatures_of_a_dry_run_hold_and_notice_a_change() {
    let out = tempfile::tempdir().unwrap();
    let version = of_workspace("workspace.package", "version");
    for name in ["kms-linux-amd64".to_owned(), format!("kms_{version}_amd64.deb")] {
        fs::write(out.path().join(&name), format!("stands for {name}")).unwrap();
    }
    let release = |steps: &str| {
        run(&root().join("packaging/release"), &["--dry-run", "--out", text(out.path()), "--steps", steps])
    };
    let told = ok(&release("version,advisories,provenance,checksums,minisign,verify"));
    assert!(told.contains(&format!("{version} is ready")), "{told}");

    let notes = fs::read_to_string(out.path().join("NOTES.md")).unwrap();
    assert!(
        notes.contains("### Added") && !notes.contains("\n## "),
        "the part of CHANGELOG.md about this release"
    );
    let provenance = fs::read(out.path().join(format!("kms-{version}.intoto.json"))).unwrap();
    let provenance: Value = serde_json::from_slice(&provenance).unwrap();
    assert_eq!(provenance["predicateType"], "https://slsa.dev/provenance/v1");
    let sums = fs::read_to_string(out.path().join("SHA256SUMS")).unwrap();
    let subjects = provenance["subject"].as_array().unwrap();
    assert_eq!(subjects.len(), 2, "{provenance}");
    for subject in subjects {
        let (name, sum) = (subject["name"].as_str().unwrap(), subject["digest"]["sha256"].as_str().unwrap());
        assert!(sums.contains(&format!("{sum}  {name}\n")), "{sums}");
    }
    let commit = ok(&run(Path::new("git"), &["rev-parse", "HEAD"]));
    let built_from = &provenance["predicate"]["buildDefinition"]["resolvedDependencies"][0];
    assert_eq!(built_from["digest"]["gitCommit"], commit.trim());

    let change = |name: &str, more: &str| {
        let before = fs::read(out.path().join(name)).unwrap();
        fs::write(out.path().join(name), [&before[..], more.as_bytes()].concat()).unwrap();
        let done = release("verify");
        assert!(!done.status.success(), "a change of {name} was not noticed");
        fs::write(out.path().join(name), before).unwrap();
    };
    change("kms-linux-amd64", "x");
    change("SHA256SUMS", "\n");
    let signature = fs::read_to_string(out.path().join("SHA256SUMS.minisig")).unwrap();
    // The first line is a comment that nobody signs.
    let mut lines: Vec<_> = signature.lines().map(str::to_owned).collect();
    lines[2].push('x');
    fs::write(out.path().join("SHA256SUMS.minisig"), lines.join("\n") + "\n").unwrap();
    assert!(!release("verify").status.success(), "a change of the trusted comment was not noticed");
    fs::write(out.path().join("SHA256SUMS.minisig"), signature).unwrap();
    fs::write(out.path().join("added"), "").unwrap();
    assert!(!release("verify").status.success(), "an artefact without a sum was not noticed");
    fs::remove_file(out.path().join("added")).unwrap();
    ok(&release("verify"));

    // What is not for trying needs keys, a tag, and a date.
    let real =
        run(&root().join("packaging/release"), &["--out", text(out.path()), "--steps", "version,minisign"]);
    assert!(!real.status.success(), "{real:?}");
}
