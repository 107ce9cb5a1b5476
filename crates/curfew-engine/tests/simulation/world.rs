//! The world of a run: the door and its sessions live here, what happens in `steps`, and what must hold after each step
//! in `check`.

mod check;
mod steps;

use std::collections::{BTreeMap, BTreeSet};

use curfew_engine::{Action, Activity, Bounds, DoorLease, Engine, Input, Keeper, Open};
use curfew_model::*;

use crate::{
    oracle::{Claim, Oracle, Service, Session},
    support::{self, Fake, Random, Rules, SECOND},
};

const PEOPLE: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];
const MS: u64 = 1_000_000;

pub struct World {
    pub seed: u64,
    random: Random,
    engine: Engine,
    pub oracle: Oracle,
    wall_offset: i64,
    revision: u64,
    floor: u64,
    opens: BTreeMap<SessionId, Open>,
    /// What the door holds; of some the engine was never told.
    sockets: BTreeSet<SessionId>,
    /// The copies of leases that the door holds.
    leases: BTreeMap<SessionId, DoorLease>,
    pub closed: BTreeMap<SessionId, EndReason>,
    pub ended: BTreeMap<SessionId, EndReason>,
    pub refused: BTreeSet<EndReason>,
    /// Sessions that an overlapping segment in audit mode would have ended, or refused.
    shadowed: BTreeSet<SessionId>,
    /// Orders that block, by their place in the oracle.
    blocked: Vec<(usize, RevocationId)>,
    silent_until: u64,
    delayed: Vec<Input>,
    pub hits: BTreeMap<&'static str, u64>,
    pub opened: u64,
    pub log: Vec<String>,
}

fn services() -> Vec<Service> {
    let service = |name, lifetime, idle| Service {
        name,
        lifetime: lifetime * SECOND,
        idle: idle * SECOND,
        reauth: None,
        max: None,
        wait: 0,
        loss: None,
        audit: false,
        shadow: None,
        adopt_close: false,
        window: None,
        ceiling: None,
    };
    vec![
        Service {
            window: Some(400),
            shadow: Some(50 * SECOND),
            ..service("low", 300, 90)
        },
        Service {
            reauth: Some(80 * SECOND),
            max: Some(4),
            wait: 10 * SECOND,
            adopt_close: true,
            ..service("high", 120, 30)
        },
        Service {
            loss: Some(20 * SECOND),
            ceiling: Some((60, 75, 10 * SECOND)),
            ..service("critical", 40, 15)
        },
        Service {
            audit: true,
            ..service("watched", 60, 20)
        },
    ]
}

fn compile(revision: u64, services: &[Service]) -> std::sync::Arc<Fake> {
    let rules = |service: &Service| Rules {
        lifetime: service.lifetime,
        idle: Some(service.idle),
        reauth: service.reauth,
        max: service.max.and_then(|max| u32::try_from(max).ok()),
        reconnect: Reconnect {
            wait: std::time::Duration::from_nanos(service.wait),
            proof: false,
        },
        loss: LossRule {
            after: std::time::Duration::from_nanos(service.loss.unwrap_or(u64::MAX)),
            live: service.loss.map_or(LiveOnLoss::Keep, |_| LiveOnLoss::Close),
            new: service.loss.map_or(NewOnLoss::Allow, |_| NewOnLoss::Refuse),
        },
        mode: if service.audit {
            Mode::Audit
        } else {
            Mode::Enforce
        },
        shadow: service.shadow,
        adopt: if service.adopt_close {
            OnAdopt::Close
        } else {
            OnAdopt::Lease
        },
        window: service.window.map(|end| (0, end)),
        ceiling: service.ceiling,
        ..Rules::default()
    };
    Fake::new(
        revision,
        services.iter().map(|s| (s.name.to_owned(), rules(s))),
    )
}

/// When the agent starts: proof may be older.
const START: u64 = 100 * SECOND;

