//! The text of the repository.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Texts by their path in the repository.
pub type Texts = BTreeMap<String, String>;

/// What the rules are checked on.
pub struct Sources {
    /// Every `.rs` file.
    pub rust: Texts,
    /// The members of the workspace.
    pub members: Vec<Member>,
    /// `ARCHITECTURE.md`.
    pub architecture: String,
}

/// A package of the workspace.
pub struct Member {
    pub directory: String,
    pub name: String,
}

impl Sources {
    /// Reads the repository that this test belongs to.
    pub fn of_repository() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let mut rust = Texts::new();
        collect(root, root, &mut rust);
        let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
        let architecture = fs::read_to_string(root.join("ARCHITECTURE.md")).unwrap();
        let member = |directory: String| {
            let manifest = fs::read_to_string(root.join(&directory).join("Cargo.toml")).unwrap();
            let name = manifest.lines().find_map(|line| line.strip_prefix("name = \"")?.strip_suffix('"'));
            Member { name: name.expect("the name of a package").to_owned(), directory }
        };
        Self { rust, members: members(&manifest).into_iter().map(member).collect(), architecture }
    }
}

/// Adds the `.rs` files below a directory, except for what is built and what is hidden.
fn collect(root: &Path, directory: &Path, into: &mut Texts) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_symlink() || name.starts_with('.') || name == "target" {
            continue;
        }
        if path.is_dir() {
            collect(root, &path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let place = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            into.insert(place, fs::read_to_string(&path).unwrap());
        }
    }
}

/// Returns the directories of the members that the manifest of a workspace lists.
fn members(manifest: &str) -> Vec<String> {
    let (_, list) = manifest.split_once("members = [").expect("a list of members");
    let (list, _) = list.split_once("\n]").expect("the end of the list");
    list.lines()
        .filter_map(|line| Some(line.trim().strip_prefix('"')?.split_once('"')?.0.to_owned()))
        .collect()
}

#[test]
fn members_are_read_from_the_manifest() {
    let manifest =
        "[workspace]\nmembers = [\n    \"a\",    # first, \"b\"\n    \"c\",\n]\nexclude = [\"d\"]\n";
    assert_eq!(members(manifest), ["a", "c"]);
}

#[test]
fn the_repository_is_read_whole() {
    let sources = Sources::of_repository();
    for place in [
        "benches/bare-server/src/main.rs",
        "examples/own-store/src/lib.rs",
        "fuzz/src/lib.rs",
        "tests/tests/architecture/main.rs",
    ] {
        assert!(sources.rust.contains_key(place), "{place}");
    }
    assert!(sources.rust.keys().all(|place| !place.contains("target/")));
    assert!(sources.members.iter().any(|member| member.name == "kms-tests"));
}
