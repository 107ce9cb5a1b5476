//! What must hold after each step. Nothing happens here.

use std::collections::BTreeSet;

use curfew_engine::State;
use curfew_model::{BootInstant, SessionId};

use super::{Oracle, World};

impl World {
    pub(super) fn check(&self) {
        let (seed, boot) = (self.seed, self.oracle.boot);
        if let Err(broken) = self.engine.check() {
            panic!("seed {seed}: {broken}");
        }
        let open = |&id: &SessionId| {
            let view = self.engine.session(id);
            view.is_some_and(|view| view.state == State::Open)
        };
        let open: BTreeSet<SessionId> = self.engine.ids().filter(open).collect();
        let expected: BTreeSet<SessionId> = self.oracle.sessions.keys().copied().collect();
        let ghosts: Vec<_> = open.symmetric_difference(&expected).collect();
        assert!(
            ghosts.is_empty(),
            "seed {seed}: I5 open is not what should be: {ghosts:?}"
        );
        for (&id, session) in &self.oracle.sessions {
            let gone = !self.sockets.contains(&id);
            let audit = self.oracle.services[session.service].audit;
            let overdue = self.oracle.overdue(id, gone);
            let told = audit && self.oracle.would.contains_key(&id);
            if let Some(why) = overdue
                && !told
            {
                panic!("seed {seed}: I1 on time, at {boot} {why}, {id}: {session:?}");
            }
            assert!(
                !self.ended.contains_key(&id),
                "seed {seed}: I8 open after its end, {id}"
            );
            assert!(
                !self.is_shadowed(id) || self.shadowed.contains(&id),
                "seed {seed}: I8 audit mode tells what it would end, {id}"
            );
            let held = self.leases.get(&id).and_then(|lease| lease.until);
            let leased = Oracle::leased(session, boot);
            let own = (!audit).then_some(BootInstant(self.oracle.held(session)));
            assert_eq!(held, own, "seed {seed}: I1 the door stops by itself, {id}");
            if told {
                continue;
            }
            let view = self.engine.session(id).unwrap();
            let end = view.lease.fixed_deadline().unwrap().at.0;
            assert_eq!(
                end, leased,
                "seed {seed}: I3, I6 strictest, unmoved by clocks, {id}"
            );
            let names: BTreeSet<_> = view.facts.identities.into_iter().map(|i| i.id).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let expected: Vec<&str> = session.names().into_iter().collect();
            assert_eq!(names, expected, "seed {seed}: I7 attributed, {id}");
            let (end, _) = self.oracle.timed(session).unwrap();
            let next = self.engine.next_deadline().unwrap().0;
            assert!(next <= end, "seed {seed}: I1 woken late, {id}");
        }
    }

    /// Whether a session has outlived what an overlapping segment in audit mode gives it.
    pub(super) fn is_shadowed(&self, id: SessionId) -> bool {
        let session = self.oracle.sessions.get(&id);
        session.is_some_and(|session| {
            let shadow = self.oracle.services[session.service].shadow;
            shadow.is_some_and(|shadow| session.opened_at + shadow <= self.oracle.boot)
        })
    }
}
