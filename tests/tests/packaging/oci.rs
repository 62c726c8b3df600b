//! An image as packaging/image makes it of the binary of the tests.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use kms_tests::programs::program;
use kms_tests::shell::text;
use serde_json::Value;
use tempfile::TempDir;

use super::made::{binary, done, script};

/// An image as packaging/image made it.
pub struct Image {
    _dir: TempDir,
    path: PathBuf,
    told: String,
}

impl Image {
    /// Builds an image.
    pub fn build() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image");
        let packages = program("image-packages");
        let told = done(
            script("image")
                .args(["--binary", text(binary()), "--packages", text(&packages)])
                .arg("--out")
                .arg(&path),
        )
        .ok();
        Self { _dir: dir, path, told }
    }

    /// Returns an image that was built once.
    pub fn get() -> &'static Self {
        static BUILT: OnceLock<Image> = OnceLock::new();
        BUILT.get_or_init(Self::build)
    }

    /// Returns the directory of the image.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns what the script printed.
    pub fn told(&self) -> &str {
        &self.told
    }

    /// Returns the manifest.
    pub fn manifest(&self) -> Value {
        self.blob(&json(&self.path.join("index.json"))["manifests"][0])
    }

    /// Returns the version by which the image is named.
    pub fn version(&self) -> String {
        let index = json(&self.path.join("index.json"));
        index["manifests"][0]["annotations"]["org.opencontainers.image.ref.name"].as_str().unwrap().to_owned()
    }

    /// Returns a part of the image that is JSON.
    pub fn blob(&self, descriptor: &Value) -> Value {
        let digest = descriptor["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        json(&self.path.join("blobs/sha256").join(digest))
    }

    /// Returns the names and lengths of all files, whose names are digests.
    pub fn files(&self) -> BTreeMap<PathBuf, u64> {
        let mut files = BTreeMap::new();
        for entry in fs::read_dir(self.path.join("blobs/sha256")).unwrap() {
            let entry = entry.unwrap();
            files.insert(entry.path().file_name().unwrap().into(), entry.metadata().unwrap().len());
        }
        files
    }
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}
