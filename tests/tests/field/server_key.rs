//! Private keys of the server that openssl and KES encrypted.

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kms_tests::shell::{Serving, Shell, kms, text};
use tempfile::TempDir;

const PASSWORD: &str = "open-sesame";
const ADMIN: &str = "3ecfcdf38fcbe141ae26a1030f81e96b753365a46760ae6b578698a97c59fd22";

/// A directory with the certificate of a server and its private key in the forms of openssl.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        let output = command.args(arguments.split(' ')).current_dir(self.0.path()).output().unwrap();
        assert!(output.status.success(), "openssl {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// Creates `plain.key` and a certificate for it.
    fn make(&self, key: &str) {
        self.openssl(&format!("genpkey {key} -out plain.key"));
        self.openssl(
            "req -x509 -key plain.key -days 90 -subj /CN=kes -addext subjectAltName=IP:127.0.0.1 \
             -addext basicConstraints=critical,CA:FALSE -out server.crt",
        );
    }

    fn config(&self, password: &str) -> PathBuf {
        let [key, cert, keys] =
            ["server.key", "server.crt", "keys"].map(|name| self.path(name).display().to_string());
        let config = format!(
            "version: v1\naddress: 127.0.0.1:0\nadmin: {{identity: {ADMIN}}}\ntls:\n  key: {key}\n  cert: {cert}\n\
             {password}keystore: {{fs: {{path: {keys}}}}}\n"
        );
        let file = self.path("config.yml");
        fs::write(&file, config).unwrap();
        file
    }

    /// Runs a command at a terminal, types a line at each prompt, and returns the output.
    fn at_terminal(&self, lines: &str, command: &str) -> String {
        let mut script = Command::new("script");
        script.args(["-qec", command, "/dev/null"]).current_dir(self.0.path());
        let mut child = script.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut keyboard, mut screen) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        let (mut lines, mut shown, mut piece) = (lines.lines(), Vec::new(), [0; 1024]);
        loop {
            let read = screen.read(&mut piece).unwrap();
            if read == 0 {
                break;
            }
            shown.extend_from_slice(&piece[..read]);
            if shown.ends_with(b"private key:") {
                // The prompt appears before the terminal stops echoing.
                std::thread::sleep(Duration::from_millis(200));
                writeln!(keyboard, "{}", lines.next().expect("one more prompt than expected")).unwrap();
            }
        }
        // The keyboard stays open until the command has ended, because its end hangs up the terminal.
        drop(keyboard);
        child.wait().unwrap();
        assert_eq!(lines.next(), None, "it was not asked for");
        String::from_utf8(shown).unwrap()
    }

    fn serve(&self, shell: &Shell) -> Serving {
        shell.serve(&["--config", text(&self.path("config.yml"))])
    }
}

const WITH_PASSWORD: &str = "  password: ${KEY_PASSWORD}\n";

fn shell() -> Shell {
    Shell::default().set("KEY_PASSWORD", PASSWORD)
}

#[test]
fn encrypted_keys_of_all_forms_start_the_server() {
    let rsa = "-algorithm RSA -pkeyopt rsa_keygen_bits:2048";
    let ec = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
    for (what, key, encrypt) in [
        ("KES's, EC", ec, "ec -in plain.key -aes256"),
        ("RFC 1423, AES-128", ec, "pkey -in plain.key -traditional -aes128"),
        ("RFC 1423, AES-192, RSA", rsa, "pkey -in plain.key -traditional -aes192"),
        ("RFC 1423, 3DES, RSA", rsa, "pkey -in plain.key -traditional -des3"),
        ("PKCS #8, AES-256", ec, "pkcs8 -topk8 -in plain.key -v2 aes-256-cbc"),
        (
            "PKCS #8, AES-128, an old hash, RSA",
            rsa,
            "pkcs8 -topk8 -in plain.key -v2 aes-128-cbc -v2prf hmacWithSHA1",
        ),
        ("PKCS #8, 3DES", ec, "pkcs8 -topk8 -in plain.key -v2 des3"),
        ("PKCS #8, scrypt", ec, "pkcs8 -topk8 -in plain.key -scrypt"),
        ("PKCS #8, Ed25519", "-algorithm ED25519", "pkcs8 -topk8 -in plain.key -v2 aes-256-cbc"),
    ] {
        let files = Files::new();
        files.make(key);
        files.openssl(&format!("{encrypt} -passout pass:{PASSWORD} -out server.key"));
        assert!(fs::read_to_string(files.path("server.key")).unwrap().contains("ENCRYPTED"), "{what}");
        let config = files.config(WITH_PASSWORD);
        let server = files.serve(&shell());
        let checked = shell().run(&["check", "--config", text(&config)]);
        assert!(checked.stdout.contains("server.crt: for 127.0.0.1"), "{what}: {checked:?}");
        let told = format!("{}{}{}{}", server.stdout(), server.stderr(), checked.stdout, checked.stderr);
        assert!(!told.contains(PASSWORD), "{what}: {told}");
        server.stop();
    }
}

