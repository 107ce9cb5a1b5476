//! `curfew run` as it is installed, with a service, ten users bound to addresses of loopback, and an upstream.

use std::{
    fmt::Write as _,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::PathBuf,
    process::{Child, ChildStderr, Command, Stdio},
};

use crate::{USERS, api::Api};

const POLICY: &str = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: echo}\n\
    spec: {sensitivity: moderate, members: [{service: echo}]}\n---\n\
    apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {name: staff}\n\
    spec: {from: {groups: [staff]}, to: {segments: [echo]}, limits: {maxLifetime: 8h, idleTimeout: 1h, reconnect: allow}}\n";

/// Both processes and their folder; ended when dropped.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    processes: Vec<Child>,
    service: SocketAddr,
    control: SocketAddr,
}

/// The user with this number.
pub(crate) fn name(user: usize) -> String {
    format!("user-{user}")
}

/// Where that user's clients connect from.
pub(crate) fn home(user: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, u8::try_from(user + 1).expect("few users"))
}

impl Site {
    pub(crate) fn start() -> Self {
        let own = std::env::current_exe().unwrap();
        let mut upstream = Command::new(&own)
            .arg("upstream")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut port = String::new();
        BufReader::new(upstream.stdout.take().unwrap())
            .read_line(&mut port)
            .unwrap();
        let folder = tempfile::tempdir_in(own.parent().unwrap()).unwrap();
        let control = free();
        let mut config = format!(
            "data_dir: data\ncontrol: {{listen: '{control}'}}\npolicy: {{path: policy.yaml}}\ngateway:\n  services:\n  \
             - {{name: echo, listen: '127.0.0.1:0', upstream: '127.0.0.1:{}', protocol: tcp}}\nbindings:\n",
            port.trim()
        );
        for user in 0..USERS {
            let (address, name) = (home(user), name(user));
            let _ = writeln!(
                config,
                "- {{address: {address}, user: {name}, groups: [staff]}}"
            );
        }
        std::fs::write(folder.path().join("curfew.yaml"), config).unwrap();
        std::fs::write(folder.path().join("policy.yaml"), POLICY).unwrap();
        let binary: PathBuf = own.ancestors().nth(2).unwrap().join("curfew");
        let mut curfew = Command::new(binary)
            .args(["run", "--log", "json", "-c", "curfew.yaml"])
            .current_dir(folder.path())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let service = listening(BufReader::new(curfew.stderr.take().unwrap()));
        Self {
            folder,
            processes: vec![curfew, upstream],
            service,
            control,
        }
    }

    pub(crate) fn service(&self) -> SocketAddr {
        self.service
    }

    pub(crate) fn api(&self) -> Api {
        let token = std::fs::read_to_string(self.folder.path().join("data/admin.token")).unwrap();
        Api::connect(self.control, &token)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        for process in &mut self.processes {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// An address that nobody listens on.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .unwrap()
}

/// Reads the log until the service listens, and goes on reading it on a thread of its own.
fn listening(mut log: BufReader<ChildStderr>) -> SocketAddr {
    let mut seen = String::new();
    let address = loop {
        let mut line = String::new();
        let read = log.read_line(&mut line).unwrap();
        assert!(read > 0, "curfew run does not start:\n{seen}");
        if line.contains("listening") {
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            break line["fields"]["address"].as_str().unwrap().parse().unwrap();
        }
        seen.push_str(&line);
    };
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    address
}
