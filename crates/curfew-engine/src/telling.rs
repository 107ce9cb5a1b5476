//! What goes on record, in which order and on which revision. Deciding may not live here.

use std::sync::Arc;

use curfew_model::{BootInstant, EndReason, EventKind, Revision};

use crate::{Action, Engine, Recorded, action::Coming, record::NEVER};

impl Engine {
    /// Puts on record what is decided of a session now.
    pub(crate) fn record(
        &mut self,
        slot: u32,
        event: EventKind,
        reason: Option<EndReason>,
        cause: Option<String>,
    ) {
        self.record_on(self.revision, slot, event, reason, cause);
    }

    /// The state that a session was last decided on: what becomes due was decided then.
    pub(crate) fn decided_on(&self, slot: u32) -> Revision {
        let ties = self.table.get(slot).and_then(|r| self.ties.get(r.ties));
        ties.map_or(self.revision, |ties| ties.decided_on)
    }

    /// Puts on record what became of a session by a decision on this state.
    pub(crate) fn record_on(
        &mut self,
        revision: Revision,
        slot: u32,
        event: EventKind,
        reason: Option<EndReason>,
        cause: Option<String>,
    ) {
        let Some(record) = self.table.get(slot) else {
            return;
        };
        let kept = self.classes.get(record.class);
        let comes = [EventKind::SessionOpened, EventKind::SessionRefused].contains(&event);
        let target = self.targets.get(record.target).filter(|_| comes);
        let expires_at = Some(record.expires).filter(|at| *at != NEVER);
        let recorded = Recorded {
            number: self.records,
            at: self.shown,
            event,
            session: Some(record.id),
            reason,
            revision,
            cause,
            who: self.whos.get(record.who).cloned(),
            segments: kept.map(|kept| kept.names.clone()),
            coming: target.map(|target| Coming {
                target: Arc::clone(target),
                policies: kept.map(|kept| Arc::clone(&kept.class.policies)),
                port: record.port,
                expires_at: expires_at.map(|at| self.clocks().wall_at(BootInstant(at))),
            }),
        };
        self.put(recorded);
    }

    /// Puts the end of a session on record, by a decision on this state, and keeps what is known of it.
    pub(crate) fn record_end(
        &mut self,
        revision: Revision,
        slot: u32,
        reason: EndReason,
        cause: Option<String>,
    ) {
        self.keep_ended(slot, reason, cause.clone());
        let event = EventKind::SessionEnded;
        self.record_on(revision, slot, event, Some(reason), cause);
    }

    pub(crate) fn note(&mut self, event: EventKind, cause: String) {
        self.put(Recorded {
            number: self.records,
            at: self.shown,
            event,
            session: None,
            reason: None,
            revision: self.revision,
            cause: Some(cause),
            who: None,
            segments: None,
            coming: None,
        });
    }

    fn put(&mut self, recorded: Recorded) {
        self.records += 1;
        self.out.push_back(Action::Record(recorded));
    }
}
