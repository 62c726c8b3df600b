//! curl presents client certificates of all kinds to the real KES and to this server.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use kms_server::credentials::certificate::Facts;
use kms_tests::programs::program;
use kms_tests::shell::kms;
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::setup::{Process, attempt, free_address, run, text};

/// The differences on purpose: versions of TLS, the answer of KES, the answer of this server, and a part of
/// its log.
const DIFFERENT: [(&str, &[&str], &str, &str, &str); 5] = [
    ("RSA of 1024 bits", &["1.2", "1.3"], "200", "none", "an RSA key of 1024 bits; make one of"),
    ("RSA of 1536 bits", &["1.2", "1.3"], "200", "none", "an RSA key of 1536 bits; make one of"),
    ("RSA of 2047 bits", &["1.2", "1.3"], "200", "none", "an RSA key of 2047 bits; make one of"),
    ("P-224", &["1.2"], "200", "none", "the elliptic curve P-224; make one of"),
    (
        "a CA first, the certificate of another behind it",
        &["1.2", "1.3"],
        "200",
        "400",
        "whose keys it did not prove",
    ),
];

#[test]
fn client_certificates_of_all_kinds_get_the_answer_that_kes_gives() {
    let kes = program("kes");
    let dir = tempfile::tempdir().unwrap();
    let clients = Clients::make(dir.path());
    let servers = [Server::start(&kes, &clients, "kes"), Server::start(kms(), &clients, "kms")];
    let mut seen = BTreeMap::new();
    for (name, client) in &clients.made {
        for version in ["1.2", "1.3"] {
            let [of_kes, of_ours] = servers.each_ref().map(|server| server.ask(client, version));
            let expected =
                DIFFERENT.iter().find(|(what, versions, ..)| what == name && versions.contains(&version));
            match expected {
                Some((_, _, kes, ours, told)) => {
                    assert_eq!((&*of_kes, &*of_ours), (*kes, *ours), "{name}, TLS {version}");
                    let log = kms_tests::process::settled(&servers[1].log);
                    assert!(log.contains(told), "{name}: '{told}' is not in\n{log}");
                }
                None => assert_eq!(of_ours, of_kes, "{name}, TLS {version}: ours, and KES"),
            }
            seen.insert((name.clone(), version), of_ours);
        }
    }
    let count = |answer: &str| seen.values().filter(|seen| *seen == answer).count();
    assert!(seen.len() >= 60 && count("200") >= 30 && count("400") >= 8 && count("none") >= 6, "{seen:#?}");
    let documented =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/compatibility.md")).unwrap();
    assert!(documented.contains("RSA key of less than 2048 bits"));
}

#[test]
fn verified_clients_of_all_kinds_get_the_answer_that_kes_gives() {
    let kes = program("kes");
    let dir = tempfile::tempdir().unwrap();
    let mut clients = Clients::new(dir.path());
    clients.signed();
    let servers = [Server::start(&kes, &clients, "kes"), Server::start(kms(), &clients, "kms")];
    let mut served = 0;
    for (name, client) in &clients.made {
        for version in ["1.2", "1.3"] {
            let [of_kes, of_ours] = servers.each_ref().map(|server| server.ask(client, version));
            served += usize::from(of_ours == "200");
            let seen = (&*of_kes, &*of_ours);
            match &**name {
                "a CA" => assert_eq!(seen, ("400", "none"), "{name}, TLS {version}"),
                "for everything" => assert_eq!(seen, ("200", "none"), "{name}, TLS {version}"),
                _ => assert_eq!(of_ours, of_kes, "{name}, TLS {version}: ours, and KES"),
            }
        }
    }
    assert!(served >= 12 && clients.made.len() >= 15);
    let log = kms_tests::process::settled(&servers[1].log);
    for told in [
        "it is a CA (basic constraints CA:TRUE): 'kms identity new' makes one that is none",
        "expired at 2020-01-01T00:00:00Z",
        "is not valid before 2090-01-01T00:00:00Z",
        "its extended key usage is for something else than clients",
        "has a critical extension that is not known",
        "no CA in tls.ca has signed it",
    ] {
        assert!(log.contains(told), "'{told}' is not in\n{log}");
    }
    for word in ["Other(", "OtherError", "BadEncoding", "UnknownIssuer", "Context"] {
        assert!(!log.contains(word), "{word} is in\n{log}");
    }
}

/// The change that makes a certificate special.
type Change<'a> = &'a dyn Fn(&mut CertificateParams);

