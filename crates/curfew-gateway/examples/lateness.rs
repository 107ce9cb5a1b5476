//! How late sessions close: 1,000 relayed connections with one lifetime, their deadlines a few milliseconds apart,
//! idle or moving data. Prints the door's own figure, deadline to reset sent, in microseconds.
//!
//! `cargo run --release -p curfew-gateway --example lateness -- [idle|busy]`
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark may stop at the first surprise"
)]

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    os::fd::OwnedFd,
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use curfew_enforcer::{Door, Enforcer, Open, Peer, Sink};
use curfew_engine::{Bounds, Engine};
use curfew_gateway::{
    door::GatewayDoor,
    relay::{Relay, RelayConfig},
};
use curfew_model::{Clock, EndReason, Event, SessionId};
use curfew_testkit::{BootClock, Lifetime, alice};
use parking_lot::Mutex;

const SESSIONS: u128 = 1_000;
const LIFETIME: Duration = Duration::from_secs(3);

struct Late(Mutex<mpsc::Sender<Duration>>);

impl Sink for Late {
    fn record(&self, _event: Event) {}

    fn closed(&self, _session: SessionId, _reason: EndReason, late: Option<Duration>) {
        let _ = self.0.lock().send(late.unwrap_or_default());
    }
}

fn main() {
    let busy = std::env::args().nth(1).as_deref() == Some("busy");
    let door = Arc::new(GatewayDoor::default());
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let relay = Relay::start(RelayConfig::default(), Arc::clone(&clock), door.clone()).unwrap();
    let (sender, late) = mpsc::channel();
    let engine = Engine::new(Arc::new(Lifetime(LIFETIME)), Bounds::default(), clock.now());
    let as_door: Arc<dyn Door> = door.clone();
    let weak: Weak<dyn Door> = Arc::downgrade(&as_door);
    let deadlines =
        Enforcer::start(engine, weak, clock, Arc::new(Late(Mutex::new(sender)))).unwrap();
    door.attach(Arc::downgrade(deadlines.enforcer()));

    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let pair = || {
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    };
    let sockets: Vec<_> = (0..SESSIONS).map(|_| (pair(), pair())).collect();
    let mut ends = Vec::new();
    for (number, ((client, inside), (outside, service))) in (1..).zip(sockets) {
        let facts = alice(
            client.local_addr().unwrap(),
            service.local_addr().unwrap(),
            BootClock.now().boot,
        );
        let open = Open {
            id: SessionId(uuid::Uuid::from_u128(number)),
            facts,
            peer: Peer::default(),
            decided_at: None,
        };
        door.carry(&relay, OwnedFd::from(inside), OwnedFd::from(outside), open)
            .unwrap();
        ends.push((client, service));
    }
    if busy {
        for (mut client, mut service) in ends.drain(..8) {
            std::thread::spawn(move || while service.write_all(&[0u8; 65536]).is_ok() {});
            std::thread::spawn(
                move || while client.read(&mut [0u8; 65536]).is_ok_and(|read| read > 0) {},
            );
        }
    }
    let mut micros: Vec<u128> = (0..SESSIONS)
        .map(|_| {
            late.recv_timeout(Duration::from_secs(60))
                .expect("a session did not close")
                .as_micros()
        })
        .collect();
    micros.sort_unstable();
    let at = |permille: usize| {
        micros
            .get(permille * (micros.len() - 1) / 1000)
            .copied()
            .unwrap_or_default()
    };
    println!(
        "sessions {} p50 {} p99 {} max {} (us late)",
        micros.len(),
        at(500),
        at(990),
        at(1000)
    );
}
