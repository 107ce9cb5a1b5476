//! How late sessions close, seen by clients in a process of their own: 1,000 relayed connections that move data, their
//! deadlines within 10 ms. Idle: nothing else is relayed. Busy: eight bulk streams saturate the relay as well.
//!
//! `cargo run --release -p curfew-gateway --example lateness -- [idle|busy] [ROUNDS]`
//!
//! Prints, in microseconds after the deadline: `closed`, the door's own figure; `end`, when the client saw the reset
//! (time to be scheduled included); `byte`, when it read its last byte, 0 for before the deadline; `upstream`, when the
//! service saw its reset, of one session in ten.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark may stop at the first surprise"
)]

mod clients;
#[path = "../watch/mod.rs"]
mod watch;

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader, Write},
    net::SocketAddr,
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    time::Duration,
};

use curfew_enforcer::{Deadlines, Door, Enforcer, Record, Sink};
use curfew_engine::{Bounds, Engine};
use curfew_gateway::{
    door::GatewayDoor,
    protocol::Protocol,
    relay::{Relay, RelayConfig},
    service::{Away, Gateway, Service, ServiceConfig, TurnedAway},
};
use curfew_model::{
    BootInstant, Bound, Clock, EndReason, Facts, Lease, Now, Provenance, Revision, ServiceName,
    UpstreamAddress,
};
use curfew_policy::{Decide, Decision};
use curfew_testkit::{BootClock, Lifetime};
use parking_lot::Mutex;

/// Sessions that are measured.
pub(crate) const SESSIONS: usize = 1_000;
/// Streams that saturate the relay, when it is to be busy.
pub(crate) const BULK: usize = 8;
/// From one deadline to the next: all within 10 ms.
const APART: Duration = Duration::from_micros(10);
/// From the start until the first deadline: all sessions are open by then.
const LIFETIME: Duration = Duration::from_secs(4);
const PATIENCE: Duration = Duration::from_secs(60);

/// Gives each session that is opened its own deadline, one after the other; bulk comes last and outlives them.
struct OneAfterTheOther {
    first: BootInstant,
    deadlines: Arc<Mutex<Vec<(SocketAddr, BootInstant)>>>,
}

impl Decide for OneAfterTheOther {
    fn revision(&self) -> Revision {
        Revision(1)
    }

    fn decide(&self, facts: &Facts, now: Now) -> Decision {
        let mut deadlines = self.deadlines.lock();
        let number = deadlines.len();
        let at = if number < SESSIONS {
            self.first.after(APART * u32::try_from(number).unwrap())
        } else {
            self.first.after(Duration::from_secs(1))
        };
        deadlines.push((facts.client, at));
        let expires_at = Some(Bound {
            at,
            reason: EndReason::LifetimeExpired,
            by: Arc::new(Provenance::Order("lateness".to_owned())),
        });
        Decision {
            lease: Lease {
                expires_at,
                ..Lease::default()
            },
            ..Lifetime(LIFETIME).decide(facts, now)
        }
    }
}

struct Late(mpsc::Sender<Duration>);

impl Sink for Late {
    fn record(&self, records: Vec<Record>) {
        for late in records.iter().filter_map(|record| record.close?.late) {
            let _ = self.0.send(late);
        }
    }
}

struct Quiet;

impl TurnedAway for Quiet {
    fn turned_away(&self, _: Away) {}
}

fn main() {
    let mode = std::env::args().nth(1).unwrap_or_else(|| "idle".to_owned());
    if mode == "clients" {
        clients::run(std::env::args().nth(2).as_deref() == Some("busy"));
        return;
    }
    let rounds = std::env::args()
        .nth(2)
        .map_or(1, |rounds| rounds.parse().expect("ROUNDS is a number"));
    for _ in 0..rounds {
        round(&mode);
    }
}

fn round(mode: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["clients", mode])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut told = BufReader::new(child.stdout.take().unwrap()).lines();
    let upstream = told.next().unwrap().unwrap().parse().unwrap();

    let door = Arc::new(GatewayDoor::default());
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let relay = Relay::start(RelayConfig::default(), Arc::clone(&clock), door.clone()).unwrap();
    let (sender, closed) = mpsc::channel();
    let deadlines = Arc::default();
    let policy = OneAfterTheOther {
        first: clock.now().boot.after(LIFETIME),
        deadlines: Arc::clone(&deadlines),
    };
    let engine = Engine::new(Arc::new(policy), Bounds::default(), clock.now());
    let as_door: Arc<dyn Door> = door.clone();
    let weak = Arc::downgrade(&as_door);
    let keeper: Deadlines = Enforcer::start(engine, weak, clock, Arc::new(Late(sender))).unwrap();
    door.attach(Arc::downgrade(keeper.enforcer()));
    let gateway = Gateway {
        door,
        relay: Arc::new(relay),
        clock: Arc::new(BootClock),
        turned_away: Arc::new(Quiet),
    };
    let config = ServiceConfig::new(
        ServiceName::new("lateness").unwrap(),
        "127.0.0.1:0".parse().unwrap(),
        vec![UpstreamAddress::Tcp(upstream)],
        Protocol::Tcp,
    );
    let service = Service::start(config, gateway).unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", service.address()).unwrap();

    let seen: HashMap<SocketAddr, clients::Seen> = told
        .map(|line| clients::Seen::parse(&line.unwrap()))
        .map(|seen| (seen.client, seen))
        .collect();
    assert!(child.wait().unwrap().success());
    let mut own: Vec<Duration> = Vec::new();
    while own.len() < SESSIONS {
        own.push(closed.recv_timeout(PATIENCE).unwrap());
    }
    let mut ends = Vec::new();
    let mut bytes = Vec::new();
    let mut upstreams = Vec::new();
    let mut how: BTreeMap<String, usize> = BTreeMap::new();
    // Streams that keep the relay busy are decided about among them: several loops accept.
    let deadlines = deadlines.lock();
    for (client, deadline) in deadlines.iter() {
        let Some(seen) = seen.get(client) else {
            continue;
        };
        assert!(seen.end >= *deadline, "a session ended before its deadline");
        ends.push(seen.end.since(*deadline));
        bytes.push(seen.last_byte.since(*deadline));
        upstreams.extend(seen.upstream_end.map(|end| end.since(*deadline)));
        *how.entry(seen.how.clone()).or_default() += 1;
    }
    assert_eq!(ends.len(), SESSIONS, "a client that saw no end");
    println!(
        "{mode} {how:?} closed {} end {} byte {} upstream {} deadline thread {}",
        summary(own),
        summary(ends),
        summary(bytes),
        summary(upstreams),
        keeper.scheduling(),
    );
}

/// Median, 99th percentile and maximum, in microseconds.
fn summary(mut late: Vec<Duration>) -> String {
    late.sort_unstable();
    let at = |permille: usize| {
        late.get(permille * (late.len() - 1) / 1000)
            .map_or(0, Duration::as_micros)
    };
    format!("p50 {} p99 {} max {}", at(500), at(990), at(1000))
}