#[test]
fn a_key_that_cannot_be_used_is_told_by_its_kind() {
    for (key, expected) in [
        ("-algorithm RSA -pkeyopt rsa_keygen_bits:1024", "it is an RSA key of 1024 bits; make one of"),
        ("-algorithm ED448", "it is an Ed448 key; make one of"),
        (
            "-algorithm EC -pkeyopt ec_paramgen_curve:secp256k1",
            "it is the elliptic curve secp256k1; make one of",
        ),
    ] {
        let files = Files::new();
        files.make(key);
        fs::copy(files.path("plain.key"), files.path("server.key")).unwrap();
        let told = shell().run(&["server", "--config", text(&files.config(""))]).error();
        assert!(
            told.contains("server.key: the private key cannot be used") && told.contains(expected),
            "{told}"
        );
    }
}

#[test]
fn what_stands_around_an_encrypted_key_changes_nothing() {
    let files = Files::new();
    files.make("-algorithm EC -pkeyopt ec_paramgen_curve:P-384");
    files.openssl(&format!("ec -in plain.key -aes256 -passout pass:{PASSWORD} -out one.key"));
    files.openssl("ecparam -name secp384r1 -out parameters");
    let read = |name: &str| fs::read_to_string(files.path(name)).unwrap();
    let (key, parameters, cert) = (read("one.key"), read("parameters"), read("server.crt"));
    files.config(WITH_PASSWORD);
    for content in [
        format!("{parameters}{key}"),
        format!("{cert}{key}"),
        format!("{key}{cert}"),
        key.replace('\n', "\r\n"),
        format!("\u{feff}{key}"),
        format!("Bag Attributes\n    friendlyName: kes\n{key}"),
    ] {
        fs::write(files.path("server.key"), content).unwrap();
        files.serve(&shell()).stop();
    }
}

#[test]
fn a_password_that_is_missing_or_wrong_is_told_by_file_and_name() {
    let files = Files::new();
    files.make("-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    for encrypt in ["ec -in plain.key -aes256", "pkcs8 -topk8 -in plain.key -v2 aes-256-cbc"] {
        files.openssl(&format!("{encrypt} -passout pass:{PASSWORD} -out server.key"));
        for (config, expected) in [
            ("", "server.key: its private key is encrypted, and there is no password: set tls.password"),
            ("  password: \"\"\n", "there is no password: set tls.password"),
            (
                "  password: wrong\n",
                "server.key: its private key is damaged, or encrypted with another password than tls.password",
            ),
        ] {
            let config = files.config(config);
            let server = shell().run(&["server", "--config", text(&config)]);
            let check = shell().run(&["check", "--config", text(&config)]);
            assert!(server.error().contains(expected), "{encrypt}: {expected}");
            assert!(check.stdout.contains(expected), "{encrypt}: {check:?}");
        }
    }
    // A password for an unencrypted key is ignored, as in KES.
    fs::copy(files.path("plain.key"), files.path("server.key")).unwrap();
    files.config(WITH_PASSWORD);
    files.serve(&shell()).stop();
}

#[test]
fn a_key_that_is_renewed_with_another_password_is_loaded_with_its_config() {
    let files = Files::new();
    files.make("-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    let encrypt = |password: &str| {
        files.openssl(&format!("ec -in plain.key -aes256 -passout pass:{password} -out server.key"));
    };
    encrypt(PASSWORD);
    files.config(WITH_PASSWORD);
    let server = files.serve(&shell());
    encrypt("another");
    hang_up(&server);
    until(&server, "encrypted with another password than tls.password");
    files.config("  password: another\n");
    hang_up(&server);
    until(&server, "the configuration was loaded again");
    server.stop();
}