impl World {
    pub fn new(seed: u64) -> Self {
        let now = support::nanos(START);
        let oracle = Oracle {
            services: services(),
            claims: Vec::new(),
            orders: Vec::new(),
            sessions: BTreeMap::new(),
            would: BTreeMap::new(),
            last_ends: BTreeMap::new(),
            contact: START,
            boot: START,
            wall: now.wall.0,
            highest: (now.wall.0, START),
        };
        Self {
            seed,
            random: Random(seed),
            engine: Engine::new(compile(1, &oracle.services), Bounds::default(), now),
            oracle,
            wall_offset: 0,
            revision: 1,
            floor: 0,
            opens: BTreeMap::new(),
            sockets: BTreeSet::new(),
            leases: BTreeMap::new(),
            closed: BTreeMap::new(),
            ended: BTreeMap::new(),
            refused: BTreeSet::new(),
            shadowed: BTreeSet::new(),
            blocked: Vec::new(),
            silent_until: 0,
            delayed: Vec::new(),
            hits: BTreeMap::new(),
            opened: 0,
            log: Vec::new(),
        }
    }

    fn clock(&self) -> Now {
        support::stepped(support::nanos(self.oracle.boot), self.wall_offset)
    }

    fn now(&mut self) -> Now {
        let now = self.clock();
        self.oracle.look_at_clock(now.wall.0);
        now
    }

    fn hit(&mut self, what: &'static str) {
        *self.hits.entry(what).or_default() += 1;
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.random.below(n) == 0
    }

