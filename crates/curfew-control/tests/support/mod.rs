//! A real server over a real store and a real audit log, with enforcers and a compiler that tests control, and a plain
//! HTTP client. Assertions may not live here.
#![cfg(test)]
#![allow(dead_code, reason = "each test file uses its own part of this")]

pub mod client;
pub mod compiler;
pub mod fakes;

use std::{io::Read as _, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use curfew_audit::{Log, Options};
use curfew_control::{Compile, Fleet, Journal, Limits, Metrics, Parts, Server, Settings};
use curfew_model::{Clock as _, WallInstant};
use curfew_state::{Bus, EmbeddedStore, LocalBus, Store};
use curfew_testkit::BootClock;
use serde_json::{Value, json};

use client::{Client, Response};
use compiler::FakeCompile;
use fakes::{FakeFleet, Pass, WatchedJournal, WatchedStore};

/// Longer than anything here takes.
pub const SOON: Duration = Duration::from_secs(20);

pub struct World {
    pub fleet: Arc<FakeFleet>,
    pub store: Arc<WatchedStore>,
    pub journal: Arc<WatchedJournal>,
    pub bus: Arc<LocalBus>,
    pub metrics: Arc<Metrics>,
    pub compile: Arc<FakeCompile>,
    pub admin: String,
    pub server: Option<Server>,
    pub dir: tempfile::TempDir,
}

pub fn now() -> WallInstant {
    BootClock.now().wall
}

impl World {
    pub fn start() -> Self {
        Self::with(|_| ())
    }

    pub fn with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self::inside(dir, change)
    }

    /// Starts on what a directory holds.
    pub fn inside(dir: tempfile::TempDir, change: impl FnOnce(&mut Settings)) -> Self {
        let pass = Arc::new(Pass::default());
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let store = Arc::new(WatchedStore::new(store, &pass));
        let log = Log::open(Options::new(dir.path().join("audit")), now()).unwrap();
        let journal = Arc::new(WatchedJournal::new(log, &pass));
        let fleet = Arc::new(FakeFleet::new(&pass));
        let bus = Arc::new(LocalBus::new());
        let metrics = Arc::new(Metrics::new());
        let mut settings = Settings::new("127.0.0.1:0".parse().unwrap(), dir.path());
        settings.limits = Limits {
            requests_per_second: 10_000,
            burst: 10_000,
            ..Limits::default()
        };
        change(&mut settings);
        let mut world = Self {
            fleet,
            store,
            journal,
            bus,
            metrics,
            compile: Arc::default(),
            admin: String::new(),
            server: None,
            dir,
        };
        world.server = Some(Server::start(settings, world.parts()).unwrap());
        world.admin = first_token(world.dir.path());
        world
    }

    /// What a server works with here.
    pub fn parts(&self) -> Parts {
        Parts {
            store: Arc::clone(&self.store) as Arc<dyn Store>,
            journal: Arc::clone(&self.journal) as Arc<dyn Journal>,
            bus: Arc::clone(&self.bus) as Arc<dyn Bus>,
            fleet: Arc::clone(&self.fleet) as Arc<dyn Fleet>,
            compile: Arc::clone(&self.compile) as Arc<dyn Compile>,
            clock: Arc::new(BootClock),
            metrics: Arc::clone(&self.metrics),
        }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().unwrap().address()
    }

    /// A client with the first token.
    pub fn admin(&self) -> Client {
        self.client(&self.admin)
    }

    pub fn client(&self, token: &str) -> Client {
        Client::new(self.address()).token(token)
    }

    pub fn stranger(&self) -> Client {
        Client::new(self.address())
    }

    /// A client with a new token of this role.
    pub fn role(&self, role: &str) -> Client {
        let networks: &[&str] = if role == "binder" {
            &["10.1.0.0/16", "10.4.0.0/16"]
        } else {
            &[]
        };
        let body = json!({"name": format!("a-{role}"), "role": role, "networks": networks});
        let made = self.admin().post("/v1/tokens", &body);
        assert_eq!(made.status, 201, "{made:?}");
        self.client(made.json()["token"].as_str().unwrap())
    }

    /// The log's records, read from disk.
    pub fn records(&self) -> Vec<Value> {
        records(self.dir.path())
    }

    /// Stops everything and gives the directory back.
    pub fn stop(mut self) -> tempfile::TempDir {
        assert!(self.server.take().unwrap().stop(SOON));
        self.dir
    }
}

/// The records of the log in a data directory.
pub fn records(dir: &Path) -> Vec<Value> {
    let lines = curfew_audit::tail(&dir.join("audit"), 1_000).unwrap();
    let parse = |line: &String| serde_json::from_str(line).unwrap();
    lines.iter().map(parse).collect()
}

pub fn first_token(dir: &Path) -> String {
    let text = std::fs::read_to_string(dir.join("admin.token")).unwrap();
    text.trim().to_owned()
}

/// Whether an answer is a problem document of this status and code.
pub fn is_problem(response: &Response, status: u16, code: &str) -> bool {
    let document = response.json();
    response.status == status
        && response.header("content-type") == Some("application/problem+json")
        && document["status"] == status
        && document["code"] == code
        && document["type"] == format!("tag:curfew.dev,2026:{code}")
        && document["title"].is_string()
        && document["detail"]
            .as_str()
            .is_some_and(|text| !text.is_empty())
}

/// Waits until the server has let a connection go and takes another one.
pub fn wait_for_a_place(client: &Client) {
    let give_up = fakes::boot().after(SOON);
    loop {
        let mut stream = client.open("GET", "/healthz", "1.1", None);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        if answer.starts_with(b"HTTP/1.1 200") {
            return;
        }
        assert!(fakes::boot() < give_up, "no place becomes free");
    }
}
