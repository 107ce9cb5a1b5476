//! The enforcer from the outside: a real timer and engine, a door that notes what it is told.
#![cfg(test)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use curfew_enforcer::{
    Activity, Close, Closed, Deadlines, Door, Enforcer, Gone, Order, Outcome, Record, Scheduling,
    Sink,
};
use curfew_engine::{Bounds, Engine, Input, Open, Peer};
use curfew_model::{Clock, EndReason, EventKind, Now, SessionId};
use curfew_testkit::{BootClock, Lifetime, alice};
use parking_lot::Mutex;

use support::Doing;

/// What waiting for a thread may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

fn done(order: &Order) -> Outcome {
    match *order {
        Order::Close { session, .. } => Outcome::Closed(Closed {
            moved: Some(Activity {
                id: session,
                last: BootClock.now().boot,
                bytes_in: 7,
                bytes_out: 8,
            }),
            untold: false,
        }),
        _ => Outcome::Done,
    }
}

struct Telling(Mutex<mpsc::Sender<Record>>);

impl Sink for Telling {
    fn record(&self, records: Vec<Record>) {
        for record in records {
            let _ = self.0.lock().send(record);
        }
    }
}

struct Lab {
    /// What the door was told.
    orders: Arc<Mutex<Vec<Order>>>,
    _door: Arc<dyn Door>,
    deadlines: Deadlines,
    told: mpsc::Receiver<Record>,
}

impl Lab {
    fn new(lifetime: Duration) -> Self {
        let orders = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&orders);
        let door: Arc<dyn Door> = Arc::new(Doing(move |order: &Order| {
            noted.lock().push(*order);
            done(order)
        }));
        let (sender, told) = mpsc::channel();
        let engine = Engine::new(
            Arc::new(Lifetime(lifetime)),
            Bounds::default(),
            BootClock.now(),
        );
        let deadlines = Enforcer::start(
            engine,
            Arc::downgrade(&door),
            Arc::new(BootClock),
            Arc::new(Telling(Mutex::new(sender))),
        )
        .unwrap();
        Self {
            orders,
            _door: door,
            deadlines,
            told,
        }
    }

    fn open(&self, number: u128) -> SessionId {
        let id = SessionId(uuid::Uuid::from_u128(number));
        let facts = alice(
            "127.0.0.1:40000".parse().unwrap(),
            "127.0.0.1:5432".parse().unwrap(),
            BootClock.now().boot,
        );
        let open = Open {
            id,
            facts,
            peer: Peer::default(),
            decided_at: None,
        };
        self.deadlines.enforcer().open(open).unwrap();
        id
    }

    /// The next end on record.
    fn ended(&self) -> Record {
        next_end(&self.told)
    }
}

fn next_end(told: &mpsc::Receiver<Record>) -> Record {
    loop {
        let record = told.recv_timeout(PATIENCE).expect("nothing ended in time");
        if record.recorded.event == EventKind::SessionEnded {
            return record;
        }
    }
}

#[test]
fn a_session_closes_at_its_deadline_and_not_before() {
    let lab = Lab::new(Duration::from_millis(30));
    let before = BootClock.now().boot;
    let id = lab.open(1);
    let Record { recorded, close } = lab.ended();
    // The opening was the first.
    assert_eq!(recorded.number, 1);
    assert!(BootClock.now().boot.since(before) >= Duration::from_millis(30));
    assert_eq!(recorded.session, Some(id));
    assert_eq!(recorded.reason, Some(EndReason::LifetimeExpired));
    let close = close.unwrap();
    assert!(close.late.is_some());
    assert_eq!(close.closed.moved.unwrap().bytes_in, 7);
    let orders = lab.orders.lock().clone();
    assert!(orders.contains(&Order::Close {
        session: id,
        reason: EndReason::LifetimeExpired
    }));
}

