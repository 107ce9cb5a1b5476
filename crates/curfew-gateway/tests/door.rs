//! A real connection into a segment ends on time: sockets, relay, enforcer and engine together.
#![cfg(test)]

use std::{
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    os::fd::OwnedFd,
    sync::{
        Arc, Weak,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use curfew_enforcer::{
    Activity, Deadlines, Door, DoorLease, Enforcer, Input, Open, Order, Outcome, Peer, Record, Sink,
};
use curfew_engine::{Bounds, Engine};
use curfew_gateway::{
    door::GatewayDoor,
    relay::{Relay, RelayConfig},
};
use curfew_model::{Clock, Deadline, EndReason, Event, EventKind, Now, SessionId};
use curfew_policy::Decide;
use curfew_testkit::{BootClock, Lifetime, Limited, alice, connected};
use parking_lot::Mutex;

/// What waiting for a thread may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// The machine's clock, and so many nanoseconds more.
#[derive(Default)]
struct LateClock(AtomicU64);

impl Clock for LateClock {
    fn now(&self) -> Now {
        let mut now = BootClock.now();
        now.boot.0 += self.0.load(Ordering::SeqCst);
        now
    }
}

struct Recording(Mutex<mpsc::Sender<Event>>);

impl Sink for Recording {
    fn record(&self, records: Vec<Record>) {
        for record in records {
            let _ = self.0.lock().send(record.recorded.into_event());
        }
    }
}

struct Lab {
    // Dropped in this order: no new orders, then the relay.
    deadlines: Deadlines,
    relay: Relay,
    door: Arc<GatewayDoor>,
    events: mpsc::Receiver<Event>,
}

impl Lab {
    fn new(lifetime: Duration) -> Self {
        Self::of(Arc::new(Lifetime(lifetime)))
    }

    fn of(policy: Arc<dyn Decide>) -> Self {
        Self::by(Arc::new(BootClock), policy)
    }

    fn by(clock: Arc<dyn Clock>, policy: Arc<dyn Decide>) -> Self {
        let door = Arc::new(GatewayDoor::default());
        let config = RelayConfig {
            threads: 1,
            ..RelayConfig::default()
        };
        let relay = Relay::start(config, Arc::clone(&clock), door.clone()).unwrap();
        let (sender, events) = mpsc::channel();
        let engine = Engine::new(policy, Bounds::default(), clock.now());
        let as_door: Arc<dyn Door> = door.clone();
        let weak: Weak<dyn Door> = Arc::downgrade(&as_door);
        let deadlines =
            Enforcer::start(engine, weak, clock, Arc::new(Recording(Mutex::new(sender)))).unwrap();
        door.attach(Arc::downgrade(deadlines.enforcer()));
        Self {
            deadlines,
            relay,
            door,
            events,
        }
    }

    /// A session: the client's end, the service's end, and its id.
    fn carry(&self, number: u128) -> (TcpStream, TcpStream, SessionId) {
        let (client, inside) = connected();
        let (outside, service) = connected();
        let id = SessionId(uuid::Uuid::from_u128(number));
        let facts = alice(
            client.local_addr().unwrap(),
            service.local_addr().unwrap(),
            BootClock.now().boot,
        );
        let open = Open {
            id,
            facts,
            peer: Peer::default(),
            decided_at: None,
        };
        self.door
            .carry(
                &self.relay,
                OwnedFd::from(inside),
                OwnedFd::from(outside),
                open,
            )
            .unwrap();
        (client, service, id)
    }

    fn end_of(&self, id: SessionId) -> EndReason {
        loop {
            let event = self
                .events
                .recv_timeout(PATIENCE)
                .expect("no end on record in time");
            if event.event == EventKind::SessionEnded && event.session == Some(id) {
                return event.reason.unwrap();
            }
        }
    }
}

/// Reads until the connection ends; whether that was a reset.
fn was_reset(end: &mut TcpStream) -> bool {
    let mut buffer = [0u8; 65536];
    loop {
        match end.read(&mut buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::ConnectionReset,
        }
    }
}

#[test]
fn a_connection_that_moves_data_is_reset_at_its_deadline() {
    let lab = Lab::new(Duration::from_millis(150));
    let opened = BootClock.now().boot;
    let (mut client, mut service, id) = lab.carry(1);
    client.write_all(b"hello").unwrap();
    let mut hello = [0u8; 5];
    service.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"hello");
    let sender = std::thread::spawn(move || while service.write_all(&[7u8; 4096]).is_ok() {});
    assert!(was_reset(&mut client));
    assert!(BootClock.now().boot.since(opened) >= Duration::from_millis(150));
    sender.join().unwrap();
    assert_eq!(lab.end_of(id), EndReason::LifetimeExpired);
    assert!(lab.door.snapshot().is_empty());
}

#[test]
fn cancelling_one_session_leaves_the_other_alone() {
    let lab = Lab::new(Duration::from_secs(3600));
    let (mut one, _one_service, first) = lab.carry(1);
    let (mut two, mut two_service, _) = lab.carry(2);
    let order = Input::Cancel {
        id: first,
        cause: "an operator".to_owned(),
    };
    assert_eq!(lab.deadlines.enforcer().handle(order).unwrap().closed, 1);
    assert!(was_reset(&mut one));
    two.write_all(b"on").unwrap();
    let mut on = [0u8; 2];
    two_service.read_exact(&mut on).unwrap();
    assert_eq!(lab.end_of(first), EndReason::SessionCancelled);
}

#[test]
fn many_that_end_at_once_are_reset_at_both_ends() {
    let lab = Lab::new(Duration::from_secs(3600));
    let sessions: Vec<_> = (0..300).map(|number| lab.carry(number)).collect();
    let reason = EndReason::SessionCancelled;
    let close = |&(_, _, session): &_| Order::Close { session, reason };
    let orders: Vec<Order> = sessions.iter().map(close).collect();
    let mut closed = Vec::new();
    lab.door.apply(&orders, &mut |index, outcome| {
        assert!(matches!(outcome, Outcome::Closed(_)), "{index} {outcome:?}");
        closed.push(index);
    });
    assert!(closed.into_iter().eq(0..300));
    for (mut client, mut service, session) in sessions {
        assert!(was_reset(&mut client), "the client of {session}");
        assert!(was_reset(&mut service), "the service of {session}");
    }
}

#[test]
fn i1_a_session_whose_end_comes_late_moves_nothing_meanwhile() {
    let clock = Arc::new(LateClock::default());
    let lab = Lab::by(clock.clone(), Arc::new(Lifetime(Duration::from_secs(3600))));
    let (mut client, mut service, id) = lab.carry(1);
    let ((mut fence, near), (far, mut behind)) = (connected(), connected());
    lab.relay.adopt(near.into(), far.into(), u64::MAX).unwrap();
    client.write_all(b"on").unwrap();
    service.read_exact(&mut [0u8; 2]).unwrap();
    // The kernel's timer knows nothing of it, as if the process had been stopped: nobody ends the session.
    clock.0.store(7_200_000_000_000, Ordering::SeqCst);
    client.write_all(b"late").unwrap();
    for _ in 0..2 {
        fence.write_all(b"f").unwrap();
        behind.read_exact(&mut [0u8; 1]).unwrap();
    }
    assert_eq!(lab.door.activity(&[id]).first().unwrap().bytes_in, 2);
    lab.deadlines.enforcer().handle(Input::Contact).unwrap();
    assert_eq!(lab.end_of(id), EndReason::LifetimeExpired);
    assert!(was_reset(&mut client));
    assert_eq!(
        service.read(&mut [0u8; 4]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
}

#[test]
fn of_two_leases_the_one_that_was_given_last_holds() {
    let lab = Lab::new(Duration::from_secs(3600));
    let (mut client, mut service, session) = lab.carry(1);
    let lease = |number, until| Order::SetLease {
        session,
        lease: DoorLease { until, number },
    };
    let over = Some(BootClock.now().boot);
    // The second comes late: another thread had it in hand.
    let orders = [lease(u64::MAX, None), lease(u64::MAX - 1, over)];
    let mut outcomes = Vec::new();
    let answer = &mut |index, outcome| outcomes.push((index, outcome));
    lab.door.apply(&orders, answer);
    assert_eq!(outcomes, [(0, Outcome::Done), (1, Outcome::Done)]);
    service.write_all(b"on").unwrap();
    client.read_exact(&mut [0u8; 2]).unwrap();
}

#[test]
fn a_client_that_leaves_is_the_reason_on_record() {
    let lab = Lab::new(Duration::from_secs(3600));
    let (client, mut service, id) = lab.carry(1);
    drop(client);
    assert_eq!(service.read(&mut [0u8; 1]).unwrap(), 0);
    drop(service);
    assert_eq!(lab.end_of(id), EndReason::ClosedByClient);
}

#[test]
fn a_session_that_has_no_flow_yet_answers_that_it_moved_nothing() {
    let lab = Lab::of(Arc::new(Limited {
        idle_timeout: Some(Duration::from_millis(150)),
        ..Limited::default()
    }));
    let id = SessionId(uuid::Uuid::from_u128(1));
    let (opened_at, nobody) = (BootClock.now().boot, ([127, 0, 0, 1], 9).into());
    let open = Open {
        id,
        facts: alice(nobody, nobody, opened_at),
        peer: Peer::default(),
        decided_at: None,
    };
    // Its upstream is not connected.
    let opening = lab.door.open(open, None).unwrap();
    let answer = Activity {
        id,
        last: opened_at,
        bytes_in: 0,
        bytes_out: 0,
    };
    assert_eq!(lab.door.activity(&[id]), [answer]);
    let (session, at) = (id, opened_at);
    let reason = EndReason::LifetimeExpired;
    let deadline = Deadline { at, reason };
    let mut told = Vec::new();
    lab.door
        .apply(&[Order::Warn { session, deadline }], &mut |_, outcome| {
            told.push(outcome);
        });
    assert_eq!(told, [Outcome::Later]);
    assert_eq!(lab.end_of(id), EndReason::IdleTimeout);
    assert_eq!(opening.ended(), Some(EndReason::IdleTimeout));
}
