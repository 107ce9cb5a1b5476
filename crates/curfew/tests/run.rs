//! `curfew run` from the outside: the real binary before a real PostgreSQL, used with the real psql.
#![cfg(test)]

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc,
    time::Duration,
};

use curfew_model::Clock;
use curfew_testkit::{BootClock, Postgres};
use serde_json::Value;

/// What waiting for something may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A folder with a configuration before a real server.
struct Site {
    folder: tempfile::TempDir,
}

impl Site {
    fn new(server: &Postgres, limits: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "data_dir: data\ncontrol: {{listen: '127.0.0.1:0'}}\npolicy: {{path: policy}}\ngateway:\n  services:\n  - {{name: db, listen: '127.0.0.1:0', upstream: '{}', protocol: postgres}}\nbindings:\n- {{address: 127.0.0.1, user: alice, groups: [dba]}}\n",
            server.address()
        );
        std::fs::write(folder.path().join("curfew.yaml"), config).unwrap();
        std::fs::create_dir(folder.path().join("policy")).unwrap();
        let site = Self { folder };
        site.policy(limits);
        site
    }

    fn policy(&self, limits: &str) {
        let segment = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\nspec: {sensitivity: high, members: [{service: db}]}\n";
        let policy = format!(
            "---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: dba}}\nspec: {{from: {{groups: [dba]}}, to: {{segments: [db]}}, limits: {{{limits}}}}}\n"
        );
        std::fs::write(self.path("policy/p.yaml"), format!("{segment}{policy}")).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self) -> Running {
        self.run_by(&mut Command::new(env!("CARGO_BIN_EXE_curfew")))
    }

    fn run_by(&self, command: &mut Command) -> Running {
        let mut child = command
            .args(["run", "--log", "json", "-c"])
            .arg(self.path("curfew.yaml"))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (sender, lines) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Running { child, lines }
    }

    fn records(&self) -> Vec<Value> {
        let output = curfew(&["audit", "export", self.path("data/audit").to_str().unwrap()]);
        output
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn ends(&self) -> Vec<String> {
        let ended = |record: &Value| {
            (record["event"] == "session.ended")
                .then(|| record["reason"].as_str().unwrap().to_owned())
        };
        self.records().iter().filter_map(ended).collect()
    }
}