#[test]
fn a_cancelled_session_is_closed_when_the_call_returns() {
    let lab = Lab::new(Duration::from_secs(3600));
    let id = lab.open(2);
    let idle = lab.deadlines.enforcer().handle(Input::Contact).unwrap();
    assert_eq!(idle.closed_at, None);
    let before = BootClock.now().boot;
    let report = lab
        .deadlines
        .enforcer()
        .handle(Input::Cancel {
            id,
            cause: "an operator".to_owned(),
        })
        .unwrap();
    assert_eq!(report.closed, 1);
    let closed_at = report.closed_at.unwrap();
    assert!(before <= closed_at && closed_at <= BootClock.now().boot);
    let order = Order::Close {
        session: id,
        reason: EndReason::SessionCancelled,
    };
    assert!(lab.orders.lock().contains(&order));
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

/// A clock that is pushed ahead by each close.
#[derive(Default)]
struct SlowClock(AtomicU64);

const SLOW: Duration = Duration::from_secs(3600);

impl Clock for SlowClock {
    fn now(&self) -> Now {
        let mut now = BootClock.now();
        let closes = u32::try_from(self.0.load(Ordering::Acquire)).unwrap();
        now.boot = now.boot.after(SLOW * closes);
        now
    }
}

#[test]
fn a_close_is_as_late_as_its_own_end_and_not_as_the_last_of_its_batch() {
    let clock = Arc::new(SlowClock::default());
    let pushed = Arc::clone(&clock);
    let door: Arc<dyn Door> = Arc::new(Doing(move |order: &Order| {
        if matches!(order, Order::Close { .. }) {
            pushed.0.fetch_add(1, Ordering::AcqRel);
        }
        done(order)
    }));
    let (sender, told) = mpsc::channel();
    let lifetime = Lifetime(Duration::from_millis(500));
    let engine = Engine::new(Arc::new(lifetime), Bounds::default(), clock.now());
    let deadlines = Enforcer::start(
        engine,
        Arc::downgrade(&door),
        clock,
        Arc::new(Telling(Mutex::new(sender))),
    )
    .unwrap();
    let opened_at = BootClock.now().boot;
    for number in 1..=2 {
        let address = "127.0.0.1:40000".parse().unwrap();
        let open = Open {
            id: SessionId(uuid::Uuid::from_u128(number)),
            facts: alice(address, "127.0.0.1:5432".parse().unwrap(), opened_at),
            peer: Peer::default(),
            decided_at: None,
        };
        deadlines.enforcer().open(open).unwrap();
    }
    let mut late = Vec::new();
    while late.len() < 2 {
        let by = next_end(&told).close.unwrap().late.unwrap();
        late.push(by.as_secs() / SLOW.as_secs());
    }
    assert_eq!(late, [1, 2]);
}

#[test]
fn what_the_door_says_of_an_end_of_its_own_is_on_record_with_it() {
    let lab = Lab::new(Duration::from_secs(3600));
    let id = lab.open(4);
    let closed = Closed {
        moved: Some(Activity {
            id,
            last: BootClock.now().boot,
            bytes_in: 3,
            bytes_out: 4,
        }),
        untold: true,
    };
    lab.deadlines.enforcer().finished(Gone {
        session: id,
        closed,
        reason: EndReason::ProtocolError,
        cause: Some("rubbish"),
    });
    let Record { recorded, close } = lab.ended();
    assert_eq!(recorded.cause.as_deref(), Some("rubbish"));
    assert_eq!(close, Some(Close { closed, late: None }));
    let view = lab
        .deadlines
        .enforcer()
        .look(|engine| engine.past(id))
        .unwrap();
    assert_eq!((view.bytes_in, view.bytes_out), (3, 4));
}

#[test]
fn the_deadline_thread_says_how_it_is_scheduled() {
    let lab = Lab::new(Duration::from_secs(3600));
    match lab.deadlines.scheduling() {
        Scheduling::RealTime => {
            let fifo = std::fs::read_dir("/proc/self/task").unwrap().any(|task| {
                let stat =
                    std::fs::read_to_string(task.unwrap().path().join("stat")).unwrap_or_default();
                // Field 41 of proc_pid_stat(5), the policy; the name before it may hold spaces.
                let after_name = stat.rsplit(')').next().unwrap_or_default();
                stat.contains("(deadlines)") && after_name.split_whitespace().nth(38) == Some("1")
            });
            assert!(fifo, "no deadline thread runs under SCHED_FIFO");
        }
        ordinary @ Scheduling::Ordinary { .. } => {
            assert!(ordinary.to_string().contains("CAP_SYS_NICE"));
        }
    }
}
