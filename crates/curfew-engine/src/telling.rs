//! What goes on record, in which order and on which revision. Deciding may not live here.

use curfew_model::{BootInstant, EndReason, EventKind};

use crate::{Action, Engine, Recorded, action::Coming, record::NEVER};

impl Engine {
    /// Puts on record what became of a session.
    pub(crate) fn record(
        &mut self,
        slot: u32,
        event: EventKind,
        reason: Option<EndReason>,
        cause: Option<String>,
    ) {
        let Some(record) = self.table.get(slot) else {
            return;
        };
        let kept = self.classes.get(record.class);
        // What was decided before comes due on the state of that time; all else is decided now.
        let came_due = event != EventKind::SessionOpened && reason.is_some_and(EndReason::is_timed);
        let decided_on = kept
            .filter(|_| came_due)
            .map(|kept| record.decided_on(&kept.class));
        let comes = [EventKind::SessionOpened, EventKind::SessionRefused].contains(&event);
        let target = self.targets.get(record.target).filter(|_| comes);
        let expires_at = Some(record.expires).filter(|at| *at != NEVER);
        let recorded = Recorded {
            number: self.records,
            at: self.now.wall,
            event,
            session: Some(record.id),
            reason,
            revision: decided_on.unwrap_or(self.revision),
            cause,
            who: self.whos.get(record.who).cloned(),
            segments: kept.map(|kept| kept.names.clone()),
            coming: target.map(|target| {
                Box::new(Coming {
                    target: target.clone(),
                    port: record.port,
                    expires_at: expires_at.map(|at| self.now.wall_at(BootInstant(at))),
                })
            }),
        };
        self.put(recorded);
    }

    /// Puts the end of a session on record, and keeps what is known of it.
    pub(crate) fn record_end(&mut self, slot: u32, reason: EndReason, cause: Option<String>) {
        self.keep_ended(slot, reason, cause.clone());
        self.record(slot, EventKind::SessionEnded, Some(reason), cause);
    }

    pub(crate) fn note(&mut self, event: EventKind, cause: String) {
        self.put(Recorded {
            number: self.records,
            at: self.now.wall,
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
