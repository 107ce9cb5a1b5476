//! A deadline thread that panics takes its process with it: this test runs itself once more for that.
#![cfg(test)]

mod support;

use std::{
    os::unix::process::ExitStatusExt,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use curfew_enforcer::{Door, Enforcer, Order, Record, Sink};
use curfew_engine::{Bounds, Engine, Open, Peer};
use curfew_model::{Clock, SessionId};
use curfew_testkit::{BootClock, Lifetime, alice};

use support::Doing;

/// What the child has in its environment.
const CHILD: &str = "CURFEW_TEST_PANICS";
/// How long the child waits for its end.
const PATIENCE: Duration = Duration::from_secs(20);
/// SIGABRT.
const ABORTED: i32 = 6;

struct Silent;

impl Sink for Silent {
    fn record(&self, _: Vec<Record>) {}
}

/// Opens a session whose end is the deadline thread's, and waits.
fn panic_at_a_deadline() {
    let lifetime = Lifetime(Duration::from_millis(200));
    let engine = Engine::new(Arc::new(lifetime), Bounds::default(), BootClock.now());
    // Which the deadline thread tells it.
    let door: Arc<dyn Door> = Arc::new(Doing(|order: &Order| panic!("meant to, at {order:?}")));
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let deadlines =
        Enforcer::start(engine, Arc::downgrade(&door), clock, Arc::new(Silent)).unwrap();
    let address = "127.0.0.1:40000".parse().unwrap();
    let open = Open {
        id: SessionId(uuid::Uuid::from_u128(1)),
        facts: alice(address, address, BootClock.now().boot),
        peer: Peer::default(),
        decided_at: None,
    };
    deadlines.enforcer().open(open).unwrap();
    std::thread::park_timeout(PATIENCE);
}

#[test]
fn a_deadline_thread_that_panics_ends_the_process() {
    if std::env::var_os(CHILD).is_some() {
        return panic_at_a_deadline();
    }
    let child = Command::new(std::env::current_exe().unwrap())
        .env(CHILD, "1")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(child.signal(), Some(ABORTED), "{child}");
}
