//! A real Prometheus that scrapes servers each second.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::process::{Child, Command, Output, Stdio};

use kms_tests::programs::{free_port, http, program, until};
use percent_encoding::NON_ALPHANUMERIC;
use serde_json::Value;
use tempfile::TempDir;

/// A running Prometheus. It is killed when it is dropped.
pub struct Prometheus {
    process: Child,
    port: u16,
    _directory: TempDir,
}

impl Prometheus {
    /// Starts a Prometheus on these ports of plain listeners, as the job `kms`.
    pub async fn start(ports: &[u16]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut config = "global: {scrape_interval: 1s, scrape_timeout: 900ms}\nscrape_configs:\n".to_owned();
        let targets: Vec<String> = ports.iter().map(|port| format!("'127.0.0.1:{port}'")).collect();
        let targets = targets.join(", ");
        writeln!(config, "  - {{job_name: kms, static_configs: [{{targets: [{targets}]}}]}}").unwrap();
        let file = directory.path().join("prometheus.yml");
        fs::write(&file, config).unwrap();
        let port = free_port();
        let log = || Stdio::from(File::create(directory.path().join("log")).unwrap());
        let mut command = Command::new(program("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()));
        command.arg(format!("--web.listen-address=127.0.0.1:{port}"));
        let process = command.stdin(Stdio::null()).stdout(log()).stderr(log()).spawn().unwrap();
        let prometheus = Self { process, port, _directory: directory };
        until("Prometheus is ready", async || {
            let url = format!("http://127.0.0.1:{port}/-/ready");
            http().get(url).send().await.is_ok_and(|answer| answer.status() == 200)
        })
        .await;
        prometheus
    }

    /// Asks a query of the time from `start` to `end`, in seconds since 1970. Returns all values, of all series.
    pub async fn values(&self, query: &str, start: f64, end: f64) -> Result<Vec<f64>, String> {
        let url = format!("http://127.0.0.1:{}/api/v1/query_range", self.port);
        let (start, end) = (start.to_string(), end.to_string());
        let asked = [("query", query), ("start", &start), ("end", &end), ("step", "1")];
        let asked: Vec<String> = asked
            .iter()
            .map(|(name, value)| {
                format!("{name}={}", percent_encoding::utf8_percent_encode(value, NON_ALPHANUMERIC))
            })
            .collect();
        let form = "application/x-www-form-urlencoded";
        let answer =
            http().post(url).header("Content-Type", form).body(asked.join("&")).send().await.unwrap();
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        if answer["status"] != "success" {
            return Err(answer["error"].to_string());
        }
        let series = answer["data"]["result"].as_array().unwrap();
        let points = series.iter().flat_map(|series| series["values"].as_array().unwrap());
        Ok(points.map(|point| point[1].as_str().unwrap().parse().unwrap()).collect())
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Runs promtool with these bytes on its stdin.
pub fn promtool(arguments: &[&str], stdin: &[u8]) -> Output {
    let promtool = program("prometheus").with_file_name("promtool");
    let input = tempfile::NamedTempFile::new().unwrap();
    fs::write(input.path(), stdin).unwrap();
    Command::new(promtool).args(arguments).stdin(File::open(input.path()).unwrap()).output().unwrap()
}
