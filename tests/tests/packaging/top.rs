//! `kms top` with real servers under load, as text and in a real terminal.

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use kms_server::credentials::apikey::ApiKey;
use kms_tests::process::ConfigServer;
use kms_tests::programs::{free_port, program};
use kms_tests::shell::{Done, Shell, kms, text};
use kms_tests::{Client, Protocol, TestIdentity};
use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinHandle;

/// Two servers with a policy for clients and one for who watches, and a client that never stops.
struct Watched {
    servers: Vec<ConfigServer>,
    probes: u16,
    app: TestIdentity,
    watcher: ApiKey,
    load: Vec<JoinHandle<()>>,
}

impl Watched {
    async fn start() -> Self {
        let (app, watcher, probes) = (TestIdentity::new(), ApiKey::generate().unwrap(), free_port());
        let policies = format!(
            "[policy.minio]\nallow = ['/v1/key/generate/*']\nidentities = ['{}']\n\
             [policy.watch]\nallow = ['/metrics', '/v1/ready']\nidentities = ['{}']\n",
            app.identity(),
            watcher.identity()
        );
        let with_probes = format!("{policies}[probes]\naddress = '127.0.0.1:{probes}'\n");
        let servers: Vec<_> =
            [with_probes, policies].iter().map(|config| ConfigServer::start(config, Stdio::null())).collect();
        let mut load = Vec::new();
        for server in &servers {
            let mut admin = server.client(Protocol::Http2, server.admin_identity());
            assert_eq!(admin.send("POST", "/v1/key/create/my-key", "").await.unwrap().code(), 200);
            load.push(tokio::spawn(use_for_ever(server.client(Protocol::Http2, &app))));
        }
        Self { servers, probes, app, watcher, load }
    }

    fn addresses(&self) -> Vec<String> {
        self.servers.iter().map(|server| server.address().to_string()).collect()
    }

    fn shell(&self) -> Shell {
        Shell::default().set("KES_API_KEY", &*self.watcher.to_text())
    }

    /// Runs `kms top --once` beside the load.
    async fn once(&self, further: &[&str], endpoints: &[String]) -> Done {
        let (shell, endpoints) = (self.shell(), endpoints.to_vec());
        let further: Vec<_> = further.iter().map(|&word| word.to_owned()).collect();
        let run = move || {
            let mut words = vec!["top", "--once", "-k", "--interval", "500ms"];
            words.extend(further.iter().chain(&endpoints).map(String::as_str));
            shell.run(&words)
        };
        tokio::task::spawn_blocking(run).await.unwrap()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.load.iter().for_each(JoinHandle::abort);
    }
}

