//! Segments in audit mode that overlap enforced ones: what they would have ended is put on record once, and the enforced
//! limits act (rule 13). A session whose segments are all in audit mode is no matter of this module.

use std::time::Duration;

use curfew_model::{BootInstant, Deadline, EndReason, EventKind, Lease, Mode, Provenance};
use curfew_policy::MatchedSegment;

use crate::{
    Engine,
    change::Why,
    class::{Class, all_audit},
    record::WouldEnd,
    timing::cause_of,
};

/// What the segments in audit mode would hold a session to.
#[derive(Debug)]
pub(crate) struct Shadow {
    lease: Lease,
    /// It is on record that they would have ended it.
    told: bool,
}

impl Shadow {
    pub(crate) fn new(lease: Lease) -> Self {
        Self { lease, told: false }
    }
}

/// Whether a segment that acted on a session only records from now on, while others act: what it set does not act any more.
fn is_only_recorded_now(old: &Class, segments: &[MatchedSegment]) -> bool {
    let acted = |segment: &&MatchedSegment| old.is_audit() || segment.mode == Mode::Enforce;
    let records = |old: &MatchedSegment| {
        let mut new = segments.iter();
        new.any(|new| new.name == old.name && new.mode == Mode::Audit)
    };
    !all_audit(segments) && old.segments.iter().filter(acted).any(records)
}

impl Engine {
    /// What they would hold a session to, until that is on record.
    pub(crate) fn shadow(&self, slot: u32) -> Option<&Lease> {
        if self.shadows.is_empty() {
            return None;
        }
        let shadow = self.shadows.get(&slot).filter(|shadow| !shadow.told)?;
        Some(&shadow.lease)
    }

    /// Whether what set a bound acts on, where one of these segments only records from now on: it is not of that one, nor of
    /// a sensitivity or a policy of none that acts.
    fn acts_on(&self, by: &Provenance, segments: &[MatchedSegment]) -> bool {
        let Provenance::Document { document, .. } = by else {
            return true;
        };
        let of = |mode| segments.iter().filter(move |segment| segment.mode == mode);
        match document.split_once('/') {
            Some(("Segment", name)) => !of(Mode::Audit).any(|it| it.name.as_str() == name),
            Some(("Defaults", word)) => of(Mode::Enforce).any(|it| it.sensitivity.as_str() == word),
            Some((_, name)) => of(Mode::Enforce).any(|it| self.set.leads_to(name, &it.name)),
            None => true,
        }
    }

    /// Holds a new decision about a session to what the one before it gave, as far as the look leaves that: lease to lease,
    /// but for what a segment set that acted and only records from now on, and shadow to shadow. Of each bound the strictest
    /// is known: what another set beside it is not.
    pub(crate) fn hold(
        &self,
        slot: u32,
        lease: &mut Lease,
        shadow: Option<Lease>,
        segments: &[MatchedSegment],
        why: Why,
    ) -> Option<Shadow> {
        let held = why.held(self.lease(slot).unwrap_or_default());
        let mut shadow = shadow.map(Shadow::new);
        match (&mut shadow, self.class(slot)) {
            (Some(shadow), Some(old)) if is_only_recorded_now(old, segments) => {
                let (acts, records) = held.divided(|by| self.acts_on(by, segments));
                lease.tighten(acts);
                shadow.lease.tighten(records);
            }
            _ => lease.tighten(held),
        }
        if let (Some(shadow), Some(old)) = (&mut shadow, self.shadows.get(&slot)) {
            shadow.lease.tighten(why.held(old.lease.clone()));
        }
        shadow
    }

    /// Puts a shadow in the place of the one before it. What is on record of a session stays told, whatever became of the
    /// modes of its segments.
    pub(crate) fn cast(&mut self, slot: u32, shadow: Option<Shadow>) {
        let old = self.shadows.remove(&slot);
        let audit = self.class(slot).is_some_and(Class::is_audit);
        let Some(record) = self.table.get_mut(slot) else {
            return;
        };
        let told = old.is_some_and(|old| old.told) || record.would_end != WouldEnd::No;
        if !audit {
            record.would_end = WouldEnd::No;
        } else if told && record.would_end == WouldEnd::No {
            record.would_end = WouldEnd::Yes;
        }
        let shadow = shadow.map(|shadow| (slot, Shadow { told, ..shadow }));
        self.shadows.extend(shadow);
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

    /// Notes that what they would do is on record; answers whether it was not before.
    pub(crate) fn mark_told(&mut self, slot: u32) -> bool {
        let shadow = self.shadows.get_mut(&slot);
        shadow.is_some_and(|shadow| !std::mem::replace(&mut shadow.told, true))
    }

    /// Puts on record that they would have ended a session, unless that is known already.
    pub(crate) fn tell_once(&mut self, slot: u32, reason: EndReason, cause: String) {
        if self.mark_told(slot) {
            self.mark_gone(slot);
            let (event, on) = (EventKind::SessionWouldEnd, self.decided_on(slot));
            self.record_on(on, slot, event, Some(reason), Some(cause));
        }
    }

    /// Puts on record that they would have ended a session at or before `now`. Its last payload is `known` when its door
    /// has just told it, else it counts once the door had its time to answer.
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
        if let Some(end) = ends.filter(|end| end.at <= now).min() {
            let cause = cause_of(lease, end);
            self.tell_once(slot, end.reason, cause);
        }
    }
}
