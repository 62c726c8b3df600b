//! Helpers for real programs: where they are, and how a test reaches them and waits for them.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// Returns the path of a real program, and installs it first if it is missing.
pub fn program(name: &'static str) -> PathBuf {
    static INSTALLED: Mutex<Vec<&str>> = Mutex::new(Vec::new());
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let tools = match std::env::var_os("KMS_TEST_TOOLS") {
        Some(tools) => PathBuf::from(tools),
        None => here.join("../target/test-tools"),
    };
    let mut installed = INSTALLED.lock().unwrap();
    if !installed.contains(&name) {
        let status = Command::new(here.join("tools/install")).arg(name).status().unwrap();
        assert!(status.success(), "{name} could not be installed");
        installed.push(name);
    }
    tools.join("bin").join(name)
}

/// Returns an HTTP client that uses no proxy, for the requests of a test itself.
pub fn http() -> reqwest::Client {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(30)).build().unwrap()
}

/// Returns a port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Waits until a condition holds, for at most 30 seconds.
pub async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !condition().await {
        assert!(began.elapsed() < Duration::from_secs(30), "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