/// The running binary; killed when dropped.
struct Running {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Running {
    /// Waits for a line of its log.
    fn wait(&self, what: &str) -> Value {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|_| panic!("{what} was not logged in time"));
            if line.contains(what) {
                return serde_json::from_str(&line).unwrap();
            }
        }
    }

    fn address(&self) -> SocketAddr {
        self.wait("listening")["fields"]["address"]
            .as_str()
            .unwrap()
            .parse()
            .unwrap()
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args([&format!("-{name}"), &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn stopped(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn curfew(args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_curfew"))
        .args(args)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn verify(log: &Path) {
    let text = curfew(&["audit", "verify", log.to_str().unwrap()]);
    assert!(text.contains("nothing was altered"), "{text}");
}

/// A psql that reads what is written to it.
struct Psql(Child);

impl Psql {
    fn start(server: &Postgres, address: SocketAddr) -> Self {
        let mut psql = server.psql(address, "postgres");
        Self(
            psql.stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    }

    fn type_in(&mut self, text: &str) {
        writeln!(self.0.stdin.as_mut().unwrap(), "{text}").unwrap();
    }

    /// Closes its input, waits for it, and gives what it printed.
    fn said(mut self) -> String {
        drop(self.0.stdin.take());
        let output = self.0.wait_with_output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    }
}

#[test]
fn psql_is_told_why_its_session_ended_and_may_not_come_straight_back() {
    let server = Postgres::shared().unwrap();
    let site = Site::new(&server, "maxLifetime: 2s, reconnect: 60s");
    let mut running = site.run();
    let address = running.address();
    let mut psql = Psql::start(&server, address);
    psql.type_in("select 'here';");
    running.wait("session.ended");
    psql.type_in("select 'gone';");
    let said = psql.said();
    assert!(said.contains("here") && !said.contains("gone\n"), "{said}");
    assert!(
        said.contains("FATAL") && said.contains("lifetime_expired"),
        "{said}"
    );
    let again = server
        .psql(address, "postgres")
        .args(["-c", "select 1"])
        .output()
        .unwrap();
    let refused = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(
        !again.status.success() && refused.contains("lifetime_expired"),
        "{refused}"
    );
    running.signal("TERM");
    assert_eq!(running.stopped(), Some(0));
    assert_eq!(site.ends(), ["lifetime_expired"]);
    verify(&site.path("data/audit"));
}

#[test]
fn a_killed_process_leaves_no_session_without_an_end() {
    let server = Postgres::shared().unwrap();
    let site = Site::new(&server, "maxLifetime: 1h");
    let running = site.run();
    let mut psql = Psql::start(&server, running.address());
    psql.type_in("select 1;");
    running.wait("session.opened");
    // The opening reaches the disk with the group that it is written in.
    while !site
        .records()
        .iter()
        .any(|record| record["event"] == "session.opened")
    {
        std::thread::yield_now();
    }
    running.signal("KILL");
    psql.said();
    for _ in 0..2 {
        let mut again = site.run();
        again.wait("listening");
        again.signal("TERM");
        assert_eq!(again.stopped(), Some(0));
        assert_eq!(site.ends(), ["enforcer_lost"]);
    }
    verify(&site.path("data/audit"));
}

#[test]
fn a_stricter_policy_ends_live_sessions_and_a_wrong_one_changes_nothing() {
    let server = Postgres::shared().unwrap();
    let site = Site::new(&server, "maxLifetime: 1h");
    let running = site.run();
    let mut psql = Psql::start(&server, running.address());
    psql.type_in("select 1;");
    running.wait("session.opened");
    std::fs::write(site.path("policy/p.yaml"), "kind: Nonsense\n").unwrap();
    running.signal("HUP");
    running.wait("not reloaded");
    site.policy("maxLifetime: 1ms");
    running.signal("HUP");
    let ended = running.wait("session.ended");
    assert_eq!(ended["fields"]["reason"], "policy_changed");
    psql.type_in("select 2;");
    assert!(psql.said().contains("policy_changed"));
}

#[test]
fn a_stopping_process_tells_its_clients_and_a_watched_policy_is_taken_by_itself() {
    let server = Postgres::shared().unwrap();
    let site = Site::new(&server, "maxLifetime: 1h");
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let watched = config.replace("path: policy}", "path: policy, watch: true}");
    std::fs::write(site.path("curfew.yaml"), watched).unwrap();
    let mut running = site.run();
    let address = running.address();
    let mut psql = Psql::start(&server, address);
    psql.type_in("select 1;");
    running.wait("session.opened");
    let mut in_handshake = TcpStream::connect(address).unwrap();
    in_handshake.set_read_timeout(Some(PATIENCE)).unwrap();
    // It asks whether it may encrypt, and is told no.
    in_handshake
        .write_all(&[0, 0, 0, 8, 4, 210, 22, 47])
        .unwrap();
    in_handshake.read_exact(&mut [0]).unwrap();
    site.policy("maxLifetime: 2h");
    running.wait("reloaded");
    running.signal("TERM");
    running.wait("session.ended");
    psql.type_in("select 2;");
    let said = psql.said();
    assert!(said.contains("(shutdown)"), "{said}");
    let mut refusal = Vec::new();
    in_handshake.read_to_end(&mut refusal).unwrap();
    let refusal = String::from_utf8_lossy(&refusal);
    assert!(refusal.contains("C57P03"), "{refusal}");
    assert!(refusal.contains("(shutdown)"), "{refusal}");
    assert_eq!(running.stopped(), Some(0));
    assert_eq!(site.ends(), ["shutdown"]);
}

#[test]
fn a_signal_is_served_when_it_comes() {
    let server = Postgres::shared().unwrap();
    let site = Site::new(&server, "maxLifetime: 1h");
    let running = site.run();
    running.address();
    let clock = BootClock;
    let start = clock.now().boot;
    for minutes in 1..=12 {
        site.policy(&format!("maxLifetime: {minutes}m"));
        running.signal("HUP");
        running.wait("reloaded");
    }
    let took = clock.now().boot.since(start);
    assert!(took < Duration::from_secs(6), "{took:?}");
}

#[test]
fn as_many_files_are_opened_as_may_be_and_who_says_nonsense_is_counted_and_recorded() {
    let server = Postgres::shared().unwrap();
    let site = Site::new(&server, "maxLifetime: 1h");
    let mut shell = Command::new("sh");
    let few = "ulimit -Sn 64 && exec \"$0\" \"$@\"";
    let mut running = site.run_by(shell.args(["-c", few, env!("CARGO_BIN_EXE_curfew")]));
    let address = running.address();
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", running.child.id())).unwrap();
    let files = limits
        .lines()
        .find(|line| line.starts_with("Max open files"));
    let mut words = files.unwrap().split_whitespace().skip(3);
    assert_eq!(words.next(), words.next(), "{files:?}");
    let control = running.address();
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(&[0xff; 64]).unwrap();
    running.wait("turned away");
    let token = std::fs::read_to_string(site.path("data/admin.token")).unwrap();
    let mut scrape = TcpStream::connect(control).unwrap();
    let request = format!(
        "GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nAuthorization: Bearer {}\r\n\r\n",
        token.trim()
    );
    scrape.write_all(request.as_bytes()).unwrap();
    let mut metrics = String::new();
    scrape.read_to_string(&mut metrics).unwrap();
    let refused = metrics.lines().find(|line| {
        line.starts_with("curfew_sessions_refused_total") && line.contains("protocol_error")
    });
    assert!(
        refused.is_some_and(|line| line.ends_with(" 1")),
        "{metrics}"
    );
    // A crowd of them is counted.
    for number in 1..25 {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(&[0xff; 64]).unwrap();
        if number < 10 {
            running.wait("turned away");
        }
        // Told why, or reset.
        let _ = client.read_to_end(&mut Vec::new());
    }
    running.signal("TERM");
    running.wait("15 more clients of db were turned away");
    assert_eq!(running.stopped(), Some(0));
    let mut refused = site.records();
    refused.retain(|record| record["event"] == "session.refused");
    assert_eq!(refused.len(), 11, "{refused:?}");
    let is_named = |record: &&Value| record["detail"].get("client").is_some();
    let (named, counted): (Vec<&Value>, Vec<&Value>) = refused.iter().partition(is_named);
    assert_eq!((named.len(), counted.len()), (10, 1));
    for record in &refused {
        assert_eq!(record["reason"], "protocol_error");
        assert_eq!(record["detail"]["service"], "db");
        assert!(record["enforcer_seq"].is_u64() && record["revision"].is_u64());
    }
    assert!(!named[0]["cause"].as_str().unwrap().is_empty());
    assert!(named[0]["session"].is_string());
    assert_eq!(counted[0]["detail"]["clients"], 15);
    verify(&site.path("data/audit"));
}

#[test]
fn check_names_what_is_missing_and_starts_nothing() {
    let server = Postgres::shared().unwrap();
    let site = Site::new(&server, "maxLifetime: 1h");
    let segment = std::fs::read_to_string(site.path("policy/p.yaml"))
        .unwrap()
        .replace("service: db", "service: other");
    std::fs::write(site.path("policy/p.yaml"), segment).unwrap();
    let config = site.path("curfew.yaml");
    let check = Command::new(env!("CARGO_BIN_EXE_curfew"))
        .args(["run", "--check", "-c"])
        .arg(&config)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&check.stdout).into_owned();
    assert_eq!(check.status.code(), Some(3), "{text}");
    let place = format!(
        "{}:6:12: error: the service db (upstream {}) is in no segment\n  6 |   - {{name: db, ",
        config.display(),
        server.address()
    );
    assert!(text.contains(&place), "{text}");
    assert!(!site.path("data").exists());
}

#[test]
fn check_goes_on_to_the_policy_when_the_configuration_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "curfew.yaml",
        "data_dir: d\npolcy: x\npolicy: {path: p.yaml}\ngateway:\n  services:\n  - {name: a, listen: '127.0.0.1:0', upstream: 'unix:/nowhere'}\n  - {name: b, listen: x, upstream: '127.0.0.1:1'}\n",
    );
    let head = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: s}\n";
    let spec = "spec: {sensitivity: low, members: [{service: b}]";
    write(
        "p.yaml",
        &format!("{head}{spec}, limits: {{maxLifetime: 0s}}}}\n"),
    );
    let check = || {
        let output = Command::new(env!("CARGO_BIN_EXE_curfew"))
            .args(["run", "--check", "-c", "curfew.yaml"])
            .current_dir(folder.path())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        let errors = text.lines().filter(|line| line.contains(": error: "));
        errors.map(str::to_owned).collect::<Vec<_>>()
    };
    let config = [
        "curfew.yaml:2:1: error: unknown field `polcy` in the configuration",
        "curfew.yaml:7:23: error: `listen` is \"x\": write an address and a port, like 127.0.0.1:6432 or '[::1]:6432'",
    ];
    let policy =
        "p.yaml:4:73: error: `maxLifetime`: the duration \"0s\" is zero: it must be longer";
    assert_eq!(check(), [&config[..], &[policy]].concat());
    write("p.yaml", &format!("{head}{spec}}}\n"));
    let no_segment =
        "curfew.yaml:6:12: error: the service a (upstream unix:/nowhere) is in no segment";
    assert_eq!(check(), [config[0], no_segment, config[1]]);
    std::fs::remove_file(folder.path().join("p.yaml")).unwrap();
    let unread = "curfew.yaml:3:16: error: p.yaml: cannot be read: check that the path is right and readable: No such file or directory (os error 2)";
    assert_eq!(check(), [config[0], unread, config[1]]);
}
