//! The binary with addresses and log levels in the forms of KES.

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use kms_tests::server::server_certificate;
use kms_tests::{Client, Protocol, TestIdentity};

use kms_tests::shell::{Serving, Shell, text};

/// A directory with a config for KES to which a test adds lines.
struct Config {
    directory: tempfile::TempDir,
    admin: TestIdentity,
}

impl Config {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pair = server_certificate();
        fs::write(directory.path().join("server.crt"), pair.chain_pem()).unwrap();
        fs::write(directory.path().join("server.key"), pair.key_pem().as_bytes()).unwrap();
        Self { directory, admin: TestIdentity::new() }
    }

    fn serve(&self, lines: &str, arguments: &[&str]) -> Serving {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let config = format!(
            "version: v1\nadmin: {{identity: {}}}\ntls: {{key: {}, cert: {}}}\nkeystore: {{fs: {{path: {}}}}}\n{lines}",
            self.admin.identity(),
            path("server.key"),
            path("server.crt"),
            path("keys")
        );
        let file = path("config.yml");
        fs::write(&file, config).unwrap();
        Shell::default().serve(&[&["--config", text(Path::new(&file))], arguments].concat())
    }

    async fn status(&self, address: SocketAddr) -> u16 {
        let mut client = Client::new(address, Protocol::Http1, &self.admin);
        client.send("GET", "/v1/status", "").await.unwrap().code()
    }
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_one_of_a_family_is_both_families() {
    let config = Config::new();
    for (host, v4, v6) in [
        ("0.0.0.0", true, true),
        ("", true, true),
        ("[::]", true, true),
        ("127.0.0.1", true, false),
        ("localhost", true, false),
        ("[::1]", false, true),
        ("'[::ffff:127.0.0.1]'", true, false),
    ] {
        if !v4 && !has_ipv6() {
            continue;
        }
        let (port, probes) = (free_port(), free_port());
        let host = host.trim_matches('\'');
        let address = |port: u16| format!("\"{host}:{port}\"");
        // The address comes from the config, and then from the flag.
        for arguments in [None, Some(format!("{host}:{port}"))] {
            let of_config = if arguments.is_none() { port } else { free_port() };
            let lines =
                format!("address: {}\nprobes: {{address: {}}}\n", address(of_config), address(probes));
            let flags: Vec<_> = arguments.iter().flat_map(|address| ["--addr", address.as_str()]).collect();
            let server = config.serve(&lines, &flags);
            for (ip, expected) in
                [(Ipv4Addr::LOCALHOST.into(), v4), (Ipv6Addr::LOCALHOST.into(), v6 && has_ipv6())]
            {
                let at = |port| SocketAddr::new(ip, port);
                assert_eq!(TcpStream::connect(at(probes)).is_ok(), expected, "probes on {host:?}: {ip}");
                if expected {
                    assert_eq!(config.status(at(port)).await, 200, "{host:?}: {ip}");
                } else {
                    assert!(TcpStream::connect(at(port)).is_err(), "{host:?}: {ip}");
                }
            }
            drop(server);
        }
    }
}

/// The host has no IPv6, or its default keeps IPv4 out of IPv6 sockets.
#[test]
fn a_host_without_ipv6_and_one_that_keeps_the_families_apart_are_fine() {
    let config = Config::new();
    drop(config.serve(&format!("address: 127.0.0.1:{}\n", free_port()), &[]));
    let (kms, file) = (kms_tests::shell::kms(), config.directory.path().join("config.yml"));
    let script = "ip link set lo up; for name in all default lo; do echo $1 >/proc/sys/net/ipv6/conf/$name/disable_ipv6; done
        echo $2 >/proc/sys/net/ipv6/bindv6only
        rm -f out # that of the server before, which was up
        \"$3\" server --config \"$4\" --addr $5 >out 2>&1 & server=$!
        for try in $(seq 300); do grep -q 'up and running' out && break; sleep 0.1; done
        curl -sk --noproxy '*' -o answer -w '%{http_code}' https://127.0.0.1:7373/version; kill $server; wait; cat out";
    for (disabled, only, address) in
        [("1", "0", "0.0.0.0:7373"), ("1", "0", "[::]:7373"), ("0", "1", ":7373"), ("0", "1", "[::]:7373")]
    {
        let mut command = std::process::Command::new("unshare");
        command.args(["-n", "sh", "-c", script, "sh", disabled, only]).arg(kms).arg(&file).arg(address);
        let output = command.current_dir(config.directory.path()).output().unwrap();
        let told = String::from_utf8(output.stdout).unwrap();
        // A client without a certificate is refused in the handshake or in the answer. Either way it has
        // reached the server.
        assert!(told.contains("up and running"), "{address}: {told} {:?}", output.stderr);
        assert!(!told.starts_with("000") || told.contains("TLS handshake failed"), "{address}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn levels_of_kes_start_the_server_and_choose_what_it_tells() {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let config = Config::new();
    for (level, info, warn, audit) in [
        ("on", true, true, true),
        ("INFO", true, true, true),
        ("DEBUG", true, true, true),
        ("\"\"", true, true, true),
        ("debug+2", true, true, true),
        ("info +2", false, true, false),
        ("WARN", false, true, false),
        ("\"4\"", false, true, false),
        ("ERROR", false, false, false),
        ("8", false, false, false),
        ("ERROR+1", false, false, false),
        ("off", false, false, false),
    ] {
        let port = free_port();
        let lines = format!("address: 127.0.0.1:{port}\nlog:\n  error: {level}\n  audit: {level}\n");
        let server = config.serve(&lines, &[]);
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        assert_eq!(config.status(address).await, 200, "{level}");
        // The log has a warning about a client without a certificate.
        let failed =
            reqwest::Client::builder().no_proxy().tls_danger_accept_invalid_certs(true).build().unwrap();
        assert!(failed.get(format!("https://{address}/v1/status")).send().await.is_err(), "{level}");
        // The log has a reload as information.
        let pid = rustix::process::Pid::from_raw(server.pid().try_into().unwrap()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::HUP).unwrap();
        let told = |log: &str| log.contains("the configuration was loaded again");
        let began = Instant::now();
        while info && !told(&server.stderr()) {
            assert!(began.elapsed() < Duration::from_secs(30), "{level}: {}", server.stderr());
        }
        if !info {
            std::thread::sleep(Duration::from_millis(500));
        }
        let log = server.stderr();
        assert_eq!(told(&log), info, "{level}: {log}");
        assert_eq!(log.contains("TLS handshake failed"), warn, "{level}: {log}");
        let stdout = server.stdout();
        assert_eq!(stdout.contains("\"path\":\"/v1/status\""), audit, "{level}: {stdout}");
    }
}
