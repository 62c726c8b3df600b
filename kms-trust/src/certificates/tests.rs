use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;

fn certificate(is_ca: bool) -> String {
    let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    if is_ca {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    }
    params.self_signed(&KeyPair::generate().unwrap()).unwrap().pem()
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn pipe(&self, name: &str) -> PathBuf {
        let path = self.0.path().join(name);
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        path
    }
}

#[test]
fn a_directory_of_cas_may_hold_other_things_too() {
    let place = Place::new();
    place.write("a.crt", &certificate(true));
    place.write("b.crt", &(certificate(true) + &certificate(false)));
    place.write("README", "The CAs of this site.\n-----BEGIN CERTIFICATE-----\nas they look\n");
    place.write("empty", "");
    place.write("server.key", &KeyPair::generate().unwrap().serialize_pem());
    place.pipe("pipe");
    std::fs::create_dir(place.0.path().join("..data")).unwrap();
    std::os::unix::fs::symlink("nowhere", place.0.path().join("dangling")).unwrap();
    let trusted = Trusted::of(place.0.path()).unwrap();
    assert_eq!((trusted.certificates.len(), trusted.authorities().count()), (3, 2));
    assert!(!trusted.is_one_certificate());
}

#[test]
fn what_holds_no_certificate_is_an_error_that_names_it() {
    let place = Place::new();
    let broken = certificate(true).replace("-----END", "----END");
    let damaged = certificate(true) + &broken;
    let no_certificate = "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";
    for (path, why) in [
        (place.0.path().join("nowhere"), "no such file"),
        (place.write("empty", ""), "it holds no certificate, expected PEM"),
        (place.write("broken", &broken), "it is no PEM file of a certificate"),
        (place.write("damaged", &damaged), "it is damaged behind certificate 1"),
        (place.write("other", no_certificate), "certificate 1 in it cannot be used"),
        (place.pipe("pipe"), "it is a pipe"),
    ] {
        let error = Trusted::of(&path).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && error.contains(why), "{error}");
    }

    let directory = Place::new();
    directory.write("README", "nothing");
    directory.pipe("pipe");
    let error = Trusted::of(directory.0.path()).unwrap_err().to_string();
    assert!(error.contains(&directory.0.path().display().to_string()), "{error}");
    let broken = directory.write("broken", &broken).display().to_string();
    let error = Trusted::of(directory.0.path()).unwrap_err().to_string();
    assert!(error.contains(&broken), "{error}");
    let other = directory.write("other", no_certificate).display().to_string();
    let error = Trusted::of(directory.0.path()).unwrap_err().to_string();
    assert!(error.contains(&other), "{error}");
}

#[test]
fn one_certificate_is_one_file_with_one_certificate() {
    let place = Place::new();
    let one = certificate(false);
    let file = place.write("one.crt", &one);
    assert!(Trusted::of(&file).unwrap().is_one_certificate());
    assert!(!Trusted::of(place.0.path()).unwrap().is_one_certificate(), "a directory grows");
    assert!(Trusted::of(&place.write("twice.crt", &(one.clone() + &one))).unwrap().is_one_certificate());
    let two = place.write("two.crt", &(one + &certificate(false)));
    assert!(!Trusted::of(&two).unwrap().is_one_certificate());

    let variable = |path: &Path| Some(path.as_os_str().to_owned());
    let read = |file, directories| Named::of(file, directories).unwrap().read().unwrap();
    assert!(read(variable(&file), None).is_one_certificate());
    assert!(read(variable(&file), Some(OsString::new())).is_one_certificate());
    let empty = tempfile::tempdir().unwrap();
    assert!(!read(variable(&file), variable(empty.path())).is_one_certificate());
    assert!(!read(None, variable(place.0.path())).is_one_certificate());
}

#[test]
fn the_environment_names_one_file_and_directories_of_which_some_may_be_missing() {
    let place = Place::new();
    let file = place.write("a.crt", &certificate(true));
    let empty = tempfile::tempdir().unwrap();
    let missing = empty.path().join("missing");
    let join = |paths: &[&Path]| Some(std::env::join_paths(paths).unwrap());
    assert!(Named::of(None, None).is_none());
    assert!(Named::of(Some(OsString::new()), Some(OsString::new())).is_none());
    let read = |file, directories| Named::of(file, directories).unwrap().read();
    let found = read(None, join(&[&missing, empty.path(), place.0.path()])).unwrap();
    assert_eq!(found.certificates.len(), 1);

    let error = read(None, join(&[&missing, empty.path()])).unwrap_err().to_string();
    assert!(error.contains("SSL_CERT_DIR") && error.contains(&missing.display().to_string()), "{error}");
    let nowhere = Some(missing.clone().into_os_string());
    let error = read(nowhere, join(&[place.0.path()])).unwrap_err().to_string();
    assert!(error.contains("SSL_CERT_FILE") && error.contains(&missing.display().to_string()), "{error}");
    assert!(read(Some(file.into_os_string()), join(&[&missing])).is_ok());
}

/// OpenSSL 3.0 made them without extensions (`openssl x509 -req`). Such a certificate cannot say that it is not a CA's.
#[test]
fn of_version_1_only_what_signed_itself_is_an_authority() {
    for (pem, expected) in [(include_str!("v1_root.pem"), true), (include_str!("v1_leaf.pem"), false)] {
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).unwrap();
        let (_, parsed) = X509Certificate::from_der(&certificate).unwrap();
        assert_eq!((parsed.version(), is_authority(&certificate)), (X509Version::V1, expected));
    }
}

/// A private key stands where certificates are expected, with its lines joined: then the wrong line is the key.
#[test]
fn no_error_quotes_a_private_key() {
    let place = Place::new();
    let key = KeyPair::generate().unwrap().serialize_pem().replace('\n', "");
    let secret = &key[40..60];
    let bytes = format!("{:?}", secret.as_bytes()).trim_matches(['[', ']']).to_owned();
    for text in [key.clone(), certificate(true) + &key] {
        let alone = place.write("alone.pem", &text);
        let told = format!("{:?}", Trusted::of(&alone).unwrap_err());
        assert!(!told.contains(secret) && !told.contains(&bytes), "{told}");
        std::fs::remove_file(alone).unwrap();
    }
    place.write("beside.pem", &key);
    let told = format!("{:?}", Trusted::of(place.0.path()).unwrap_err());
    assert!(!told.contains(secret) && !told.contains(&bytes), "{told}");
}
