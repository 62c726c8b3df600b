//! `kms init --system` on a Debian without a package, with the unit of packaging/.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use kms_tests::shell::Done;

use super::debian::Debian;
use super::made::{binary, project};

/// Makes the user of the service as docs/operating.md does.
const ADD_USER: &str = "useradd --system --user-group --home-dir /var/lib/kms --shell /usr/sbin/nologin kms";

/// A Debian with the program and the unit, after this line of the shell has prepared it.
fn prepared(line: &str) -> Debian {
    let debian = Debian::new();
    debian.copy(binary(), "/usr/local/bin/kms");
    let unit = fs::read(project().join("packaging/kms.service")).unwrap();
    debian.put("/etc/systemd/system/kms.service", unit, 0o644);
    debian.run(line).ok();
    debian
}

/// Starts the service, and creates a key as the admin.
#[track_caller]
fn serves(debian: &Debian, made: Done) {
    let told = made.ok();
    let exports: Vec<_> = told.lines().map(str::trim).filter(|line| line.starts_with("export ")).collect();
    debian.run("systemctl start kms").ok();
    let admin = exports.join("; ");
    debian.retry(&format!("{admin}; kms key ls")).ok();
    debian.run(&format!("{admin}; kms key create my-key")).ok();
}

#[test]
fn a_store_behind_a_link_belongs_to_the_service() {
    // What somebody left in the store leads to a file of root, which stays root's.
    let debian = prepared(&format!(
        "{ADD_USER}; mkdir /srv/st && ln -s /srv/st /var/lib/kms && echo >/root/file && ln -s /root/file /srv/st/lost+found"
    ));
    serves(&debian, debian.run("kms init --system"));
    let owners = debian.run("find /srv/st -printf '%u:%g\\n' | sort -u").ok();
    assert_eq!(owners, "kms:kms\n");
    assert!(debian.path("/var/lib/kms").is_symlink());
    assert_eq!(debian.path("/root/file").metadata().unwrap().uid(), 0);
}

#[test]
fn a_place_that_the_service_cannot_enter_is_refused_before_anything_is_made() {
    for (line, expected) in [
        (
            "mkdir -p /root/st && chmod 700 /root && ln -s /root/st /var/lib/kms",
            "/var/lib/kms: the user kms cannot enter /root",
        ),
        ("install -d -m 700 /etc/kms", "/etc/kms: the user kms cannot enter /etc/kms"),
        (
            "install -d -m 700 /srv/etc && install -d /srv/etc/kms && ln -s /srv/etc/kms /etc/kms",
            "/etc/kms: the user kms cannot enter /etc/kms",
        ),
    ] {
        let debian = prepared(&format!("{ADD_USER}; {line}"));
        let error = debian.run("kms init --system").error();
        assert!(error.contains(expected), "{error}");
        let left = debian.run("find /etc/kms/ /var/lib/kms/ -type f 2>/dev/null | wc -l").ok();
        assert_eq!(left, "0\n", "{line}");
    }
}

#[test]
fn the_group_of_the_files_is_that_of_the_unit() {
    let debian = prepared("groupadd --system kms; useradd --system --gid users kms");
    serves(&debian, debian.run("kms init --system"));
    let owners = debian.run("stat --format '%U:%G %a' /etc/kms/config.toml /var/lib/kms/journal").ok();
    assert_eq!(owners, "root:kms 640\nkms:kms 600\n");

    let debian = prepared("useradd --system --gid users kms");
    let error = debian.run("kms init --system").error();
    assert!(error.contains("there is no group 'kms'") && error.contains("groupadd --system kms"), "{error}");
    assert!(!debian.path("/etc/kms").exists());
}

#[test]
fn what_exists_already_leads_to_the_page_of_this_machine() {
    let debian = prepared(&format!("{ADD_USER}; kms init --system"));
    let refused = || debian.run("kms init --system").error();
    let error = refused();
    assert!(error.ends_with("nothing is overwritten: see docs/install.md"), "{error}");
    debian.put("/usr/share/doc/kms/docs/install.md", "", 0o644);
    let error = refused();
    assert!(error.ends_with("nothing is overwritten: see /usr/share/doc/kms/docs/install.md"), "{error}");
}

#[test]
fn the_variables_of_a_minio_follow_a_file_whose_last_line_has_no_end() {
    let debian = prepared(&format!("{ADD_USER}; kms init --system --minio --dns localhost"));
    debian.put("/etc/default/minio", "MINIO_ROOT_PASSWORD=minio-password", 0o600);
    debian.run("cat /etc/kms/minio.env >>/etc/default/minio").ok();
    let read = "set -a; . /etc/default/minio; printenv MINIO_ROOT_PASSWORD MINIO_KMS_KES_ENDPOINT";
    assert_eq!(debian.run(read).ok(), "minio-password\nhttps://localhost:7373\n");
    let settings = fs::read_to_string(debian.path("/etc/default/minio")).unwrap();
    assert!(settings.starts_with("MINIO_ROOT_PASSWORD=minio-password\n"), "{settings}");
}
