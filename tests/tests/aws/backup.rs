//! Keys in AWS KMS cannot be backed up, and whoever asks for that is told why.

use kms_server::settings::BackupSettings;
use kms_tests::localstack::Aws;
use kms_tests::recipient::OWNER;
use kms_tests::shell::Shell;
use kms_tests::{Protocol, TestServer};

const WHY: &str = "keys of AWS KMS never leave AWS, so there is nothing to back up";

#[tokio::test(flavor = "multi_thread")]
async fn a_server_says_why_with_and_without_recipients() {
    let aws = Aws::start().await;
    for recipients in [Vec::new(), vec![OWNER.public.to_owned()]] {
        let mut builder = TestServer::builder();
        builder.settings.backup = BackupSettings { recipients, drill_evidence: None };
        let server = builder.kms(aws.open().await).start().await;
        let answer = server.admin(Protocol::Http2).send("PUT", "/v1/backup/create", "").await.unwrap();
        assert_eq!(answer.code(), 501);
        assert_eq!(answer.member("message"), WHY);
    }
}

#[test]
fn the_command_on_a_config_says_why_and_leaves_no_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).display().to_string();
    let config = "[admin]\nidentity = \"disabled\"\n[tls]\ncert = \"server.crt\"\nkey = \"server.key\"\n\
                  [keystore.aws.kms]\nregion = \"eu-central-1\"\n";
    std::fs::write(path("kms.toml"), config).unwrap();
    let create =
        ["backup", "create", "--config", &path("kms.toml"), "--recipient", OWNER.public, "-o", &path("out")];
    let error = Shell::default().run(&create).error();
    assert!(error.contains("its keys never leave AWS KMS"), "{error}");
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
}
