//! docs/install.md, word for word, in an empty Debian: from nothing to an encrypted object, and on through a package's life.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use kms_tests::programs::program;
use kms_tests::shell::Done;

use super::debian::Debian;
use super::made::{Packages, commands};

/// What the object holds, and nothing else on the disk.
const SECRET: &str = "the-text-of-the-object-in-the-clear";

/// The unit of a MinIO that was installed before, shortened to what the way of its start depends on.
const MINIO_UNIT: &str = "[Service]\nUser=minio-user\nEnvironmentFile=-/etc/default/minio\n\
    ExecStart=/usr/local/bin/minio server $MINIO_OPTS $MINIO_VOLUMES\nRestart=always\n";

const MINIO_DEFAULTS: &str = "MINIO_VOLUMES=/srv/minio\nMINIO_OPTS='--quiet --address 127.0.0.1:9000'\n\
    MINIO_ROOT_USER=minio-admin\nMINIO_ROOT_PASSWORD=minio-password\n";

/// Installs a MinIO that has an object already, which is not encrypted.
fn with_minio() -> Debian {
    let debian = Debian::new();
    debian.copy(&program("minio"), "/usr/local/bin/minio");
    debian.copy(&program("mc"), "/usr/local/bin/mc");
    debian.put("/etc/systemd/system/minio.service", MINIO_UNIT, 0o644);
    debian.put("/etc/default/minio", MINIO_DEFAULTS, 0o600);
    debian
        .run("useradd --system minio-user && install -d -o minio-user /srv/minio && systemctl start minio")
        .ok();
    debian.retry("mc --quiet alias set minio http://127.0.0.1:9000 minio-admin minio-password").ok();
    debian.run("mc --quiet mb minio/documents").ok();
    debian
        .run(&format!(
            "cd /root && echo {SECRET} >report.txt && mc --quiet cp report.txt minio/documents/plain.txt"
        ))
        .ok();
    debian
}

/// Returns how many files on MinIO's disk hold the text.
fn in_the_clear(debian: &Debian) -> usize {
    debian.run(&format!("grep -rl {SECRET} /srv/minio/documents | wc -l")).ok().trim().parse().unwrap()
}

fn mode_and_owner(debian: &Debian, path: &str) -> (u32, u32) {
    let found = debian.path(path).metadata().unwrap_or_else(|error| panic!("{path}: {error}"));
    (found.permissions().mode() & 0o7777, found.uid())
}

fn calls(debian: &Debian) -> String {
    let file = debian.path("/run/systemctl.calls");
    let calls = fs::read_to_string(&file).unwrap_or_default();
    fs::write(&file, "").unwrap();
    calls
}

/// The shells find completions of both names, and `man` its pages.
fn assert_complete(debian: &Debian) {
    for file in [
        "bash-completion/completions/kms",
        "zsh/vendor-completions/_kms",
        "fish/vendor_completions.d/kms.fish",
        "man/man1/kms.1.gz",
        "man/man1/kms-init.1.gz",
        "man/man1/kes.1.gz",
        "bash-completion/completions/kes",
        "zsh/vendor-completions/_kes",
        "fish/vendor_completions.d/kes.fish",
        "doc/kms/docs/install.md",
    ] {
        debian.run(&format!("test -s /usr/share/{file}")).ok();
    }
    let completed = "source /usr/share/bash-completion/completions/kes; complete -p kes; COMP_WORDS=(kes poli); COMP_CWORD=1; \
        $(complete -p kes | sed 's/.*-F \\([^ ]*\\) .*/\\1/') kes poli kes; echo ${COMPREPLY[@]}";
    let completed = debian.run(&format!("bash -c '{}'", completed.replace('\'', "'\\''"))).ok();
    assert!(completed.ends_with("\npolicy\n"), "{completed}");
}