fn until(server: &Serving, expected: &str) {
    let began = Instant::now();
    while !server.stderr().contains(expected) {
        assert!(began.elapsed() < Duration::from_secs(20), "not '{expected}':\n{}", server.stderr());
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_key_that_is_made_encrypted_is_asked_for_its_password_wherever_it_is_read() {
    let files = Files::new();
    let [key, cert] = ["server.key", "server.crt"].map(|name| files.path(name));
    let typed =
        |lines: &str, arguments: &str| files.at_terminal(lines, &format!("{} {arguments}", kms().display()));
    let make =
        format!("identity new --encrypt --ip 127.0.0.1 --key {} --cert {}", key.display(), cert.display());
    assert!(typed("one\ntwo\n", &make).contains("passwords don't match"));
    assert!(typed("\n", &make).contains("the password is empty"));
    assert!(!key.exists() && !cert.exists());
    let shown = typed(&format!("{PASSWORD}\n{PASSWORD}\n"), &make);
    assert!(shown.contains("Confirm password for private key:") && !shown.contains(PASSWORD), "{shown}");
    files.openssl(&format!("pkey -in server.key -passin pass:{PASSWORD} -noout"));

    let identity = Shell::default().run(&["identity", "of", text(&cert)]).ok();
    let told = typed(&format!("{PASSWORD}\n"), &format!("identity --color never {}", key.display()));
    let api_key = told.split_whitespace().find(|word| word.starts_with("kes:v1:")).expect(&told);
    assert_eq!(Shell::default().run(&["identity", "of", api_key]).ok(), identity);
    let refused = typed("wrong\n", &format!("identity --color never {}", key.display()));
    assert!(refused.contains("server.key: the password is wrong"), "{refused}");

    // The server takes the password from the config, and its admin types it.
    let config = fs::read_to_string(files.config(WITH_PASSWORD)).unwrap().replace(ADMIN, identity.trim());
    fs::write(files.path("config.yml"), config).unwrap();
    let server = files.serve(&shell());
    let address =
        server.stdout().split_whitespace().find_map(|word| word.strip_prefix("https://").map(str::to_owned));
    let environment = format!(
        "KES_SERVER={} KES_CLIENT_KEY={} KES_CLIENT_CERT={}",
        address.unwrap(),
        key.display(),
        cert.display()
    );
    let ask = format!("env {environment} {} key create -k new-key", kms().display());
    let refused = files.at_terminal("wrong\n", &ask);
    assert!(refused.contains("server.key: the password is wrong"), "{refused}");
    let done = files.at_terminal(&format!("{PASSWORD}\n"), &ask);
    assert!(done.contains("Enter password for private key:") && !done.contains("Error"), "{done}");
    assert!(
        !files
            .at_terminal(&format!("{PASSWORD}\n"), &ask.replace("create", "info"))
            .contains("does not exist")
    );
    let nobody = Shell::default().set("KES_CLIENT_KEY", key.display()).set("KES_CLIENT_CERT", cert.display());
    let told = nobody.run(&["key", "ls", "-k"]).error();
    assert!(told.contains("there is no terminal to ask for the password"), "{told}");
    server.stop();
}

#[test]
fn old_and_odd_certificates_of_the_server_serve_whoever_does_not_ask() {
    let files = Files::new();
    files.make("-algorithm EC -pkeyopt ec_paramgen_curve:P-256");
    files.openssl("req -new -key plain.key -subj /CN=kes -out request.csr");
    fs::copy(files.path("plain.key"), files.path("server.key")).unwrap();
    let (_, key) = (files.config(""), new_api_key());
    for (what, make, told) in [
        (
            "version 1",
            "x509 -req -in request.csr -signkey plain.key -days 90 -out server.crt",
            "no subject alternative name",
        ),
        ("a CA", "req -x509 -key plain.key -days 90 -subj /CN=kes -out server.crt", "is a CA"),
        (
            "an unknown critical extension",
            "req -x509 -key plain.key -days 90 -subj /CN=kes -addext 1.3.6.1.4.1.99999.1=critical,DER:0500 -out server.crt",
            "no subject alternative name",
        ),
    ] {
        files.openssl(make);
        let server = files.serve(&shell());
        assert!(server.stderr().contains(told), "{what}: {}", server.stderr());
        let address = server
            .stdout()
            .split_whitespace()
            .find_map(|word| word.strip_prefix("https://").map(str::to_owned));
        let client = Shell::default().set("KES_API_KEY", &key).set("KES_SERVER", address.unwrap());
        // The handshake succeeds, and the client has no policy.
        let refused = client.run(&["key", "ls", "-k"]).error();
        assert!(refused.contains("not authorized"), "{what}: {refused}");
        server.stop();
    }
    // This key does not belong to the certificate.
    files.openssl("genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out server.key");
    let config = files.path("config.yml");
    let told = shell().run(&["server", "--config", text(&config)]).stderr;
    assert!(told.contains("does not belong to the first certificate"), "{told}");
}

fn new_api_key() -> String {
    let printed = Shell::default().run(&["identity", "new"]).ok();
    printed.split_whitespace().find(|word| word.starts_with("kes:v1:")).unwrap().to_owned()
}

fn hang_up(server: &Serving) {
    let pid = rustix::process::Pid::from_raw(server.pid().try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
}