    fn person(&mut self) -> &'static str {
        PEOPLE[self.random.below(6) as usize]
    }

    fn tell(&mut self, input: Input) {
        let now = self.now();
        // Errors are answers to inputs that name what is gone.
        let _ = self.engine.handle(input, now);
        self.settle();
    }

    /// Carries out every action, as the door would.
    fn settle(&mut self) {
        let seed = self.seed;
        while let Some(action) = self.engine.poll_action() {
            self.log.push(format!("{action:?}"));
            match action {
                Action::Close { id, reason, .. } => self.close(id, reason),
                Action::Probe(ids) => ids.into_iter().for_each(|id| self.answer(id)),
                Action::Record(event) => {
                    let (Some(id), Some(reason)) = (event.session, event.reason) else {
                        continue;
                    };
                    if event.event == EventKind::SessionEnded {
                        let twice = self.ended.insert(id, reason);
                        assert_eq!(twice, None, "seed {seed}: I8 recorded once, {id}");
                    } else if self.is_shadowed(id) {
                        let twice = !self.shadowed.insert(id);
                        let just = reason == EndReason::LifetimeExpired && !twice;
                        assert!(just, "seed {seed}: I8 told again or untrue {reason}, {id}");
                        self.hit("audit mode would have ended it");
                    } else if event.event == EventKind::SessionWouldEnd {
                        let gone = !self.sockets.contains(&id);
                        let just = self.oracle.justifies(id, reason, gone);
                        assert!(just, "seed {seed}: I8 would not end {reason}, {id}");
                        self.oracle.would.entry(id).or_insert(reason);
                    }
                }
                Action::SetLease { id, lease } => self.hold(id, lease),
                Action::Warn { .. } => {}
            }
        }
    }

    /// Takes a copy of a lease, unless it comes late.
    fn hold(&mut self, id: SessionId, lease: DoorLease) {
        let held = self.leases.entry(id).or_default();
        if held.number < lease.number {
            *held = lease;
        }
    }

    fn close(&mut self, id: SessionId, reason: EndReason) {
        let seed = self.seed;
        let again = self.closed.contains_key(&id);
        let first = *self.closed.entry(id).or_insert(reason);
        assert_eq!(first, reason, "seed {seed}: I8 one reason, {id}");
        let known = self.oracle.sessions.contains_key(&id);
        if known {
            let gone = !self.sockets.contains(&id);
            let just = self.oracle.justifies(id, reason, gone);
            let session = &self.oracle.sessions[&id];
            let boot = self.oracle.boot;
            assert!(
                just,
                "seed {seed}: I8 untrue {reason} at {boot}, {id}: {session:?}"
            );
            self.oracle.closed(id, reason);
        } else {
            assert!(
                again || self.opens.contains_key(&id),
                "seed {seed}: closed what is not open"
            );
        }
        // The end of a session that was refused when it was found is carried out.
        if known && self.one_in(8) {
            self.hit("close lost");
        } else if self.sockets.remove(&id) {
            let reason = EndReason::ClosedByServer;
            self.delayed.push(Input::ended(id, reason));
        }
    }

    fn answer(&mut self, id: SessionId) {
        let lost = self.one_in(20);
        let boot = self.oracle.boot;
        let Some(session) = self.oracle.sessions.get_mut(&id) else {
            return;
        };
        if lost || !self.sockets.contains(&id) {
            session.unanswered = Some(boot);
            self.hit("probe lost");
            return;
        }
        let activity = Activity {
            id,
            last: BootInstant(session.last),
            bytes_in: 1,
            bytes_out: 1,
        };
        let now = self.now();
        let _ = self.engine.handle(Input::Activity(vec![activity]), now);
    }

    fn open(&mut self) {
        let service = self.random.below(4) as usize;
        let own = (!self.one_in(3)).then(|| self.person());
        let address = 0x0a00_0001 + self.random.below(6) as u32;
        self.opened += 1;
        let now = self.now();
        let name = self.oracle.services[service].name;
        let mut open = support::open(self.opened, own.unwrap_or(""), name, now);
        open.facts.client = (std::net::Ipv4Addr::from(address), 4_000).into();
        let credential = self
            .one_in(5)
            .then(|| (1 + self.random.below(200)) * SECOND);
        open.facts.credential_until =
            credential.map(|after| WallInstant(self.oracle.wall + (after / MS) as i64));
        if self.one_in(4) {
            let decided = self.revision.saturating_sub(self.random.below(3));
            open.decided_at = Some(Revision(decided.max(self.floor)));
            self.hit("decided on an older revision");
        }
        let id = open.id;
        self.opens.insert(id, open.clone());
        self.sockets.insert(id);
        if self.one_in(12) {
            self.hit("open lost");
            return;
        }
        let expected = self.expected(&open, service, credential);
        let expected = self.oracle.open(id, expected, false);
        let again = open.clone();
        let answer = self.engine.open(open, now);
        let got = answer
            .as_ref()
            .map(|_| ())
            .map_err(|refused| refused.reason);
        assert_eq!(
            got, expected,
            "seed {}: I7, I8 admission of {id}",
            self.seed
        );
        if let Ok(admitted) = answer {
            self.hold(id, admitted.for_door);
            if self.one_in(5) {
                self.hit("open duplicated");
                let second = self.engine.open(again, now).unwrap();
                self.hold(id, second.for_door);
                let same = (second.lease, second.for_door.until);
                assert_eq!(
                    same,
                    (admitted.lease, admitted.for_door.until),
                    "seed {}",
                    self.seed
                );
            }
        } else if let Err(reason) = got {
            self.refused.insert(reason);
            self.sockets.remove(&id);
        }
        self.settle();
    }

    fn expected(&self, open: &Open, service: usize, credential: Option<u64>) -> Session {
        let boot = self.oracle.boot;
        let own = open.facts.identities.first().map(|i| i.id.as_str());
        let std::net::IpAddr::V4(address) = open.facts.client.ip() else {
            panic!("an IPv4 address was made");
        };
        Session {
            service,
            opened_at: open.facts.opened_at.0,
            opened_rev: open.decided_at.map_or(self.revision, |revision| revision.0),
            own: own.and_then(|own| PEOPLE.into_iter().find(|name| *name == own)),
            address: address.to_bits(),
            bound: BTreeSet::new(),
            proved: None,
            bound_until: None,
            credential: credential.map(|after| boot + after),
            expires: 0,
            idle: 0,
            reauth: None,
            clock: 0,
            window: None,
            coming: None,
            last: boot,
            admitted: boot,
            unanswered: None,
            stricter: None,
            ordered: false,
            due: BTreeSet::new(),
        }
    }

    fn snapshot(&mut self) {
        self.now();
        let mut sockets: Vec<Open> = self
            .sockets
            .iter()
            .map(|id| self.opens[id].clone())
            .collect();
        // What has no socket any more ends; what nobody told of is adopted, the oldest first.
        let gone = |id: &&SessionId| !self.sockets.contains(id);
        let gone: Vec<SessionId> = self.oracle.sessions.keys().filter(gone).copied().collect();
        for id in gone {
            self.oracle.closed(id, EndReason::NetworkError);
        }
        sockets.sort_unstable_by_key(|open| (open.facts.opened_at, open.id));
        for open in &sockets {
            let known = self.oracle.sessions.contains_key(&open.id);
            if known || self.closed.contains_key(&open.id) {
                continue;
            }
            self.hit("adopted");
            let name = open.facts.target.service.as_ref().unwrap().as_str();
            let services = &self.oracle.services;
            let service = services.iter().position(|s| s.name == name).unwrap();
            let until = open.facts.credential_until;
            let credential =
                until.map(|until| (until.0 - self.oracle.wall).max(0).unsigned_abs() * MS);
            let expected = self.expected(open, service, credential);
            let answer = self
                .oracle
                .open(open.id, expected, open.decided_at.is_none());
            self.refused.extend(answer.err());
        }
        let taken_at = BootInstant(self.oracle.boot + 1);
        self.random.shuffle(&mut sockets);
        self.tell(Input::Snapshot { taken_at, sockets });
    }

    fn bindings(&mut self) {
        self.now();
        let keeper = self.random.below(2) as usize;
        let length = [32, 30, 24][self.random.below(3) as usize];
        let address = 0x0a00_0001 + self.random.below(6) as u32;
        let address = address & (u32::MAX << (32 - length));
        let (keepers, boot) = ([Keeper::Config, Keeper::State], self.oracle.boot);
        let net = ipnet::Ipv4Net::new(address.into(), length as u8).unwrap();
        let key = BindingKey::Address(net.into());
        let same = |c: &Claim| (c.keeper, c.address, c.length) == (keeper, address, length);
        let old = self.oracle.claims.iter().find(|c| same(c)).cloned();
        self.oracle.claims.retain(|claim| !same(claim));
        let reach = Claim {
            keeper,
            address,
            length,
            who: "",
            until: None,
            ends: None,
            refreshed: None,
        };
        if old.is_some() && self.one_in(3) {
            self.hit("binding removed");
            self.oracle.attribute(|address| reach.covers(address));
            self.tell(Input::BindingRemoved(keepers[keeper], key));
            return;
        }
        let who = match &old {
            Some(old) if !self.one_in(3) => old.who,
            _ => self.person(),
        };
        self.hit(if old.is_some_and(|old| old.who == who) {
            "binding refreshed"
        } else {
            "binding set"
        });
        let until = (!self.one_in(3)).then(|| (1 + self.random.below(120)) * SECOND);
        let refreshed = (!self.one_in(3)).then(|| self.random.below(60) * SECOND);
        let (wall, shown) = (self.oracle.wall, self.clock().wall.0);
        let ends = until.map(|after| wall + (after / MS) as i64);
        self.oracle.claims.push(Claim {
            who,
            until: until.map(|after| boot + after),
            ends,
            refreshed: refreshed.map(|ago| boot - ago),
            ..reach.clone()
        });
        self.oracle.attribute(|address| reach.covers(address));
        let binding = Binding {
            key,
            identity: support::user(who),
            groups: vec![],
            until: ends.map(WallInstant),
            refreshed_at: refreshed.map(|ago| WallInstant(shown - (ago / MS) as i64)),
        };
        self.tell(Input::BindingSet(keepers[keeper], binding));
    }
}
