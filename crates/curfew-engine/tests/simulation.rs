//! Seeded runs of the engine against a world that loses, repeats and delays, with an oracle of its own for deadlines.
//! `CURFEW_SEEDS` sets how many seeds run.

#![cfg(test)]

mod support;

use std::collections::{BTreeMap, BTreeSet};

use curfew_engine::{Action, Activity, Bounds, Concerns, Engine, Input, Open, State};
use curfew_model::*;
use support::*;

const STEPS: u64 = 1_000;
const SERVICES: [&str; 3] = ["low", "high", "critical"];
const PEOPLE: [&str; 6] = ["alice", "bob", "carol", "dave", "erin", "frank"];

/// What the oracle knows of a session.
struct Expected {
    open: Open,
    service: usize,
    expires: u64,
    idle: u64,
    /// The door's truth.
    last: u64,
    probe_lost: bool,
}

struct World {
    seed: u64,
    random: Random,
    engine: Engine,
    boot: u64,
    wall_offset: i64,
    revision: u64,
    lifetimes: [u64; 3],
    idles: [u64; 3],
    model: BTreeMap<SessionId, Expected>,
    sockets: BTreeSet<SessionId>,
    ended: BTreeMap<SessionId, EndReason>,
    closed: BTreeMap<SessionId, EndReason>,
    blocked: BTreeMap<&'static str, RevocationId>,
    delayed: Vec<Input>,
    hits: BTreeMap<&'static str, u64>,
    opened: u64,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64) -> Self {
        let lifetimes = [300 * SECOND, 120 * SECOND, 40 * SECOND];
        let idles = [90 * SECOND, 30 * SECOND, 15 * SECOND];
        Self {
            seed,
            random: Random(seed),
            engine: Engine::new(policy(1, lifetimes, idles), Bounds::default(), nanos(1)),
            boot: 1,
            wall_offset: 0,
            revision: 1,
            lifetimes,
            idles,
            model: BTreeMap::new(),
            sockets: BTreeSet::new(),
            ended: BTreeMap::new(),
            closed: BTreeMap::new(),
            blocked: BTreeMap::new(),
            delayed: Vec::new(),
            hits: BTreeMap::new(),
            opened: 0,
            log: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        let mut now = nanos(self.boot);
        now.wall.0 += self.wall_offset;
        now
    }

    fn hit(&mut self, what: &'static str) {
        *self.hits.entry(what).or_default() += 1;
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
                Action::Close { id, reason, .. } => {
                    let again = self.closed.contains_key(&id);
                    let first = *self.closed.entry(id).or_insert(reason);
                    assert_eq!(first, reason, "seed {seed}: I8 one reason, {id}");
                    if !again {
                        self.justify(id, reason);
                    }
                    if self.random.below(8) == 0 {
                        self.hit("close lost");
                    } else {
                        self.sockets.remove(&id);
                        let reason = EndReason::ClosedByServer;
                        self.delayed.push(Input::Ended { id, reason });
                    }
                }
                Action::Probe(ids) => {
                    for id in ids {
                        let lost = self.random.below(20) == 0;
                        let Some(expected) = self.model.get_mut(&id) else {
                            continue;
                        };
                        if lost {
                            expected.probe_lost = true;
                            self.hit("probe lost");
                        } else if self.sockets.contains(&id) {
                            let last = BootInstant(expected.last);
                            let activity = Activity {
                                id,
                                last,
                                bytes_in: 1,
                                bytes_out: 1,
                            };
                            let now = self.now();
                            let _ = self.engine.handle(Input::Activity(activity), now);
                        }
                    }
                }
                Action::Record(event) if event.event == EventKind::SessionEnded => {
                    let (id, reason) = (event.session.unwrap(), event.reason.unwrap());
                    let twice = self.ended.insert(id, reason);
                    assert_eq!(twice, None, "seed {seed}: I8 recorded once, {id}");
                }
                _ => {}
            }
        }
    }

    /// A close says the truth: what it names has come by the oracle's own count.
    fn justify(&self, id: SessionId, reason: EndReason) {
        let (seed, Some(expected)) = (self.seed, self.model.get(&id)) else {
            return;
        };
        match reason {
            EndReason::LifetimeExpired | EndReason::PolicyChanged => {
                assert!(
                    expected.expires <= self.boot,
                    "seed {seed}: I8 early {reason}, {id}"
                );
            }
            EndReason::IdleTimeout => {
                let gone = !self.sockets.contains(&id);
                let idle = expected.last + expected.idle <= self.boot;
                assert!(
                    gone || expected.probe_lost || idle,
                    "seed {seed}: I8 not idle, {id}"
                );
            }
            EndReason::SubjectRevoked | EndReason::SessionCancelled => {}
            other => panic!("seed {seed}: I8 nothing asked for {other}, {id}"),
        }
    }

    fn check(&self) {
        let seed = self.seed;
        if let Err(broken) = self.engine.check() {
            panic!("seed {seed}: {broken}");
        }
        for id in self.engine.ids() {
            let view = self.engine.session(id).unwrap();
            let expected = &self.model[&id];
            if view.state == State::Open {
                assert!(
                    expected.expires > self.boot,
                    "seed {seed}: I1 on time, {id}"
                );
                let end = view.lease.fixed_deadline().unwrap().at.0;
                assert_eq!(
                    end, expected.expires,
                    "seed {seed}: I3, I6 strictest, unmoved by the wall clock, {id}"
                );
                assert!(
                    self.engine.next_deadline().unwrap().0 <= end,
                    "seed {seed}: I1 woken late"
                );
                assert!(
                    !self.ended.contains_key(&id),
                    "seed {seed}: I8 open after its end, {id}"
                );
            }
        }
    }

    fn open(&mut self) {
        let service = self.random.below(3) as usize;
        let who = PEOPLE[self.random.below(6) as usize];
        self.opened += 1;
        let now = self.now();
        let mut open = open(self.opened, who, SERVICES[service], now);
        if self.random.below(4) == 0 {
            open.decided_at = Some(Revision(self.revision.saturating_sub(self.random.below(3))));
            self.hit("decided on an older revision");
        }
        let id = open.id;
        let (lifetime, idle) = (self.lifetimes[service], self.idles[service]);
        let expected = Expected {
            open: open.clone(),
            service,
            expires: self.boot + lifetime,
            idle,
            last: self.boot,
            probe_lost: false,
        };
        self.model.insert(id, expected);
        self.sockets.insert(id);
        let again = open.clone();
        let answer = self.engine.open(open, now);
        if self.blocked.contains_key(who) {
            let reason = answer.as_ref().map_err(|refused| refused.reason).err();
            assert_eq!(
                reason,
                Some(EndReason::SubjectRevoked),
                "seed {}: I7 missed an order",
                self.seed
            );
        }
        if answer.is_err() {
            self.sockets.remove(&id);
        } else if self.random.below(5) == 0 {
            self.hit("open duplicated");
            assert_eq!(self.engine.open(again, now), answer, "seed {}", self.seed);
        }
        self.settle();
    }

    fn snapshot(&mut self) {
        let sockets: Vec<Open> = self
            .sockets
            .iter()
            .map(|id| self.model[id].open.clone())
            .collect();
        let taken_at = BootInstant(self.boot + 1);
        // An adopted session is one whose end was reported by mistake; none is adopted twice here.
        self.tell(Input::Snapshot {
            taken_at,
            sockets: sockets.clone(),
        });
        let known: BTreeSet<SessionId> = self.engine.ids().collect();
        let real: BTreeSet<SessionId> = sockets.iter().map(|socket| socket.open_id()).collect();
        assert!(known.is_subset(&real), "seed {}: I5 ghosts", self.seed);
    }

    fn step(&mut self) {
        match self.random.below(20) {
            0..=5 => self.open(),
            6..=8 => {
                let ids: Vec<SessionId> = self.sockets.iter().copied().collect();
                for id in ids {
                    if self.random.below(3) == 0 {
                        self.model.get_mut(&id).unwrap().last = self.boot;
                    }
                }
            }
            9..=10 if !self.delayed.is_empty() => {
                let index = self.random.below(self.delayed.len() as u64) as usize;
                let input = self.delayed.swap_remove(index);
                match self.random.below(4) {
                    0 => self.hit("input lost"),
                    1 => {
                        self.hit("input duplicated");
                        self.tell(input.clone());
                        self.tell(input);
                    }
                    _ => {
                        self.hit("input reordered");
                        self.tell(input);
                    }
                }
            }
            11 => {
                let who = PEOPLE[self.random.below(6) as usize];
                self.revision += 1;
                let id = RevocationId(uuid::Uuid::from_u64_pair(2, self.revision));
                let scope = Scope::Subject {
                    kind: Kind::User,
                    issuer: None,
                    id: who.to_owned(),
                };
                let order = Revocation {
                    id,
                    block: Block::UntilLifted,
                    scope,
                    reason: String::new(),
                    source: String::new(),
                    created_at: WallInstant(0),
                    revision: Revision(self.revision),
                    lifted_at: None,
                };
                if let Some(before) = self.blocked.insert(who, id) {
                    self.tell(Input::Lift(before));
                }
                self.tell(Input::Revoke(order.clone()));
                self.tell(Input::Revoke(order));
            }
            12 | 13 => {
                if let Some((_, id)) = self.blocked.pop_first() {
                    self.tell(Input::Lift(id));
                }
            }
            14 => self.policies(),
            15 => {
                let ids: Vec<SessionId> = self.engine.ids().collect();
                if let Some(&id) = ids.first() {
                    self.tell(Input::Cancel {
                        id,
                        cause: String::new(),
                    });
                }
            }
            16 => self.snapshot(),
            17 => {
                self.hit("wall clock step");
                self.wall_offset += self.random.below(7_200_000) as i64 - 3_600_000;
            }
            18 if self.random.below(8) == 0 => {
                self.hit("suspend");
                self.boot += 60 * SECOND;
            }
            19 if self.random.below(10) == 0 => {
                self.hit("door died");
                self.sockets.clear();
                self.snapshot();
            }
            _ => {}
        }
        if self.random.below(4) == 0 {
            self.hit("late poll");
            self.boot += self.random.below(5 * SECOND);
        } else {
            let next = self.engine.next_deadline().map_or(self.boot, |at| at.0);
            self.boot = self
                .boot
                .max(next.min(self.boot + self.random.below(SECOND)));
        }
        let now = self.now();
        self.engine.poll(now);
        self.settle();
        self.check();
    }

    fn policies(&mut self) {
        self.revision += 1;
        let service = self.random.below(3) as usize;
        self.lifetimes[service] = (20 + self.random.below(300)) * SECOND;
        self.idles[service] = (10 + self.random.below(60)) * SECOND;
        let segments = vec![SegmentName::new(SERVICES[service]).unwrap()];
        for expected in self.model.values_mut().filter(|e| e.service == service) {
            let due = expected.open.facts.opened_at.0 + self.lifetimes[service];
            expected.expires = expected.expires.min(due);
            expected.idle = expected.idle.min(self.idles[service]);
        }
        let concerns = Concerns::Only {
            segments,
            policies: vec![],
        };
        let set = policy(self.revision, self.lifetimes, self.idles);
        self.tell(Input::Policies { set, concerns });
    }
}

