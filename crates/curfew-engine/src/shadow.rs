//! Segments in audit mode that overlap enforced ones: what they would have ended is put on record once, and the enforced
//! limits act (rule 13). A session whose segments are all in audit mode is no matter of this module.

use std::time::Duration;

use curfew_model::{BootInstant, Deadline, EndReason, EventKind, Lease};

use crate::{Engine, change::Why, timing::cause_of};

/// What the segments in audit mode would hold a session to.
#[derive(Debug)]
pub(crate) struct Shadow {
    lease: Lease,
    /// It is on record that they would have ended it.
    told: bool,
}

impl Engine {
    /// Takes what a decision about a session says of its segments in audit mode.
    pub(crate) fn set_shadow(&mut self, slot: u32, lease: Option<Lease>, why: Option<Why>) {
        let old = self.shadows.remove(&slot);
        let Some(mut lease) = lease else {
            return;
        };
        let told = old.as_ref().is_some_and(|old| old.told);
        if let Some((why, old)) = why.zip(old) {
            lease.tighten(why.held(old.lease));
        }
        self.shadows.insert(slot, Shadow { lease, told });
    }

    /// What they would hold it to, until that is on record.
    fn shadow(&self, slot: u32) -> Option<&Lease> {
        if self.shadows.is_empty() {
            return None;
        }
        let shadow = self.shadows.get(&slot).filter(|shadow| !shadow.told)?;
        Some(&shadow.lease)
    }

    /// When they would end it, activity aside.
    pub(crate) fn shadow_end(&self, slot: u32) -> Option<BootInstant> {
        let end = self.shadow(slot)?.fixed_deadline()?;
        Some(end.at)
    }

    /// After how long without payload something is to be done about a session: it ends, or that it would is told.
    pub(crate) fn idle_limit(&self, slot: u32, lease: &Lease) -> Option<Duration> {
        let shadow = self
            .shadow(slot)
            .and_then(|lease| lease.idle_timeout.as_ref());
        let limits = lease.idle_timeout.iter().chain(shadow);
        limits.map(|(idle, _)| *idle).min()
    }

    /// Puts on record that they would have ended a session by `now`. Its last payload is `known` when its door has just
    /// told it, else it counts once the door had its time to answer.
    pub(crate) fn tell_shadow(&mut self, slot: u32, now: BootInstant, known: bool) {
        let (Some(lease), Some(record)) = (self.shadow(slot), self.table.get(slot)) else {
            return;
        };
        let by_idle = if known {
            let idle = lease.idle_timeout.as_ref();
            idle.map(|(idle, _)| Deadline {
                at: BootInstant(record.last).after(*idle),
                reason: EndReason::IdleTimeout,
            })
        } else {
            self.idle_end(slot, lease, now).filter(|_| record.probing)
        };
        let ends = lease.fixed_deadline().into_iter().chain(by_idle);
        let Some(end) = ends.filter(|end| end.at <= now).min() else {
            return;
        };
        let cause = Some(cause_of(lease, end));
        if let Some(shadow) = self.shadows.get_mut(&slot) {
            shadow.told = true;
        }
        self.record(slot, EventKind::SessionWouldEnd, Some(end.reason), cause);
    }
}
