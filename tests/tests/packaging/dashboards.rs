//! The dashboard and the alerts, asked of a real Prometheus that scrapes servers under load and through an outage.
//!
//! There is no Grafana that a test could install, so the answers to the dashboard's queries stand for its pictures.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use kms_tests::bao::{Bao, WIDE_POLICY};
use kms_tests::escrow::EscrowKey;
use kms_tests::programs::{free_port, http, until};
use kms_tests::server::server_certificate;
use kms_tests::shell::{Serving, Shell, field, kms, text};
use kms_tests::{Client, Protocol, TestIdentity};
use kms_vault::{KvVersion, Login, SecretSource};
use serde_json::Value;
use tempfile::TempDir;

use super::prometheus::{Prometheus, promtool};

fn packaging(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("packaging").join(name)
}

/// A figure is the query of a panel, or what an alert compares.
struct Figure {
    place: String,
    query: String,
}

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(packaging("grafana/kms.json")).unwrap()).unwrap()
}

/// Returns the queries of all panels, with the variables that Grafana fills in.
fn figures_of_panels() -> Vec<Figure> {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    let figures = panels.iter().flat_map(|panel| {
        let targets = panel["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
        targets.iter().map(|target| {
            let mut query = target["expr"].as_str().unwrap().to_owned();
            for (variable, value) in
                [("$__rate_interval", "4s"), ("$__range", "30s"), ("$job", "kms"), ("$instance", ".*")]
            {
                query = query.replace(variable, value);
            }
            Figure { place: format!("panel '{}'", panel["title"].as_str().unwrap()), query }
        })
    });
    figures.collect()
}

/// Returns the left side of each comparison in the alerts.
fn figures_of_alerts() -> Vec<Figure> {
    let rules = fs::read_to_string(packaging("prometheus/rules.yml")).unwrap();
    let mut figures = Vec::new();
    for rule in rules.split("- alert: ").skip(1) {
        let place = format!("alert {}", rule.lines().next().unwrap());
        let expr = rule.split_once("expr: ").unwrap().1;
        let end =
            ["        for: ", "        labels: "].iter().filter_map(|key| expr.find(key)).min().unwrap();
        let expr = expr[..end].trim_start_matches('|').replace('\n', " ");
        for comparison in expr.split(" or ") {
            let at = [" == ", " > ", " < "].iter().find_map(|sign| comparison.rfind(sign)).unwrap();
            figures.push(Figure { place: place.clone(), query: comparison[..at].trim().to_owned() });
        }
    }
    figures
}

/// Figures that are zero on a healthy server, and that no test here troubles.
const ZERO_IS_GOOD: [&str; 4] = [
    "kms_escrow_missing_keys",
    "kms_escrow_ambiguous_names",
    "1 - kms_escrow_writable",
    "1 - kms_escrow_complete",
];

#[tokio::test(flavor = "multi_thread")]
async fn each_query_of_the_dashboard_and_each_alert_has_data() {
    let bao = Bao::with_kv(KvVersion::V2).await;
    bao.mount_transit("root").await;
    let lab = Lab::new(&bao).await;
    let shared = Node::new(&lab.vault);
    let mut local = Node::new(&lab.local);
    let strict = Node::with_few_files(&lab.strict);
    let prometheus = Prometheus::start(&[shared.probes, local.probes, strict.probes]).await;
    let start = now();

    shared.shell.run(&["key", "create", "my-key", "other"]).ok();
    local.shell.run(&["key", "create", "my-key"]).ok();
    let mut load =
        Load { shared: shared.admin(), local: local.admin(), strict: strict.admin(), sealed: Vec::new() };
    load.run(Duration::from_secs(2), &shared).await;
    shared.shell.run(&["key", "rotate", "my-key"]).ok();
    local.shell.run(&["key", "rotate", "my-key"]).ok();
    lab.drill(&local);
    strict.crowd().await;
    load.run(Duration::from_secs(4), &shared).await;

    // Vault is away. A server that starts now has a root that does not open its store.
    bao.seal().await;
    local.restart(&lab.local);
    load.local = local.admin();
    load.run(Duration::from_secs(6), &shared).await;
    bao.unseal().await;
    strict.crowd().await;
    load.run(Duration::from_secs(4), &shared).await;
    let end = now();

    let mut amiss = Vec::new();
    let (panels, alerts) = (figures_of_panels(), figures_of_alerts());
    assert!(panels.len() > 40 && alerts.len() > 18, "{} {}", panels.len(), alerts.len());
    for (figures, has_to_move) in [(&panels, true), (&alerts, false)] {
        for Figure { place, query } in figures {
            let zero_is_good = !has_to_move || ZERO_IS_GOOD.iter().any(|zero| query.starts_with(zero));
            match prometheus.values(query, start, end).await {
                Err(why) => amiss.push(format!("{place}: {query}: {why}")),
                Ok(values) if !values.iter().any(|value| value.is_finite()) => {
                    amiss.push(format!("{place}: {query}: no data"));
                }
                Ok(values) if !zero_is_good && values.iter().all(|&value| value == 0.0 || value.is_nan()) => {
                    amiss.push(format!("{place}: {query}: always zero"));
                }
                Ok(_) => {}
            }
        }
    }
    assert!(amiss.is_empty(), "{}", amiss.join("\n"));

    for node in [&shared, &local, &strict] {
        node.lint().await;
    }
}

/// Complaints of promtool about KES's names, which clients of KES read. None is about a name of ours.
const COMPLAINTS: [&str; 5] = [
    "kes_http_request_error counter metrics should have \"_total\" suffix",
    "kes_http_request_failure counter metrics should have \"_total\" suffix",
    "kes_http_request_success counter metrics should have \"_total\" suffix",
    "kes_log_audit_events counter metrics should have \"_total\" suffix",
    "kes_log_error_events counter metrics should have \"_total\" suffix",
];

#[test]
fn the_alerts_fire_when_they_should() {
    let rules = packaging("prometheus/rules.test.yml");
    let output = promtool(&["test", "rules", text(&rules)], b"");
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && told.contains("SUCCESS"), "{told}");
    let (rules, tests) =
        (fs::read_to_string(packaging("prometheus/rules.yml")).unwrap(), fs::read_to_string(rules).unwrap());
    for alert in rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")) {
        assert!(tests.contains(&format!("- name: {alert}\n")), "{alert} has no test");
    }
}