/// The files of all clients, with what is special about each.
struct Clients {
    dir: PathBuf,
    server: (PathBuf, PathBuf),
    /// The CA of clients, if the servers verify them.
    ca: Option<PathBuf>,
    made: Vec<(String, (PathBuf, PathBuf))>,
}

impl Clients {
    fn make(dir: &Path) -> Self {
        let mut clients = Self::new(dir);
        clients.by_rcgen();
        clients.by_openssl();
        clients
    }

    fn new(dir: &Path) -> Self {
        let mut clients = Self { dir: dir.into(), server: Default::default(), ca: None, made: Vec::new() };
        let server_key = key();
        clients.server =
            clients.write("server", &self_signed(&server_key, |_| {}), &server_key.serialize_pem());
        clients
    }

    fn write(&self, name: &str, chain: &str, key: &str) -> (PathBuf, PathBuf) {
        let file = |kind: &str| self.dir.join(format!("{}.{kind}", name.replace([' ', ':', ','], "-")));
        let (cert, key_file) = (file("crt"), file("key"));
        fs::write(&cert, chain).unwrap();
        fs::write(&key_file, key).unwrap();
        (cert, key_file)
    }

    fn add(&mut self, name: &str, chain: &[&str], key: &KeyPair) {
        let files = self.write(name, &chain.concat(), &key.serialize_pem());
        self.made.push((name.into(), files));
    }

