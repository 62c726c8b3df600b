//! The life of the .rpm, with the keys of a node that it made.

use std::process::Command;

use kms_tests::programs::program;
use kms_tests::shell::{Done, field, text};

use super::debian::Debian;
use super::made::{Packages, done};

/// A root directory with a list of rpm's packages: rpm runs outside of it, and the packages' scripts inside.
struct Rpm {
    debian: Debian,
}

impl Rpm {
    /// Makes a list that has what a distribution of rpm's would have: a package for the C library and for each program of
    /// this root directory that the .rpm asks for.
    fn new() -> Self {
        let rpm = Self { debian: Debian::new() };
        rpm.debian.put(
            "/root/base.yaml",
            "name: base\narch: amd64\nversion: 1.0.0\nmaintainer: test\ndescription: what a distribution has\n\
             provides: [glibc = 2.28, /usr/sbin/groupadd, /usr/sbin/useradd, /usr/sbin/update-alternatives]\n",
            0o644,
        );
        let (config, into) = (rpm.debian.path("/root/base.yaml"), rpm.debian.path("/root/base.rpm"));
        let mut nfpm = Command::new(program("nfpm"));
        done(nfpm.args(["package", "--packager", "rpm", "--config", text(&config), "--target", text(&into)]))
            .ok();
        // The scripts find it there, too.
        rpm.debian.run("ln -s ../bin/update-alternatives /usr/sbin/update-alternatives").ok();
        rpm
    }

    fn run(&self, arguments: &[&str]) -> Done {
        let root = self.debian.path("/");
        done(
            Command::new(program("rpm"))
                .args(["--root", text(&root), "--dbpath", "/var/lib/rpm"])
                .args(arguments),
        )
    }
}

#[test]
fn keys_survive_the_upgrade_and_the_removal_of_the_rpm() {
    let (rpm, packages) = (Rpm::new(), Packages::get());
    let (old, new) = (packages.rpm("0.1.0"), packages.rpm("0.1.1"));
    let needy = rpm.run(&["--install", text(&old)]);
    assert!(needy.stderr.contains("glibc >= 2.28 is needed"), "{needy:?}");
    rpm.run(&["--install", text(&rpm.debian.path("/root/base.rpm"))]).ok();
    let installed = rpm.run(&["--install", text(&old)]).ok();
    assert!(installed.contains("kms init --system"), "{installed}");

    let debian = &rpm.debian;
    let made = debian.run("kms init --system --json").ok();
    debian.run("systemctl enable --now kms").ok();
    let client = format!(
        "export KES_SERVER=https://localhost:7373 KES_CA_CERT=/etc/kms/server.crt KES_API_KEY={};",
        field(&made, "api_key")
    );
    debian.retry(&format!("{client} kms status")).ok();
    debian.run(&format!("{client} kms key create my-key")).ok();
    let dek = debian.run(&format!("{client} kms key dek my-key --json")).ok();
    let opens = |when: &str| {
        debian.retry(&format!("{client} kms status"));
        let opened =
            debian.run(&format!("{client} kms key decrypt my-key {} --json", field(&dek, "ciphertext")));
        assert!(opened.status.success(), "{when}: {opened:?}");
        assert_eq!(field(&opened.stdout, "plaintext"), field(&dek, "plaintext"), "{when}");
    };
    opens("at once");

    debian.run("rm /run/systemctl.calls").ok();
    rpm.run(&["--upgrade", text(&new)]).ok();
    assert_eq!(debian.run("cat /run/systemctl.calls").ok(), "daemon-reload\ntry-restart kms.service\n");
    assert_eq!(rpm.run(&["--query", "kms"]).ok(), "kms-0.1.1-1.x86_64\n");
    opens("after the upgrade");
    assert!(debian.run("readlink -f /usr/bin/kes").ok().contains("/usr/bin/kms"));

    for completion in
        ["bash-completion/completions/kes", "zsh/site-functions/_kes", "fish/vendor_completions.d/kes.fish"]
    {
        debian.run(&format!("test -s /usr/share/{completion}")).ok();
    }

    let removed = rpm.run(&["--erase", "kms"]).ok();
    assert!(removed.contains("kms: /var/lib/kms is kept"), "{removed}");
    assert!(!debian.run("systemctl is-active kms || command -v kms || command -v kes").status.success());
    rpm.run(&["--install", text(&new)]).ok();
    debian.run("systemctl enable --now kms").ok();
    opens("after a removal and an installation");
}
