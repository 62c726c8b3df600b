//! Which server certificates are trusted. One rule holds for Vault, for the command line and for
//! `SSL_CERT_FILE`.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kms_tests::shell::{Done, Shell, text};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tempfile::TempDir;

use super::fake::{ADDRESS, Fake, Pair};

/// A program that sends a request, and the setting that names the trusted certificates.
#[derive(Clone, Copy, Debug)]
enum Client {
    /// `kms check` of a server with keys in Vault, with `keystore.vault.tls.ca`.
    Vault,
    /// The same with `SSL_CERT_FILE`.
    VaultBySystem,
    /// `kms status` with `--ca-cert`.
    CommandLine,
    /// The same with `SSL_CERT_FILE`.
    CommandLineBySystem,
}

const CLIENTS: [Client; 4] =
    [Client::Vault, Client::VaultBySystem, Client::CommandLine, Client::CommandLineBySystem];

impl Client {
    /// Asks the server at `address` and trusts `trusted`, which is a file or a directory.
    fn ask(self, address: SocketAddr, trusted: &Path) -> Done {
        let named = if trusted.is_dir() { "SSL_CERT_DIR" } else { "SSL_CERT_FILE" };
        let by_system = Shell::default().set(named, trusted.display());
        match self {
            Self::Vault => check_vault(&Shell::default(), address, Some(trusted)),
            Self::VaultBySystem => check_vault(&by_system, address, None),
            Self::CommandLine => status(&Shell::default(), address, &["--ca-cert", text(trusted)]),
            Self::CommandLineBySystem => status(&by_system, address, &[]),
        }
    }
}

fn status(shell: &Shell, address: SocketAddr, flags: &[&str]) -> Done {
    let api_key = kms_server::credentials::apikey::ApiKey::generate().unwrap().to_text();
    let shell = shell.clone().set("KES_API_KEY", &*api_key);
    shell.run(&[&["status", "--short", "--server", &address.to_string()], flags].concat())
}

fn check_vault(shell: &Shell, address: SocketAddr, ca: Option<&Path>) -> Done {
    let directory = tempfile::tempdir().unwrap();
    let ca = ca.map(|ca| format!("[keystore.vault.tls]\nca = '{}'\n", ca.display())).unwrap_or_default();
    let config = directory.path().join("config.toml");
    let content = format!(
        "admin.identity = 'disabled'\ntls.cert = 'none'\ntls.key = 'none'\n[keystore.vault]\n\
         endpoint = 'https://{address}'\ntoken.value = 'the token'\n{ca}"
    );
    std::fs::write(&config, content).unwrap();
    shell.run(&["check", "--config", text(&config)])
}

/// Starts a server that answers like a Vault. The answer also suffices for `kms status`.
fn serve(pair: &Pair) -> Fake {
    Fake::start(pair, |_| (200, r#"{"initialized":true,"sealed":false,"standby":false}"#.to_owned()))
}

/// The files of one test.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, parts: &[&str]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, parts.concat()).unwrap();
        path
    }

    fn directory(&self, name: &str, files: &[&str]) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir(&path).unwrap();
        let frame = "-----BEGIN CERTIFICATE-----\n...\n-----END CERTIFICATE-----\n";
        std::fs::write(path.join("README"), format!("CAs in PEM belong here:\n{frame}")).unwrap();
        std::fs::write(path.join("empty.crt"), "").unwrap();
        for (number, content) in files.iter().enumerate() {
            std::fs::write(path.join(format!("{number}.crt")), content).unwrap();
        }
        path
    }
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.subject_alt_names = match name.parse() {
        Ok(address) => vec![SanType::IpAddress(address)],
        Err(_) => vec![SanType::DnsName(name.try_into().unwrap())],
    };
    params
}

