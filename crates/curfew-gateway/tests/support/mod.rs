//! A gateway with one PostgreSQL service for the tests: policy, enforcer, door, relay and service together.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "each test file uses a part of it, and a helper that cannot go on fails its test"
)]

pub mod server;
pub mod wire;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Weak,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Duration,
};

use curfew_enforcer::{Deadlines, Door, Enforcer, Input, Record, Sink};
use curfew_engine::{Bounds, Engine};
use curfew_gateway::{
    door::GatewayDoor,
    protocol::Protocol,
    relay::{Relay, RelayConfig},
    service::{Away, Gateway, Service, ServiceConfig, TurnedAway},
};
use curfew_model::{Clock, EndReason, Event, EventKind, ServiceName, SessionId, UpstreamAddress};
use curfew_policy::Decide;
use curfew_testkit::{BootClock, Limited};
use parking_lot::Mutex;

/// What waiting for something may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// What the lab heard of.
#[derive(Debug)]
pub enum Heard {
    /// From the enforcer.
    Event(Event),
    /// From the service.
    TurnedAway(Away),
    /// From the enforcer.
    GoodbyeSkipped(SessionId),
}

struct Ear {
    sender: Mutex<mpsc::Sender<Heard>>,
    /// Held while nobody of the service is listened to.
    deaf: Mutex<()>,
    /// How many of the service talk.
    talking: AtomicUsize,
}

impl Sink for Ear {
    fn record(&self, records: Vec<Record>) {
        for record in records {
            let untold = record.close.is_some_and(|close| close.closed.untold);
            let event = record.recorded.into_event();
            if let Some(session) = event.session.filter(|_| untold) {
                let _ = self.sender.lock().send(Heard::GoodbyeSkipped(session));
            }
            let _ = self.sender.lock().send(Heard::Event(event));
        }
    }
}

impl TurnedAway for Ear {
    fn turned_away(&self, away: Away) {
        self.talking.fetch_add(1, Ordering::AcqRel);
        drop(self.deaf.lock());
        self.talking.fetch_sub(1, Ordering::AcqRel);
        let _ = self.sender.lock().send(Heard::TurnedAway(away));
    }
}

/// A running gateway.
pub struct Lab {
    // Dropped in this order: no new orders, the relay's flows, the service that cancels their queries.
    pub deadlines: Deadlines,
    relay: Arc<Relay>,
    service: Service,
    pub door: Arc<GatewayDoor>,
    heard: mpsc::Receiver<Heard>,
    ear: Arc<Ear>,
}

impl Lab {
    /// A gateway before `upstream` with these limits.
    pub fn new(upstream: UpstreamAddress, limits: Limited) -> Self {
        Self::with(upstream, limits, |_| {})
    }

    /// The same, with a change to the service.
    pub fn with(
        upstream: UpstreamAddress,
        limits: impl Decide + 'static,
        change: impl FnOnce(&mut ServiceConfig),
    ) -> Self {
        let door = Arc::new(GatewayDoor::default());
        let clock: Arc<dyn Clock> = Arc::new(BootClock);
        let relay = Arc::new(
            Relay::start(RelayConfig::default(), Arc::clone(&clock), door.clone()).unwrap(),
        );
        let (sender, heard) = mpsc::channel();
        let ear = Arc::new(Ear {
            sender: Mutex::new(sender),
            deaf: Mutex::default(),
            talking: AtomicUsize::default(),
        });
        let engine = Engine::new(Arc::new(limits), Bounds::default(), clock.now());
        let as_door: Arc<dyn Door> = door.clone();
        let weak: Weak<dyn Door> = Arc::downgrade(&as_door);
        let deadlines = Enforcer::start(engine, weak, Arc::clone(&clock), ear.clone()).unwrap();
        door.attach(Arc::downgrade(deadlines.enforcer()));
        let mut config = ServiceConfig::new(
            ServiceName::new("db").unwrap(),
            "127.0.0.1:0".parse().unwrap(),
            vec![upstream],
            Protocol::Postgres,
        );
        change(&mut config);
        let gateway = Gateway {
            door: Arc::clone(&door),
            relay: Arc::clone(&relay),
            clock,
            turned_away: ear.clone(),
        };
        let service = Service::start(config, gateway).unwrap();
        Self {
            deadlines,
            relay,
            service,
            door,
            heard,
            ear,
        }
    }