#[test]
fn from_nothing_to_an_encrypted_object_and_through_the_life_of_the_package() {
    let packages = Packages::get();
    let debian = with_minio();
    debian.copy(&packages.deb("0.1.0"), "/root/kms_0.1.0_amd64.deb");
    let commands = commands("## From nothing to an encrypted object");
    assert!(!commands.is_empty() && commands.len() <= 6, "{commands:#?}");
    assert_eq!(in_the_clear(&debian), 1, "the object from before");

    let began = Instant::now();
    let mut told = String::new();
    for command in &commands {
        // MinIO takes a moment to start, as it does for whoever types this.
        let line = format!("cd /root && {command}");
        let ran: Done = if command.starts_with("mc ") { debian.retry(&line) } else { debian.run(&line) };
        assert!(ran.status.success(), "{command}: {ran:#?}");
        if command.starts_with("kms init") {
            assert!(ran.stdout.contains("systemctl enable --now kms"), "{ran:?}");
            told = ran.stdout;
        }
    }
    assert!(began.elapsed() < Duration::from_secs(300), "{:?}", began.elapsed());
    assert_eq!(in_the_clear(&debian), 1, "only the object from before");
    let read = || debian.retry("mc --quiet cat minio/documents/report.txt").ok();
    assert_eq!(read().trim(), SECRET);
    let stat = debian.run("mc stat --json minio/documents/report.txt").ok();
    assert!(stat.contains("\"AES256\""), "{stat}");

    // The layout that the unit needs, and that keeps secrets to themselves.
    let kms: u32 = debian.run("id -u kms").ok().trim().parse().unwrap();
    for (path, expected) in [
        ("/etc/kms", (0o755, 0)),
        ("/etc/kms/config.toml", (0o640, 0)),
        ("/etc/kms/server.crt", (0o644, 0)),
        ("/etc/kms/server.key", (0o600, 0)),
        ("/etc/kms/root.key", (0o600, 0)),
        ("/etc/kms/minio.env", (0o600, 0)),
        ("/etc/systemd/system/minio.service.d/kms.conf", (0o644, 0)),
        ("/var/lib/kms", (0o700, kms)),
        ("/var/lib/kms/journal", (0o600, kms)),
    ] {
        assert_eq!(mode_and_owner(&debian, path), expected, "{path}");
    }
    let copies = debian.run("grep -rl MINIO_KMS_KES_API_KEY= /etc /root /srv /var").ok();
    assert_eq!(copies, "/etc/kms/minio.env\n", "the API key is in one file");
    let status = fs::read_to_string(debian.path("/run/kms.pid")).unwrap();
    let of_children = "for child in $(cat /proc/PID/task/PID/children); do cat /proc/$child/status; done";
    let users = debian.run(&of_children.replace("PID", status.trim())).ok();
    assert!(
        users.lines().any(|line| line.starts_with("Uid:") && line.contains(&format!("\t{kms}\t"))),
        "{users}"
    );
    let exports: Vec<_> = told.lines().map(str::trim).filter(|line| line.starts_with("export ")).collect();
    let admin = exports.join("; ");
    let keys = debian.run(&format!("{admin}; kms key ls")).ok();
    assert!(keys.contains("minio-default-key"), "{keys}");
    let refused = debian.run("kms init --system");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stderr.contains("/etc/kms/config.toml: it exists already"), "{refused:?}");
    // MinIO's own API key is no admin's.
    let denied = debian.run(
        "set -a; . /etc/kms/minio.env; KES_SERVER=$MINIO_KMS_KES_ENDPOINT KES_API_KEY=$MINIO_KMS_KES_API_KEY \
         KES_CA_CERT=$MINIO_KMS_KES_CAPATH kms key create other-key",
    );
    assert!(denied.stderr.contains("not authorized"), "{denied:?}");

    assert_complete(&debian);
    let names = debian.run("kes --version && readlink -f /usr/bin/kes").ok();
    assert!(names.ends_with("/usr/bin/kms\n"), "{names}");

    // A running service is restarted by an upgrade, and one that was stopped stays so.
    calls(&debian);
    debian.copy(&packages.deb("0.1.1"), "/root/kms_0.1.1_amd64.deb");
    debian.run("dpkg -i /root/kms_0.1.1_amd64.deb").ok();
    assert_eq!(calls(&debian), "daemon-reload\ntry-restart kms.service\n");
    debian.run("systemctl is-active kms").ok();
    debian.run("systemctl restart minio").ok();
    assert_eq!(read().trim(), SECRET);
    debian.run("systemctl stop kms && dpkg -i /root/kms_0.1.0_amd64.deb").ok();
    assert!(!debian.run("systemctl is-active kms").status.success(), "an upgrade started the service");
    debian.run("systemctl start kms").ok();

    // Keys outlive the package, even its purge, which says so.
    let removed = debian.run("dpkg --remove kms").ok();
    assert!(removed.contains("kms: /var/lib/kms is kept"), "{removed}");
    for gone in ["bin/kes", "share/bash-completion/completions/kes", "share/zsh/vendor-completions/_kes"] {
        let found = debian.path(&format!("/usr/{gone}")).symlink_metadata();
        assert!(found.is_err(), "{gone}: the alternative is gone");
    }
    assert!(!debian.run("systemctl is-active kms").status.success());
    let purged = debian.run("dpkg --purge kms").ok();
    for kept in ["/var/lib/kms", "/etc/kms"] {
        assert!(purged.contains(&format!("kms: {kept} is kept")), "{purged}");
    }
    assert!(debian.path("/usr/bin/kms").symlink_metadata().is_err());
    debian.run("apt-get install -q /root/kms_0.1.1_amd64.deb && systemctl enable --now kms").ok();
    debian.run("systemctl restart minio").ok();
    assert_eq!(read().trim(), SECRET, "with the keys from before");
}

#[test]
fn a_package_that_was_never_used_starts_nothing_and_leaves_nothing() {
    let debian = Debian::new();
    debian.copy(&Packages::get().deb("0.1.0"), "/root/kms.deb");
    let installed = debian.run("dpkg -i /root/kms.deb").ok();
    assert!(installed.contains("kms init --system"), "{installed}");
    assert_eq!(calls(&debian), "daemon-reload\n");
    debian.run("systemctl enable --now kms").ok();
    assert!(!debian.run("systemctl is-active kms").status.success(), "there is no node yet");
    // Only root can make the node, and nothing is half made.
    let user = debian.run("setpriv --reuid=kms --regid=kms --clear-groups kms init --system");
    assert!(user.stderr.contains("run by root"), "{user:?}");
    debian.put("/etc/kms/server.key", "of somebody else", 0o600);
    let refused = debian.run("kms init --system");
    assert!(refused.stderr.contains("/etc/kms/server.key: it exists already"), "{refused:?}");
    assert_eq!(fs::read_dir(debian.path("/etc/kms")).unwrap().count(), 1);
    assert_eq!(fs::read_dir(debian.path("/var/lib/kms")).unwrap().count(), 0);
    debian.run("rm /etc/kms/server.key && dpkg --purge kms").ok();
    for path in ["/etc/kms", "/var/lib/kms", "/usr/share/doc/kms", "/usr/bin/kes"] {
        assert!(debian.path(path).symlink_metadata().is_err(), "{path}");
    }
    let without = debian.run("userdel kms; dpkg --unpack /root/kms.deb && userdel kms && kms init --system");
    assert!(without.stderr.contains("there is no user 'kms'"), "{without:?}");
}
