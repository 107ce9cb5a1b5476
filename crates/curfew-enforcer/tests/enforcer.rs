//! The enforcer from the outside: a real timer and engine, a door that notes what it is told.
#![cfg(test)]

use std::{
    sync::{Arc, Weak, mpsc},
    time::Duration,
};

use curfew_enforcer::{Activity, Caps, Deadlines, Door, Enforcer, Order, Outcome, Sink};
use curfew_engine::{Bounds, Engine, Input, Open, Peer};
use curfew_model::{
    BootInstant, Bound, Clock, EndReason, Event, EventKind, Facts, Identity, Issuer, Kind, Lease,
    LossRule, Mode, Now, Proof, Provenance, Reconnect, Revision, SegmentName, Sensitivity,
    SessionId, Target, WallInstant,
};
use curfew_policy::{Decide, Decision, MatchedSegment, Verdict};
use parking_lot::Mutex;
use rustix::time::{ClockId, clock_gettime};

/// What waiting for a thread may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Now {
        let time = clock_gettime(ClockId::Boottime);
        let nanos = u64::try_from(time.tv_sec).unwrap() * 1_000_000_000
            + u64::try_from(time.tv_nsec).unwrap();
        Now {
            boot: BootInstant(nanos),
            wall: WallInstant(1_700_000_000_000),
        }
    }
}

/// Admits everyone for a fixed lifetime.
struct Lifetime(Duration);

impl Decide for Lifetime {
    fn revision(&self) -> Revision {
        Revision(1)
    }

    fn decide(&self, facts: &Facts, _now: Now) -> Decision {
        let by = Arc::new(Provenance::Order("test".to_owned()));
        let at = facts.opened_at.after(self.0);
        let lease = Lease {
            expires_at: Some(Bound {
                at,
                reason: EndReason::LifetimeExpired,
                by,
            }),
            ..Lease::default()
        };
        let segment = MatchedSegment {
            name: SegmentName::new("db").unwrap(),
            sensitivity: Sensitivity::Low,
            mode: Mode::Enforce,
            max_concurrent: None,
            reconnect: Reconnect::default(),
            on_control_plane_loss: LossRule::default_for(Sensitivity::Low),
        };
        Decision {
            segments: vec![segment],
            policies: Vec::new(),
            verdict: Verdict::Admit(lease),
            look_again_at: None,
        }
    }
}

#[derive(Default)]
struct NotingDoor(Mutex<Vec<Order>>);

impl Door for NotingDoor {
    fn caps(&self) -> Caps {
        Caps {
            decides_inline: true,
            survives_agent: false,
            warns: false,
            says_goodbye: false,
        }
    }

    fn apply(&self, orders: &[Order]) -> Vec<Outcome> {
        self.0.lock().extend_from_slice(orders);
        vec![Outcome::Done; orders.len()]
    }

    fn activity(&self, _sessions: &[SessionId]) -> Vec<Activity> {
        Vec::new()
    }

    fn snapshot(&self) -> Vec<SessionId> {
        Vec::new()
    }
}

enum Told {
    Record(Event),
    Closed(SessionId, EndReason, Option<Duration>),
}

struct Telling(Mutex<mpsc::Sender<Told>>);

impl Sink for Telling {
    fn record(&self, event: Event) {
        let _ = self.0.lock().send(Told::Record(event));
    }

    fn closed(&self, session: SessionId, reason: EndReason, late: Option<Duration>) {
        let _ = self.0.lock().send(Told::Closed(session, reason, late));
    }
}

struct Lab {
    door: Arc<NotingDoor>,
    deadlines: Deadlines,
    told: mpsc::Receiver<Told>,
}

impl Lab {
    fn new(lifetime: Duration) -> Self {
        let door = Arc::new(NotingDoor::default());
        let as_door: Arc<dyn Door> = door.clone();
        let (sender, told) = mpsc::channel();
        let engine = Engine::new(
            Arc::new(Lifetime(lifetime)),
            Bounds::default(),
            BootClock.now(),
        );
        let door_ref: Weak<dyn Door> = Arc::downgrade(&as_door);
        let deadlines = Enforcer::start(
            engine,
            door_ref,
            Arc::new(BootClock),
            Arc::new(Telling(Mutex::new(sender))),
        )
        .unwrap();
        Self {
            door,
            deadlines,
            told,
        }
    }

    fn open(&self, number: u128) -> SessionId {
        let id = SessionId(uuid::Uuid::from_u128(number));
        let identity = Identity {
            proof: Proof::Bound,
            kind: Kind::User,
            issuer: Issuer::local(),
            id: "alice".to_owned(),
            display: None,
        };
        let facts = Facts {
            identities: vec![identity],
            groups: Vec::new(),
            device: None,
            attributes: std::collections::BTreeMap::new(),
            client: "127.0.0.1:40000".parse().unwrap(),
            target: Target {
                service: None,
                address: Some("127.0.0.1:5432".parse().unwrap()),
            },
            opened_at: BootClock.now().boot,
            proved_at: None,
            credential_until: None,
            binding_until: None,
            ambiguous: false,
        };
        let open = Open {
            id,
            facts,
            peer: Peer::default(),
            decided_at: None,
        };
        self.deadlines.enforcer().open(open).unwrap();
        id
    }

    /// What became of a session, and the events until then.
    fn closed(&self) -> (SessionId, EndReason, Option<Duration>, Vec<EventKind>) {
        let mut events = Vec::new();
        loop {
            match self
                .told
                .recv_timeout(PATIENCE)
                .expect("nothing closed in time")
            {
                Told::Record(event) => events.push(event.event),
                Told::Closed(id, reason, late) => return (id, reason, late, events),
            }
        }
    }
}

#[test]
fn a_session_closes_at_its_deadline_and_not_before() {
    let lab = Lab::new(Duration::from_millis(30));
    let before = BootClock.now().boot;
    let id = lab.open(1);
    let (closed, reason, late, _) = lab.closed();
    assert!(BootClock.now().boot.since(before) >= Duration::from_millis(30));
    assert_eq!((closed, reason), (id, EndReason::LifetimeExpired));
    assert!(late.is_some());
    let orders = lab.door.0.lock().clone();
    assert!(orders.contains(&Order::Close {
        session: id,
        reason: EndReason::LifetimeExpired
    }));
}

#[test]
fn a_cancelled_session_is_closed_when_the_call_returns() {
    let lab = Lab::new(Duration::from_secs(3600));
    let id = lab.open(2);
    let report = lab
        .deadlines
        .enforcer()
        .handle(Input::Cancel {
            id,
            cause: "an operator".to_owned(),
        })
        .unwrap();
    assert_eq!(report.closed, 1);
    let order = Order::Close {
        session: id,
        reason: EndReason::SessionCancelled,
    };
    assert!(lab.door.0.lock().contains(&order));
    let again = lab.deadlines.enforcer().handle(Input::Cancel {
        id,
        cause: "an operator".to_owned(),
    });
    assert!(
        again.is_err(),
        "the session is gone, and the engine was told so"
    );
}

#[test]
fn stopping_waits_for_the_thread_even_with_sessions_open() {
    let lab = Lab::new(Duration::from_secs(3600));
    lab.open(3);
    drop(lab);
}