    /// Does this while every loop of the service is held up by a client of `held`, so that whoever connects meanwhile
    /// stays in the kernel's queue. `held` connects one that is turned away.
    pub fn while_held_up<C, T>(
        &mut self,
        held: impl Fn(SocketAddr) -> C,
        then: impl FnOnce(&mut Self) -> T,
    ) -> (Vec<C>, T) {
        let ear = Arc::clone(&self.ear);
        let _deaf = ear.deaf.lock();
        let hold = |nth| {
            let client = held(self.address());
            eventually("the next loop is held up", PATIENCE, || {
                self.ear.talking.load(Ordering::Acquire) == nth
            });
            client
        };
        let holding = (1..=RelayConfig::default().threads).map(hold).collect();
        (holding, then(self))
    }

    pub fn door_is_empty(&self) -> bool {
        self.door.snapshot().is_empty()
    }

    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    /// Waits for something that was heard.
    pub fn wait<T>(&self, what: &str, mut found: impl FnMut(Heard) -> Option<T>) -> T {
        loop {
            match self.heard.recv_timeout(PATIENCE) {
                Ok(heard) => {
                    if let Some(found) = found(heard) {
                        return found;
                    }
                }
                Err(_) => panic!("{what} was not heard of in time"),
            }
        }
    }

    /// The session that opens next.
    pub fn opened(&self) -> SessionId {
        self.wait("the opening", |heard| match heard {
            Heard::Event(event) if event.event == EventKind::SessionOpened => event.session,
            _ => None,
        })
    }

    /// Why the next session ends.
    pub fn ended(&self) -> EndReason {
        self.wait("the end", |heard| match heard {
            Heard::Event(event) if event.event == EventKind::SessionEnded => event.reason,
            _ => None,
        })
    }

    /// Whether a warning is on record before the next end.
    pub fn warned(&self) -> bool {
        self.wait("a warning or the end", |heard| match heard {
            Heard::Event(event) => match event.event {
                EventKind::SessionWarned => Some(true),
                EventKind::SessionEnded => Some(false),
                _ => None,
            },
            _ => None,
        })
    }

    /// Why the next client was turned away.
    pub fn turned_away(&self) -> EndReason {
        self.turned_away_as().0
    }

    /// The same, and the id on record.
    pub fn turned_away_as(&self) -> (EndReason, Option<SessionId>) {
        self.wait("the turning away", |heard| match heard {
            Heard::TurnedAway(away) => Some((away.reason, away.session)),
            _ => None,
        })
    }

    /// Cancels a session as an operator would.
    pub fn cancel(&self, id: SessionId) {
        let cause = "an operator".to_owned();
        let order = Input::Cancel { id, cause };
        self.deadlines.enforcer().handle(order).unwrap();
    }

    /// Takes nobody more.
    pub fn stop(&mut self) {
        self.service.stop();
    }

    /// Ends what is open, as a shutdown does.
    pub fn shut_down(&mut self) {
        self.stop();
        self.relay.shutdown(Duration::ZERO);
    }

    /// The relay takes nobody more.
    pub fn drain(&self) {
        self.relay.drain(Duration::ZERO);
    }
}

/// Looks until it is so.
pub fn eventually(what: &str, within: Duration, mut is_so: impl FnMut() -> bool) {
    let start = BootClock.now().boot;
    while !is_so() {
        let waited = BootClock.now().boot.since(start);
        assert!(waited < within, "{what}: not within {within:?}");
    }
}