/// What Grafana needs to load the dashboard, to find its data source and to tell panels apart.
#[test]
fn the_dashboard_is_one_that_grafana_takes() {
    let dashboard = dashboard();
    assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39);
    assert!(dashboard["id"].is_null() && dashboard["uid"].as_str().unwrap().len() <= 40);
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let kinds: Vec<_> =
        variables.iter().map(|one| (one["name"].as_str().unwrap(), one["type"].as_str().unwrap())).collect();
    assert_eq!(kinds, [("datasource", "datasource"), ("job", "query"), ("instance", "query")]);
    let source = serde_json::json!({"type": "prometheus", "uid": "${datasource}"});
    let (mut ids, mut taken) = (BTreeSet::new(), BTreeSet::new());
    for panel in dashboard["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()) && !title.is_empty(), "{title}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("w") > 0 && place("h") > 0 && place("x") + place("w") <= 24, "{title}");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} covers another panel");
            }
        }
        if panel["type"] == "row" {
            continue;
        }
        let kinds = ["stat", "timeseries", "heatmap", "table"];
        assert!(kinds.contains(&panel["type"].as_str().unwrap()), "{title}");
        assert_eq!(panel["datasource"], source, "{title}");
        assert!(!panel["fieldConfig"]["defaults"]["unit"].as_str().unwrap().is_empty(), "{title}");
        let targets = panel["targets"].as_array().unwrap();
        let names: BTreeSet<_> = targets.iter().map(|target| target["refId"].as_str().unwrap()).collect();
        assert!(!targets.is_empty() && names.len() == targets.len(), "{title}");
        for target in targets {
            assert_eq!(target["datasource"], source, "{title}");
            let query = target["expr"].as_str().unwrap();
            let families =
                query.matches("kms_").count() + query.matches("kes_").count() + query.matches("up{").count();
            assert_eq!(
                query.matches(r#"{job=~"$job",instance=~"$instance"}"#).count(),
                families,
                "{title}: {query}"
            );
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

/// The configs of three servers, and what they need.
struct Lab {
    vault: Setup,
    local: Setup,
    strict: Setup,
    escrow: EscrowKey,
}

/// One server's config, in a directory of its own.
struct Setup {
    directory: TempDir,
    probes: u16,
    api_key: kms_server::credentials::apikey::ApiKey,
}

impl Setup {
    fn new(sections: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (path, probes) = (directory.path(), free_port());
        let api_key = kms_server::credentials::apikey::ApiKey::generate().unwrap();
        let pair = server_certificate();
        fs::write(path.join("server.crt"), pair.chain_pem()).unwrap();
        fs::write(path.join("server.key"), pair.key_pem().as_bytes()).unwrap();
        let config = format!(
            "address = '127.0.0.1:0'\nadmin.identity = '{}'\ntls.cert = '{1}/server.crt'\ntls.key = '{1}/server.key'\n\
             probes.address = '127.0.0.1:{probes}'\n{2}",
            api_key.identity(),
            path.display(),
            sections(path)
        );
        fs::write(path.join("kms.toml"), config).unwrap();
        Self { directory, probes, api_key }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

impl Lab {
    async fn new(bao: &Bao) -> Self {
        let Login::AppRole(role) = bao.approle(WIDE_POLICY, "10s").await else { panic!("it is an AppRole") };
        let SecretSource::Value(secret) = &role.secret else { panic!("it is a value") };
        let escrow = EscrowKey::new();
        let endpoint = bao.endpoint();
        let vault = Setup::new(|_| {
            format!(
                "[log]\naudit = 'on'\naudit_file = '/dev/full'\n[cache.expiry]\nany = '2s'\nunused = '2s'\noffline = '1h'\n\
                 [keystore.vault]\nendpoint = '{endpoint}'\nversion = 'v2'\nprefix = 'minio'\nstatus.ping = '1s'\n\
                 approle = {{ id = '{}', secret = '{}' }}\n",
                role.id,
                secret.expose()
            )
        });
        let local = Setup::new(|path| {
            let path = path.display();
            format!(
                "[log]\naudit = 'on'\naudit_file = '{path}/audit.log'\n[escrow]\nrecipients = ['{0}']\npath = '{path}/escrow'\n\
                 [backup]\nrecipients = ['{0}']\ndrill_evidence = '{path}/drill.json'\n\
                 [keystore.fs]\npath = '{path}/store'\nroot_key_file = '{path}/root.key'\ncreate = true\n\
                 [[kms]]\nid = 'vault'\nvault.endpoint = '{endpoint}'\nvault.token.value = '{1}'\nvault.transit.key = 'root'\n",
                escrow.recipient(),
                bao.root
            )
        });
        let strict = Setup::new(|_| {
            "[log]\naudit = 'on'\naudit_file = '/dev/full'\naudit_failure = 'refuse'\n[keystore.memory]\n"
                .to_owned()
        });
        Self { vault, local, strict, escrow }
    }

    /// Makes a backup, and leaves the evidence of a drill.
    fn drill(&self, local: &Node) {
        let (archive, evidence) = (self.local.path("keys.backup"), self.local.path("drill.json"));
        local.shell.run(&["backup", "create", "-o", text(&archive)]).ok();
        let identity = self.escrow.file();
        let drill = ["backup", "drill", text(&archive), "--identity", text(&identity), "-o", text(&evidence)];
        Shell::default().run(&drill).ok();
    }
}

/// A server that runs.
struct Node {
    serving: Option<Serving>,
    probes: u16,
    shell: Shell,
    admin: TestIdentity,
}

impl Node {
    fn new(setup: &Setup) -> Self {
        Self::of(setup, Command::new(kms()))
    }

    /// Starts a server that may open so few files that it takes only some connections.
    fn with_few_files(setup: &Setup) -> Self {
        let mut command = Command::new("prlimit");
        command.arg("--nofile=140:140").arg(kms());
        Self::of(setup, command)
    }

    fn of(setup: &Setup, mut command: Command) -> Self {
        command.args(["server", "--config", text(&setup.path("kms.toml"))]);
        command.env_remove("KMS_LOG").env_remove("RUST_LOG");
        let serving = Serving::of(command);
        let stdout = serving.stdout();
        let address = stdout.split_whitespace().find_map(|word| word.strip_prefix("https://")).unwrap();
        let shell = Shell::default()
            .set("KES_SERVER", format!("https://{address}"))
            .set("KES_CA_CERT", text(&setup.path("server.crt")))
            .set("KES_API_KEY", setup.api_key.to_text().as_str());
        let admin = setup.api_key.client_certificate().unwrap().into();
        Self { serving: Some(serving), probes: setup.probes, shell, admin }
    }

    fn restart(&mut self, setup: &Setup) {
        assert!(self.serving.take().unwrap().stop().success());
        *self = Self::new(setup);
    }

    fn client(&self, identity: &TestIdentity) -> Client {
        let address = self.shell.variable("KES_SERVER").unwrap().strip_prefix("https://").unwrap();
        Client::new(address.parse().unwrap(), Protocol::Http1, identity)
    }

    fn admin(&self) -> Client {
        self.client(&self.admin)
    }

    /// Opens more connections of strangers than the server takes.
    async fn crowd(&self) {
        let address =
            self.shell.variable("KES_SERVER").unwrap().strip_prefix("https://").unwrap().parse().unwrap();
        let address: std::net::SocketAddr = address;
        let mut crowd = Vec::new();
        for _ in 0..60 {
            crowd.push(tokio::net::TcpStream::connect(address).await.unwrap());
        }
        until("strangers make room", async || {
            !self.metrics().await.contains("kms_connections_evicted_total 0\n")
        })
        .await;
    }

    async fn metrics(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.probes);
        let metrics = http().get(url).send().await.unwrap().bytes().await.unwrap();
        String::from_utf8(metrics.to_vec()).unwrap()
    }

    /// Shows the metrics to promtool, which may complain about KES's names only.
    async fn lint(&self) {
        let output = promtool(&["check", "metrics"], self.metrics().await.as_bytes());
        let told = String::from_utf8(output.stderr).unwrap() + &String::from_utf8(output.stdout).unwrap();
        let told: BTreeSet<&str> = told.lines().filter(|line| !line.is_empty()).collect();
        assert_eq!(told, COMPLAINTS.into(), "the complaints are those that are known");
    }
}

/// Clients that use all servers.
struct Load {
    shared: Client,
    local: Client,
    strict: Client,
    sealed: Vec<String>,
}

impl Load {
    async fn run(&mut self, time: Duration, shared: &Node) {
        let began = Instant::now();
        let mut stranger = shared.client(&TestIdentity::new());
        for round in 0.. {
            if began.elapsed() > time {
                return;
            }
            for client in [&mut self.shared, &mut self.local] {
                let dek = client.send("PUT", "/v1/key/generate/my-key", "{}").await.unwrap();
                if dek.code() == 200 && round == 0 {
                    self.sealed.push(format!("{{\"ciphertext\":\"{}\"}}", field(dek.text(), "ciphertext")));
                }
                for sealed in &self.sealed {
                    client.send("PUT", "/v1/key/decrypt/my-key", sealed.clone()).await.unwrap();
                }
            }
            let ask = async |client: &mut Client, method: &str, path: String| {
                // A server that had too many connections may have closed this one.
                let _ = client.send(method, &path, "").await;
            };
            ask(&mut self.local, "PUT", "/v1/key/generate/none".to_owned()).await;
            ask(&mut self.strict, "PUT", format!("/v1/key/create/k{round}")).await;
            ask(&mut stranger, "GET", "/v1/key/describe/my-key".to_owned()).await;
            if round % 10 == 0 {
                ask(&mut self.shared, "PUT", format!("/v1/key/generate/none-{round}")).await;
                ask(&mut self.shared, "GET", "/v1/ready".to_owned()).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