trait OpenId {
    fn open_id(&self) -> SessionId;
}

impl OpenId for Open {
    fn open_id(&self) -> SessionId {
        self.id
    }
}

fn policy(revision: u64, lifetimes: [u64; 3], idles: [u64; 3]) -> std::sync::Arc<Fake> {
    let rules = |i: usize| Rules {
        lifetime: lifetimes[i],
        idle: Some(idles[i]),
        ..Rules::default()
    };
    Fake::new(revision, (0..3).map(|i| (SERVICES[i].to_owned(), rules(i))))
}

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    assert!(world.opened >= 50, "seed {seed}: too few sessions");
    world
}

#[test]
fn the_invariants_hold_whatever_happens() {
    let seeds = std::env::var("CURFEW_SEEDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(80);
    let mut hits: BTreeMap<&'static str, u64> = BTreeMap::new();
    let mut reasons = BTreeSet::new();
    for seed in 0..seeds {
        let world = run(seed);
        world
            .hits
            .into_iter()
            .for_each(|(what, n)| *hits.entry(what).or_default() += n);
        reasons.extend(world.ended.into_values());
    }
    let faults = [
        "close lost",
        "decided on an older revision",
        "door died",
        "input duplicated",
        "input lost",
        "input reordered",
        "late poll",
        "open duplicated",
        "probe lost",
        "suspend",
        "wall clock step",
    ];
    assert_eq!(
        hits.keys().copied().collect::<Vec<_>>(),
        faults,
        "a kind of fault never came"
    );
    use EndReason::{
        IdleTimeout, LifetimeExpired, NetworkError, PolicyChanged, SessionCancelled, SubjectRevoked,
    };
    for reason in [
        SubjectRevoked,
        SessionCancelled,
        PolicyChanged,
        LifetimeExpired,
        IdleTimeout,
        NetworkError,
    ] {
        assert!(reasons.contains(&reason), "no session ended {reason}");
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7).log, run(7).log);
}