    /// Adds clients with special certificates and chains.
    fn by_rcgen(&mut self) {
        let one = |change: &dyn Fn(&mut CertificateParams)| {
            let key = key();
            (self_signed(&key, change), key)
        };
        let kinds: [(&str, Change<'_>); 13] = [
            ("plain", &|_| {}),
            ("expired", &|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)),
            ("not valid yet", &|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1)),
            ("CA:TRUE", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            ("CA:FALSE", &|params| params.is_ca = IsCa::ExplicitNoCa),
            ("for servers only", &|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            ("for signing code", &|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning];
            }),
            ("to sign certificates, and no CA", &|params| {
                params.is_ca = IsCa::ExplicitNoCa;
                params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            }),
            ("an unknown critical extension", &|params| params.custom_extensions.push(unknown(true))),
            ("an unknown extension", &|params| params.custom_extensions.push(unknown(false))),
            ("no common name", &|params| params.distinguished_name = rcgen::DistinguishedName::new()),
            ("a wildcard", &|params| {
                params.distinguished_name.push(DnType::CommonName, "*.example.org");
                params.subject_alt_names = vec![rcgen::SanType::DnsName("*.example.org".try_into().unwrap())];
            }),
            ("a long serial number", &|params| {
                params.serial_number = Some(SerialNumber::from(vec![0x7f; 20]));
            }),
        ];
        for (name, change) in kinds {
            let (pem, key) = one(change);
            self.add(name, &[&pem], &key);
        }
        for (name, algorithm) in [
            ("P-256", &rcgen::PKCS_ECDSA_P256_SHA256),
            ("P-384", &rcgen::PKCS_ECDSA_P384_SHA384),
            ("P-521", &rcgen::PKCS_ECDSA_P521_SHA512),
            ("Ed25519", &rcgen::PKCS_ED25519),
        ] {
            let key = KeyPair::generate_for(algorithm).unwrap();
            self.add(name, &[&self_signed(&key, |_| {})], &key);
        }
        let root = authority("root", None);
        let middle = authority("middle", Some(&root.1));
        let (own, other) = (key(), key());
        let leaf = params("leaf").signed_by(&own, &middle.1).unwrap().pem();
        let second = params("other").signed_by(&other, &middle.1).unwrap().pem();
        self.add("a chain", &[&leaf, &middle.0, &root.0], &own);
        self.add("a chain in odd order", &[&leaf, &root.0, &middle.0], &own);
        self.add("a chain with a CA twice", &[&leaf, &root.0, &root.0], &own);
        self.add("a leaf without its chain", &[&leaf], &own);
        self.add("a CA that did not sign it behind it", &[&second, &authority("foreign", None).0], &other);
        self.add("another leaf behind it", &[&leaf, &second], &own);
        self.add("another leaf between", &[&leaf, &second, &middle.0], &own);
        self.add("CAs alone", &[&root.0, &middle.0], root.1.key());
        self.add("a CA first, the certificate of another behind it", &[&root.0, &leaf], root.1.key());
    }

    /// Adds clients whose certificates the CA or a foreign CA signed.
    fn signed(&mut self) {
        let root = authority("root", None);
        let middle = authority("middle", Some(&root.1));
        let foreign = authority("root", None);
        let (ca, ca_key) = self.write("ca", &root.0, &root.1.key().serialize_pem());
        let kinds: [(&str, Change<'_>); 10] = [
            ("plain", &|_| {}),
            ("expired", &|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1)),
            ("not valid yet", &|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1)),
            ("for clients", &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            ("for servers only", &|params| {
                params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
            }),
            ("for everything", &|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]),
            ("an unknown critical extension", &|params| params.custom_extensions.push(unknown(true))),
            ("an unknown extension", &|params| params.custom_extensions.push(unknown(false))),
            ("no names", &|params| {
                params.distinguished_name = rcgen::DistinguishedName::new();
                params.subject_alt_names.clear();
            }),
            ("a CA", &|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ];
        for (name, change) in kinds {
            let (mut params, own) = (params("client"), key());
            change(&mut params);
            let pem = params.signed_by(&own, &root.1).unwrap().pem();
            self.add(name, &[&pem], &own);
        }
        let own = key();
        let leaf = params("leaf").signed_by(&own, &middle.1).unwrap().pem();
        self.add("a chain", &[&leaf, &middle.0], &own);
        self.add("a chain with its root", &[&leaf, &middle.0, &root.0], &own);
        self.add("a chain in odd order", &[&leaf, &root.0, &middle.0], &own);
        self.add("a leaf without its chain", &[&leaf], &own);
        let by_foreign = params("client").signed_by(&own, &foreign.1).unwrap().pem();
        self.add("of a CA with the same name", &[&by_foreign], &own);
        self.add("signed by itself", &[&self_signed(&own, |_| {})], &own);
        for (name, key) in [
            ("version 1", "RSA -pkeyopt rsa_keygen_bits:2048"),
            ("version 1, P-256", "EC -pkeyopt ec_paramgen_curve:P-256"),
        ] {
            let files = self.version_1(name, &format!("genpkey -algorithm {key}"), Some((&ca, &ca_key)));
            self.made.push((name.into(), files));
        }
        let (other, other_key) = self.write("other", &foreign.0, &foreign.1.key().serialize_pem());
        let ec = "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256";
        let files = self.version_1("version 1, of a CA with the same name", ec, Some((&other, &other_key)));
        self.made.push(("version 1, of a CA with the same name".into(), files));
        let files = self.version_1("version 1, signed by itself", ec, None);
        self.made.push(("version 1, signed by itself".into(), files));
        self.ca = Some(ca);
    }

    fn openssl(args: &str, files: &[&Path]) -> String {
        let files = files.iter().map(|path| path.to_str().unwrap());
        run(Path::new("openssl"), &args.split(' ').chain(files).collect::<Vec<_>>(), &[])
    }

    /// Creates a key and a certificate of version 1 that a CA or the key itself signed.
    fn version_1(&self, name: &str, make_key: &str, ca: Option<(&Path, &Path)>) -> (PathBuf, PathBuf) {
        let (cert, key) = self.write(name, "", "");
        let request = self.dir.join("request.csr");
        Self::openssl(&format!("{make_key} -out"), &[&key]);
        Self::openssl("req -new -subj /CN=client -key", &[&key, Path::new("-out"), &request]);
        let by: Vec<&Path> = match ca {
            Some((ca, ca_key)) => {
                vec![Path::new("-CA"), ca, Path::new("-CAkey"), ca_key, Path::new("-CAcreateserial")]
            }
            None => vec![Path::new("-signkey"), &key],
        };
        let files: Vec<&Path> = [&[Path::new("-in"), &request, Path::new("-out"), &cert], &by[..]].concat();
        // OpenSSL 3.4 writes version 3 by default.
        Self::openssl("x509 -req -days 30", &files);
        let is_version_1 = || Self::openssl("x509 -noout -text -in", &[&cert]).contains("Version: 1 ");
        if !is_version_1() {
            Self::openssl("x509 -req -x509v1 -days 30", &files);
        }
        assert!(is_version_1());
        (cert, key)
    }

    /// Adds clients with special keys and with certificates of version 1.
    fn by_openssl(&mut self) {
        let kinds = [
            ("RSA of 1024 bits", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1024"),
            ("RSA of 1536 bits", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:1536"),
            ("RSA of 2047 bits", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2047"),
            ("RSA of 2048 bits", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
            ("RSA of 3072 bits", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:3072"),
            ("RSA of 4096 bits", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:4096"),
            ("Ed448", "genpkey -algorithm ED448"),
            ("P-224", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp224r1"),
            ("secp256k1", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp256k1"),
            ("version 1, RSA", "genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048"),
            ("version 1, P-256", "genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"),
            ("version 1, Ed25519", "genpkey -algorithm ED25519"),
        ];
        for (name, make_key) in kinds {
            let files = if name.starts_with("version 1") {
                self.version_1(name, make_key, None)
            } else {
                let (cert, key) = self.write(name, "", "");
                Self::openssl(&format!("{make_key} -out"), &[&key]);
                let make = "req -new -x509 -days 30 -subj /CN=client -addext basicConstraints=CA:FALSE -key";
                Self::openssl(make, &[&key, Path::new("-out"), &cert]);
                (cert, key)
            };
            self.made.push((name.into(), files));
        }
    }

    /// Returns the identities of all clients, each of the certificate that KES takes.
    fn identities(&self) -> Vec<String> {
        let of = |cert: &Path| {
            let pem = fs::read(cert).unwrap();
            let chain = CertificateDer::pem_slice_iter(&pem).map(Result::unwrap);
            let ids = chain.map(|der| Facts::of(&der).unwrap().identity.to_string());
            ids.collect::<Vec<_>>()
        };
        let mut all: Vec<_> = self.made.iter().flat_map(|(_, (cert, _))| of(cert)).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

struct Server {
    endpoint: String,
    log: PathBuf,
    /// The OpenSSL configuration of curl.
    openssl: String,
    _process: Process,
}

impl Server {
    /// Starts a server whose policy allows all clients to ask for the status.
    fn start(program: &Path, clients: &Clients, name: &str) -> Self {
        let address = free_address();
        let dir = clients.dir.join(format!("of-{name}"));
        fs::create_dir(&dir).unwrap();
        let mut tls = serde_json::json!({"cert": clients.server.0, "key": clients.server.1});
        if let Some(ca) = &clients.ca {
            (tls["auth"], tls["ca"]) = ("on".into(), ca.to_str().unwrap().into());
        }
        let config = serde_json::json!({
            "version": "v1", "address": address, "admin": {"identity": "disabled"}, "tls": tls,
            "policy": {"all": {"allow": ["/v1/status"], "identities": clients.identities()}},
            "keystore": {"fs": {"path": dir.join("keys")}},
        });
        fs::write(dir.join("config.yml"), config.to_string()).unwrap();
        let log = dir.join("log");
        let mut command = Command::new(program);
        command.args(["server", "--config", "config.yml"]).current_dir(&dir);
        let process = Process::start(command, &log);
        process.until_listening(address);
        let openssl = dir.join("openssl.cnf");
        // The OpenSSL of curl has to accept old keys, so that the server judges them.
        let lenient = "openssl_conf = all\n[all]\nssl_conf = ssl\n[ssl]\nsystem_default = lenient\n\
                       [lenient]\nCipherString = DEFAULT@SECLEVEL=0\n";
        fs::write(&openssl, lenient).unwrap();
        let (endpoint, openssl) = (format!("https://{address}/v1/status"), openssl.display().to_string());
        Self { endpoint, log, openssl, _process: process }
    }

    /// Returns the status of the answer, or `none` if the handshake failed.
    fn ask(&self, (cert, key): &(PathBuf, PathBuf), version: &str) -> String {
        let patience = Duration::from_secs(20).as_secs().to_string();
        let files = [cert, key].map(|path| path.to_str().unwrap());
        let arguments = [
            "-sk",
            "--noproxy",
            "*",
            "-m",
            &patience,
            "--tlsv1.2",
            "--tls-max",
            version,
            "--cert",
            files[0],
            "--key",
            files[1],
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            &self.endpoint,
        ];
        let output = attempt(Path::new("curl"), &arguments, &[("OPENSSL_CONF", &self.openssl)]);
        let code = String::from_utf8(output.stdout.clone()).unwrap();
        // 28 is a timeout. No kind of certificate explains that.
        assert!(output.status.code() != Some(28), "{}: {}", cert.display(), text(&output));
        if code == "000" { "none".into() } else { code }
    }
}

fn key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn self_signed(key: &KeyPair, change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = params("client");
    change(&mut params);
    params.self_signed(key).unwrap().pem()
}

fn authority(name: &str, issuer: Option<&Issuer<'static, KeyPair>>) -> (String, Issuer<'static, KeyPair>) {
    let (mut params, key) = (params(name), key());
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let made = match issuer {
        Some(issuer) => params.signed_by(&key, issuer),
        None => params.self_signed(&key),
    };
    (made.unwrap().pem(), Issuer::new(params, key))
}

/// Returns an extension with an unknown object identifier and the value `NULL`.
fn unknown(is_critical: bool) -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
    extension.set_criticality(is_critical);
    extension
}
