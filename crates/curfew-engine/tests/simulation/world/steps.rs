//! What happens in a run: one random happening a step, then time passes.

use curfew_engine::Input;
use curfew_model::*;
use curfew_policy::Difference;

use super::{MS, World, compile};
use crate::{oracle::Order, support::SECOND};

const LOW: usize = 0;
const HIGH: usize = 1;
const WATCHED: usize = 3;

impl World {
    pub fn step(&mut self) {
        match self.random.below(24) {
            0..=6 => self.open(),
            7..=9 => self.traffic(),
            10..=11 => self.deliver(),
            12 => self.revoke(),
            13 | 14 => self.lift(),
            15 => self.policies(),
            16 => self.cancel(),
            17 => self.snapshot(),
            18 | 19 => self.bindings(),
            20 => self.leave(),
            21 if self.one_in(8) => {
                self.hit("suspend");
                self.oracle.boot += 60 * SECOND;
            }
            21 if self.one_in(8) => {
                self.hit("door died");
                self.sockets.clear();
                self.snapshot();
            }
            21 if self.one_in(4) => {
                self.hit("clock accepted");
                let shown = self.clock().wall.0;
                self.oracle.accept_clock(shown);
                self.tell(Input::AcceptClock);
            }
            21 => {
                self.hit("wall clock step");
                // Windows are written from the start on.
                let first = -((self.oracle.boot / MS) as i64);
                self.wall_offset += self.random.below(7_200) as i64 * 50 - 180_000;
                self.wall_offset = self.wall_offset.max(first);
            }
            _ if self.one_in(40) => {
                self.hit("control plane silent");
                self.silent_until = self.oracle.boot + self.random.below(90) * SECOND;
            }
            _ => self.contact(),
        }
        self.pass_time();
        let now = self.now();
        self.engine.poll(now);
        self.settle();
        self.check();
    }

    fn pass_time(&mut self) {
        let boot = self.oracle.boot;
        if self.one_in(4) {
            self.hit("late poll");
            self.oracle.boot += self.random.below(5_000) * MS;
            return;
        }
        // As far as the next deadline, or some of the way.
        let next = self.engine.next_deadline().map_or(boot, |at| at.0);
        let next = next.min(boot + self.random.below(1_000) * MS);
        self.oracle.boot = boot.max(next.div_ceil(MS) * MS);
    }

    fn contact(&mut self) {
        if self.oracle.boot >= self.silent_until {
            self.oracle.contact = self.oracle.boot;
            self.tell(Input::Contact);
        }
    }

    fn traffic(&mut self) {
        let boot = self.oracle.boot;
        let ids: Vec<SessionId> = self.sockets.iter().copied().collect();
        for id in ids {
            if self.one_in(3)
                && let Some(session) = self.oracle.sessions.get_mut(&id)
            {
                session.last = boot;
            }
        }
    }

    /// What the door said earlier arrives, or does not, or twice; never in order.
    fn deliver(&mut self) {
        if self.delayed.is_empty() {
            return;
        }
        let index = self.random.below(self.delayed.len() as u64) as usize;
        let input = self.delayed.swap_remove(index);
        let times = match self.random.below(4) {
            0 => 0,
            1 => 2,
            _ => 1,
        };
        self.hit(["input lost", "input reordered", "input duplicated"][times]);
        for _ in 0..times {
            if let Input::Ended { id, reason, .. } = input {
                self.oracle.closed(id, reason);
            }
            self.tell(input.clone());
        }
    }

    /// A client goes; the door says so, some time.
    fn leave(&mut self) {
        let ids: Vec<SessionId> = self.sockets.iter().copied().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.below(ids.len() as u64) as usize];
        self.sockets.remove(&id);
        let reason = EndReason::ClosedByClient;
        self.delayed.push(Input::ended(id, reason));
    }

    fn revoke(&mut self) {
        let who = self.person();
        self.revision += 1;
        let id = RevocationId(uuid::Uuid::from_u64_pair(2, self.revision));
        let block = match self.random.below(3) {
            0 => Block::None,
            _ => Block::UntilLifted,
        };
        let order = Revocation {
            id,
            block,
            scope: Scope::Subject {
                kind: Kind::User,
                issuer: None,
                id: who.to_owned(),
            },
            reason: String::new(),
            source: String::new(),
            created_at: WallInstant(0),
            revision: Revision(self.revision),
            lifted_at: None,
        };
        let blocks = block == Block::UntilLifted;
        if blocks {
            self.blocked.push((self.oracle.orders.len(), id));
        }
        self.oracle.revoke(Order {
            who,
            revision: self.revision,
            blocks,
        });
        self.tell(Input::Revoke(order.clone()));
        self.tell(Input::Revoke(order));
        self.install();
    }

    fn lift(&mut self) {
        if !self.blocked.is_empty() {
            let (order, id) = self.blocked.remove(0);
            self.oracle.orders[order].blocks = false;
            self.tell(Input::Lift(id));
        }
        self.install();
    }

    /// The door follows the desired state, at a distance, and then says what it holds.
    fn install(&mut self) {
        if !self.one_in(4) {
            return;
        }
        self.snapshot();
        self.floor = self
            .floor
            .max(self.revision.saturating_sub(self.random.below(4)));
        self.tell(Input::Installed(Revision(self.floor)));
    }

    fn cancel(&mut self) {
        let ids: Vec<SessionId> = self.engine.ids().collect();
        if ids.is_empty() {
            return;
        }
        let id = ids[self.random.below(ids.len() as u64) as usize];
        if let Some(session) = self.oracle.sessions.get_mut(&id) {
            session.due.insert(EndReason::SessionCancelled);
        }
        let cause = String::new();
        self.tell(Input::Cancel { id, cause });
    }

    fn policies(&mut self) {
        self.now();
        self.revision += 1;
        let index = self.random.below(4) as usize;
        let mut service = self.oracle.services[index].clone();
        service.lifetime = (20 + self.random.below(300)) * SECOND;
        service.idle = (10 + self.random.below(60)) * SECOND;
        let wall = (self.oracle.wall - 1_000_000_000_000) / 1_000;
        let wall = wall.unsigned_abs();
        match index {
            LOW => {
                let end = wall + self.random.below(400);
                service.window = (!self.one_in(3)).then_some(end);
            }
            HIGH => {
                service.max = Some(1 + self.random.below(5) as usize);
                service.reauth = Some((40 + self.random.below(80)) * SECOND);
                service.adopt_close = self.one_in(2);
            }
            WATCHED => {
                service.audit = self.one_in(2);
                if service.audit != self.oracle.services[index].audit {
                    self.hit("mode changed");
                }
            }
            _ => {
                service.loss = Some((10 + self.random.below(40)) * SECOND);
                let from = wall + self.random.below(60);
                let lifetime = (5 + self.random.below(40)) * SECOND;
                let to = from + 5 + self.random.below(60);
                service.ceiling = (!self.one_in(3)).then_some((from, to, lifetime));
            }
        }
        let segments = vec![SegmentName::new(service.name).unwrap()];
        self.oracle.policies(index, service);
        let difference = Difference {
            segments,
            ..Difference::default()
        };
        let set = compile(self.revision, &self.oracle.services);
        self.tell(Input::Policies { set, difference });
    }
}