fn of_ca(mut params: CertificateParams) -> CertificateParams {
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

fn expired(mut params: CertificateParams) -> CertificateParams {
    params.not_before = rcgen::date_time_ymd(2019, 1, 1);
    params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    params
}

fn self_signed(params: &CertificateParams) -> Pair {
    let key = KeyPair::generate().unwrap();
    Pair { certificate: params.self_signed(&key).unwrap().pem(), key: key.serialize_pem() }
}

fn issuer(name: &str, params: CertificateParams) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = params;
    params.distinguished_name.push(DnType::CommonName, name);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn signed(params: &CertificateParams, issuer: &CertifiedIssuer<'_, KeyPair>) -> Pair {
    let key = KeyPair::generate().unwrap();
    Pair { certificate: params.signed_by(&key, issuer).unwrap().pem(), key: key.serialize_pem() }
}

/// Expects that all clients send a request to `server`. With a `refusal` they print that and send nothing.
#[track_caller]
fn all_agree(what: &str, server: &Pair, trusted: &Path, refusal: Option<&str>) {
    let server = serve(server);
    for client in CLIENTS {
        let done = client.ask(server.address, trusted);
        let asked = !server.take_requests().is_empty();
        assert_eq!(asked, refusal.is_none(), "{what}, {client:?}: {done:?}");
        if let Some(refusal) = refusal {
            let told = format!("{}{}", done.stdout, done.stderr).to_lowercase();
            let told = told
                .replace("unknown authority", "unknownissuer")
                .replace("for another host name", "not valid for name");
            assert!(told.contains(refusal), "{what}, {client:?}: {done:?}");
        }
    }
}

#[test]
fn the_one_certificate_that_was_named_is_accepted_whatever_it_says() {
    let files = Files::new();
    let cases = [
        ("right", params(ADDRESS)),
        ("a CA without names, as openssl makes it", of_ca(CertificateParams::default())),
        ("for another name", params("vault.example")),
        ("a CA for another name", of_ca(params("vault.example"))),
        ("expired", expired(params(ADDRESS))),
        ("an expired CA without names", expired(of_ca(CertificateParams::default()))),
    ];
    for (number, (what, params)) in cases.iter().enumerate() {
        let own = self_signed(params);
        let trusted = files.file(&format!("{number}.crt"), &[&own.certificate]);
        all_agree(what, &own, &trusted, None);
    }
    // A certificate that is not self-signed is a pin as well.
    let own = signed(&expired(params("vault.example")), &issuer("CA", of_ca(params("ca.example"))));
    all_agree("signed", &own, &files.file("signed.crt", &[&own.certificate]), None);

    let (own, other) = (self_signed(&params(ADDRESS)), self_signed(&params(ADDRESS)));
    all_agree("another one", &own, &files.file("other.crt", &[&other.certificate]), Some("unknownissuer"));
}

#[test]
fn whom_the_right_ca_signed_is_accepted_for_its_name_and_in_its_time() {
    let files = Files::new();
    let ca = issuer("CA", of_ca(CertificateParams::default()));
    let as_file = files.file("ca.crt", &[&ca.pem()]);
    let as_directory = files.directory("cas", &[&ca.pem()]);
    for trusted in [as_file, as_directory] {
        all_agree("the right one", &signed(&params(ADDRESS), &ca), &trusted, None);
        all_agree("expired", &signed(&expired(params(ADDRESS)), &ca), &trusted, Some("expired"));
        let wrong = signed(&params("vault.example"), &ca);
        all_agree("for another name", &wrong, &trusted, Some("not valid for name"));
    }
}

/// This was a defect: a server with an expired certificate of `grafana.example` beside the CA passed for
/// Vault and got the login.
#[test]
fn another_certificate_beside_the_ca_is_nobody_else() {
    let files = Files::new();
    let ca = issuer("CA", of_ca(CertificateParams::default()));
    for (number, change) in
        [|params| params, expired, of_ca, |params| expired(of_ca(params))].iter().enumerate()
    {
        let grafana = issuer("grafana.example", change(params("grafana.example")));
        let server = Pair { certificate: grafana.pem(), key: grafana.key().serialize_pem() };
        let refusal = if number % 2 == 1 { "expired" } else { "not valid for name" };
        let bundle = files.file(&format!("{number}.crt"), &[&ca.pem(), &grafana.pem()]);
        let directory = files.directory(&format!("{number}"), &[&ca.pem(), &grafana.pem()]);
        for trusted in [bundle, directory] {
            all_agree("grafana", &server, &trusted, Some(refusal));
            all_agree("the right one", &signed(&params(ADDRESS), &ca), &trusted, None);
            if number < 2 {
                let forged = signed(&params(ADDRESS), &grafana);
                all_agree("signed by what is no CA", &forged, &trusted, Some("unknownissuer"));
            }
        }
    }
}

/// Each node of this Vault made its own certificate.
#[test]
fn self_signed_nodes_are_each_accepted_for_their_own_name() {
    let files = Files::new();
    for (kind, change) in
        [("CA", of_ca as fn(CertificateParams) -> CertificateParams), ("no CA", |params| params)]
    {
        let [one, two, elsewhere, old] =
            [params(ADDRESS), params(ADDRESS), params("node-3.example"), expired(params(ADDRESS))]
                .map(|params| self_signed(&change(params)));
        let all = [&one, &two, &elsewhere, &old].map(|node| node.certificate.as_str());
        let bundle = files.file(&format!("{kind}.crt"), &all);
        let directory = files.directory(kind, &all);
        for trusted in [bundle, directory] {
            all_agree("the first node", &one, &trusted, None);
            all_agree("the second node", &two, &trusted, None);
            all_agree("a node of another name", &elsewhere, &trusted, Some("not valid for name"));
            all_agree("a node that has expired", &old, &trusted, Some("expired"));
            let stranger = self_signed(&params("stranger.example"));
            all_agree("a stranger", &stranger, &trusted, Some("unknownissuer"));
        }
    }
}

#[test]
fn what_holds_no_certificate_is_named_and_nothing_is_waited_for() {
    let files = Files::new();
    let server = serve(&self_signed(&params(ADDRESS)));
    let pipe = files.0.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    let directory = files.directory("cas", &[]);
    for (path, why) in [
        (files.file("empty.crt", &[]), "it holds no certificate"),
        (pipe, "it is a pipe"),
        (directory, "no file in it holds a certificate"),
        (files.0.path().join("nowhere"), "no such file"),
    ] {
        for client in CLIENTS {
            let done = client.ask(server.address, &path);
            let told = format!("{}{}", done.stdout, done.stderr);
            assert!(!done.status.success() && server.take_requests().is_empty(), "{client:?}: {done:?}");
            assert!(told.contains(text(&path)) && told.contains(why), "{client:?}: {done:?}");
        }
    }
}