async fn use_for_ever(mut client: Client) {
    loop {
        match client.send("POST", "/v1/key/generate/my-key", "{}").await {
            Ok(answer) => assert_eq!(answer.code(), 200),
            Err(_) => return,
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Returns the words of the line that begins with this one.
fn row<'a>(output: &'a str, first: &str) -> Vec<&'a str> {
    let found = output.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let mut found = found.filter(|words| words.first() == Some(&first));
    found.next().unwrap_or_else(|| panic!("no line of {first} in\n{output}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn once_tells_what_servers_under_load_do_and_who_is_away() {
    let mut watched = Watched::start().await;
    let away = format!("127.0.0.1:{}", free_port());
    let listener = format!("http://127.0.0.1:{}", watched.probes);
    let endpoints = [watched.addresses(), vec![away.clone(), format!("{listener}/metrics")]].concat();
    let output = watched.once(&[], &endpoints).await.ok();

    let titles =
        ["SERVER", "REQ/S", "4XX/S", "5XX/S", "P50", "P99", "HITS", "KEYS", "STORE/S", "FAIL/S", "UP"];
    assert_eq!(row(&output, "SERVER"), titles, "{output}");
    for server in watched.addresses().iter().chain([&listener]) {
        let figures = row(&output, server);
        let rate: f64 = figures[1].parse().unwrap();
        assert!((1.0..600.0).contains(&rate), "one request each 2 ms at most:\n{output}");
        assert_eq!((figures[3], figures[6], figures[7]), ("0.0", "100.0%", "1"), "{output}");
        assert!(figures[4].ends_with('s') && figures[5].ends_with('s'), "{output}");
    }
    assert_eq!(row(&output, &away)[1..], ["no", "answer"], "{output}");
    assert!(output.contains(&format!("{away}  cannot connect to {away}: ")), "{output}");
    let policy = row(&output, "minio");
    // The first server is asked twice: by its API, and by its listener for probes.
    let all: f64 = row(&output, "all")[1].parse().unwrap();
    let of_policy: f64 = policy[1].parse().unwrap();
    assert!((of_policy - all).abs() <= all * 0.05 + 1.0, "{output}");
    // Who only watches is in no figure.
    assert_eq!(row(&output, "watch")[1..], ["0.0", "-", "-"], "{output}");

    let json = watched.once(&["--json"], &endpoints).await.ok();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["servers"][0]["requests_per_second"].as_f64().unwrap() > 0.0, "{json}");
    assert!(json["servers"][1]["p99_seconds"].as_f64().unwrap() > 0.0, "{json}");
    assert_eq!(json["servers"][2]["answered"], false, "{json}");
    assert_eq!(json["policies"][0]["policy"], "minio", "{json}");

    // No identity is a label, neither of who uses keys nor of who watches.
    let mut admin = watched.servers[0].client(Protocol::Http1, watched.servers[0].admin_identity());
    let metrics = admin.send("GET", "/metrics", "").await.unwrap();
    for identity in [watched.app.identity(), watched.watcher.identity()] {
        assert!(!metrics.text().contains(&identity.to_string()), "{}", metrics.text());
    }
    assert!(metrics.text().contains("kms_policy_request_duration_seconds_count{policy=\"minio\"}"));

    // Who may not read all metrics is told so, and a listener needs no key.
    let stranger = Shell::default().set("KES_API_KEY", &*ApiKey::generate().unwrap().to_text());
    let refused = stranger.run(&["top", "--once", "-k", "--interval", "100ms", &endpoints[0]]);
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(refused.stdout.contains("not authorized"), "{refused:?}");
    Shell::default().run(&["top", "--once", "--interval", "100ms", &listener]).ok();
    let error = Shell::default().run(&["top", "--once", "http://x:y"]).error();
    assert!(error.contains("'http://x:y', expected http://HOST[:PORT]"), "{error}");

    let gone = watched.servers.pop().unwrap();
    let address = gone.address().to_string();
    assert!(gone.stop().success());
    let output = watched.once(&[], &endpoints).await.ok();
    assert_eq!(row(&output, &address)[1..], ["no", "answer"], "{output}");
}

/// A terminal in which a command runs: tmux, with a server of its own.
struct Terminal {
    tmux: std::path::PathBuf,
    directory: TempDir,
}

impl Terminal {
    fn start(shell: &Shell, command: &str) -> Self {
        let terminal = Self { tmux: program("tmux"), directory: tempfile::tempdir().unwrap() };
        let key = shell.variable("KES_API_KEY").unwrap();
        let script = terminal.directory.path().join("script");
        std::fs::write(
            &script,
            format!("export KES_API_KEY={key}\n{command}\necho left with $?\nread -r _\n"),
        )
        .unwrap();
        let size = ["-x", "100", "-y", "24"];
        let run = ["/bin/sh", text(&script)];
        terminal.run(&[&["-f", "/dev/null", "new-session", "-d"][..], &size, &run].concat());
        terminal
    }

    fn run(&self, words: &[&str]) -> String {
        let socket = self.directory.path().join("socket");
        let mut tmux = Command::new(&self.tmux);
        tmux.args(["-u", "-S", text(&socket)]).args(words);
        // The terminal in a terminal has no colours that a test would have to know.
        let done = tmux.env_remove("TMUX").env("LC_ALL", "C.UTF-8").env("TERM", "xterm").output().unwrap();
        assert!(done.status.success(), "{words:?}: {done:?}");
        String::from_utf8(done.stdout).unwrap()
    }

    fn press(&self, key: &str) {
        self.run(&["send-keys", key]);
    }

    /// Waits until the screen is as it should be.
    fn until(&self, is_shown: impl Fn(&str) -> bool) -> String {
        let began = Instant::now();
        loop {
            let screen = self.run(&["capture-pane", "-p"]);
            if is_shown(&screen) {
                return screen;
            }
            assert!(began.elapsed() < Duration::from_secs(30), "waited in vain at\n{screen}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let socket = self.directory.path().join("socket");
        let _ = Command::new(&self.tmux).args(["-S", text(&socket), "kill-server"]).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_terminal_the_view_changes_obeys_keys_and_leaves_nothing_behind() {
    let watched = Watched::start().await;
    let addresses = watched.addresses();
    let command = format!("{} top -k --interval 300ms {}", text(kms()), addresses.join(" "));
    let terminal = Terminal::start(&watched.shell(), &command);
    let look = |is_shown: &dyn Fn(&str) -> bool| tokio::task::block_in_place(|| terminal.until(is_shown));

    let screen =
        look(&|screen| screen.contains("P99▼") && row_of(screen, "minio").is_some_and(|row| row[2] != "-"));
    assert!(screen.starts_with("kms top: 2 servers every 300ms, "), "{screen}");
    assert_eq!(row(&screen, &addresses[0]).len(), 11, "{screen}");
    assert!(screen.contains("WRONG NOW"), "{screen}");

    let rank = |screen: &str, name: &str| screen.lines().position(|line| line.starts_with(name)).unwrap();
    assert!(rank(&screen, "minio") < rank(&screen, "watch"), "{screen}");
    terminal.press("Right");
    look(&|screen| screen.contains("POLICY▼") && rank(screen, "watch") < rank(screen, "minio"));
    terminal.press("Up");
    look(&|screen| screen.contains("POLICY▲") && rank(screen, "minio") < rank(screen, "watch"));

    // A server that stops becomes a line, and the view goes on.
    let mut watched = watched;
    assert!(watched.servers.pop().unwrap().stop().success());
    let screen = look(&|screen| screen.contains("no answer"));
    assert!(screen.contains(&format!("cannot connect to {}", addresses[1])), "{screen}");
    assert!(row(&screen, &addresses[0]).len() == 11, "{screen}");

    terminal.press("q");
    let screen = look(&|screen| screen.contains("left with"));
    assert_eq!(screen.trim(), "left with 0", "the terminal is as it was before");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_that_is_gone_ends_it() {
    let watched = Watched::start().await;
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let addresses = watched.addresses().join(" ");
    let command =
        format!("sh -c 'echo $$ >{}; exec {} top -k --interval 300ms {addresses}'", text(&pid), text(kms()));
    let terminal = Terminal::start(&watched.shell(), &command);
    tokio::task::block_in_place(|| {
        terminal.until(|screen| screen.starts_with("kms top: "));
        let process = std::fs::read_to_string(&pid).unwrap();
        let process = std::path::Path::new("/proc").join(process.trim());
        assert!(process.exists());
        drop(terminal);
        let began = Instant::now();
        while process.exists() {
            assert!(began.elapsed() < Duration::from_secs(10), "it goes on without a terminal");
            std::thread::sleep(Duration::from_millis(50));
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_terminal_of_any_size_is_drawn_and_is_as_before_after_each_signal() {
    let watched = Watched::start().await;
    let directory = tempfile::tempdir().unwrap();
    let pid = directory.path().join("pid");
    let addresses = watched.addresses().join(" ");
    for signal in ["HUP", "TERM", "INT", "QUIT"] {
        let command = format!(
            "stty rows 65535 cols 65535; before=$(stty -g)\n\
             sh -c 'echo $$ >{}; exec {} top -k --interval 300ms {addresses}'; code=$?\n\
             [ \"$(stty -g)\" = \"$before\" ] && echo restored; (exit $code)",
            text(&pid),
            text(kms()),
        );
        let terminal = Terminal::start(&watched.shell(), &command);
        tokio::task::block_in_place(|| {
            terminal.until(|screen| screen.starts_with("kms top: 2 servers") && screen.contains("P99▼"));
            // The view follows a size that changes.
            terminal.run(&["resize-window", "-x", "90", "-y", "20"]);
            terminal.until(|screen| screen.lines().nth(19).is_some_and(|foot| foot.starts_with("q quit")));
            let process = std::fs::read_to_string(&pid).unwrap();
            let killed = Command::new("kill").args(["-s", signal, process.trim()]).status().unwrap();
            assert!(killed.success());
            let screen = terminal.until(|screen| screen.contains("left with"));
            assert_eq!(screen.trim(), "restored\nleft with 0", "{signal}");
        });
    }
}

fn row_of<'a>(screen: &'a str, first: &str) -> Option<Vec<&'a str>> {
    let mut rows = screen.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.find(|words| words.first() == Some(&first))
}
