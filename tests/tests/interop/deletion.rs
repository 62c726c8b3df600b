//! MinIO whose default key was deleted and is kept.

use std::fs;
use std::thread;
use std::time::Duration;

use super::minio::{Minio, path};
use super::setup::KeyServer;

const KEY: &str = "minio-default";

#[test]
fn minio_stops_at_its_start_with_the_way_back_and_makes_nothing_anew() {
    let keys = KeyServer::start(&["/v1/status", "/v1/key/*"], &[]);
    let mut minio = Minio::start(&keys);
    minio.mc(&["mb", "s3/bucket"]);
    let file = minio.file("file", 5000);
    minio.mc(&["cp", "--enc-s3", "s3/bucket", &path(&file), "s3/bucket/object"]);
    let content = fs::read(&file).unwrap();
    assert!(minio.get("s3/bucket/object") == content);

    keys.admin(&["key", "rm", KEY]);
    let listed = keys.admin(&["key", "ls", "--deleted"]);
    let told = minio.refuses_to_start(&keys);
    assert!(told.contains("key is deleted; 'kms key restore minio-default' brings it back"), "{told}");
    assert_eq!(keys.admin(&["key", "ls", "--deleted"]), listed, "it is the same key");
    assert!(!keys.admin(&["key", "ls"]).contains(KEY));

    keys.admin(&["key", "restore", KEY]);
    thread::sleep(Duration::from_millis(100));
    minio.restart(&keys);
    assert!(minio.get("s3/bucket/object") == content);
}
