//! What becomes due: deadlines, warnings, looks at windows, idle probes, and the answers to them.

use std::{fmt::Write as _, time::Duration};

use curfew_model::{
    BootInstant, Deadline, EndReason, EventKind, Lease, Now, Provenance, SessionId,
};
use curfew_policy::ComingEnd;

use crate::{
    Action, Activity, DoorLease, Engine, Report,
    action::Fate,
    change::{Tightened, Why},
    class::{Ahead, nanos},
    record::{NEVER, WouldEnd},
};

/// How long a door may leave a probe unanswered before the session counts as idle.
const PATIENCE: Duration = Duration::from_secs(1);

/// Answers that are looked up together.
const LOOKED_UP: usize = 64;

/// A provenance in words for operators, a document with the revision of its set.
pub(crate) fn words(by: &Provenance) -> String {
    match by {
        Provenance::Document {
            document,
            field,
            place,
            revision,
        } => {
            // Where many end at once this is made for each of them: in one piece.
            let mut words = String::with_capacity(document.len() + field.len() + 64);
            words.extend([document.as_str(), " ", field.as_str()]);
            if let Some(place) = place {
                words.extend([" (", place.as_str(), ")"]);
            }
            let _ = write!(words, "@{revision}");
            words
        }
        Provenance::Credential => "credential".to_owned(),
        Provenance::Binding => "binding".to_owned(),
        Provenance::Order(order) => order.clone(),
    }
}

/// What set the deadline of `lease`, in words.
pub(crate) fn cause_of(lease: &Lease, deadline: Deadline) -> String {
    let bounds = [
        &lease.expires_at,
        &lease.reauth_by,
        &lease.credential_until,
        &lease.binding_until,
    ];
    let bound = bounds
        .into_iter()
        .flatten()
        .find(|b| b.at == deadline.at && b.reason == deadline.reason);
    let idle = lease.idle_timeout.as_ref().map(|(_, by)| by);
    let idle = idle.filter(|_| deadline.reason == EndReason::IdleTimeout);
    bound
        .map(|b| &b.by)
        .or(idle)
        .map_or_else(String::new, |by| words(by))
}

/// Whether an end that a window will bring comes before the lease's own. What a binding or a credential ends moves on,
/// and hides nothing.
pub(crate) fn is_ahead(lease: &Lease, coming: &ComingEnd) -> bool {
    let own = lease.warned_end();
    own.is_none_or(|own| coming.end.deadline() < own)
}

/// What is kept of such an end for a session with `lease`.
pub(crate) fn ahead(lease: &Lease, coming: &ComingEnd) -> Ahead {
    let end = coming.end.deadline();
    let before = lease.warn_before.max(coming.warn_before);
    Ahead {
        end,
        warn_at: before.map(|before| end.at.before(before)),
    }
}

impl Engine {
    /// The instant at which [`Engine::poll`] has something to do; at most early, never late.
    #[must_use]
    pub fn next_deadline(&self) -> Option<BootInstant> {
        let wheel = self.wheel.next(&self.table).map(BootInstant);
        wheel.into_iter().chain(self.next_loss()).min()
    }

    /// Does everything that is due at `now`.
    pub fn poll(&mut self, now: Now) {
        self.see(now);
        self.act_on_loss();
        self.fire_until(self.now.boot);
        self.flush_probes();
    }

    /// Fires everything that is due at `until`.
    pub(crate) fn fire_until(&mut self, until: BootInstant) {
        let mut moved = Vec::new();
        for slot in self.wheel.advance(&mut self.table, until.0) {
            if self.fire(slot, until) {
                moved.push(slot);
            }
        }
        // A window that opened may allow fewer at once.
        self.trim(&moved, &mut Report::default());
    }

    pub(crate) fn flush_probes(&mut self) {
        if !self.probes.is_empty() {
            self.out
                .push_back(Action::Probe(std::mem::take(&mut self.probes)));
        }
    }

    pub(crate) fn lease(&self, slot: u32) -> Option<Lease> {
        let record = self.table.get(slot)?;
        let ties = self.ties.get(record.ties)?;
        Some(self.classes.get(record.class)?.class.lease(record, ties))
    }

    /// When the door of a session stops by itself, as `lease` has it.
    pub(crate) fn door_until(&self, slot: u32, lease: &Lease) -> Option<BootInstant> {
        let acts = !self.class(slot)?.is_audit();
        let ahead = self.ahead(slot).map(|ahead| ahead.end);
        let ends = lease.fixed_deadline().into_iter().chain(ahead);
        ends.filter(|_| acts).map(|end| end.at).min()
    }

    /// The copy of `lease` for the door of a session.
    pub(crate) fn door_lease(&mut self, slot: u32, lease: &Lease) -> DoorLease {
        self.door_leases += 1;
        DoorLease {
            until: self.door_until(slot, lease),
            number: self.door_leases,
        }
    }

    /// The end that a client is warned of.
    pub(crate) fn warned_end(&self, slot: u32, lease: &Lease) -> Option<Deadline> {
        let ahead = self.ahead(slot).map(|ahead| ahead.end);
        ahead.or(lease.warned_end())
    }

    /// When a client is to be warned, and of what: nobody in audit mode, where nothing ends.
    fn warn_at(&self, slot: u32, lease: &Lease) -> Option<(BootInstant, Deadline)> {
        if self.class(slot)?.is_audit() {
            return None;
        }
        let end = self.warned_end(slot, lease)?;
        let at = match self.ahead(slot) {
            Some(ahead) => ahead.warn_at,
            None => lease.warn_before.map(|before| end.at.before(before)),
        };
        Some((at?, end))
    }

    fn ahead(&self, slot: u32) -> Option<Ahead> {
        self.ties.get(self.table.get(slot)?.ties)?.ahead
    }

    /// Arms the wheel for the next thing that can happen to a session.
    fn schedule(&mut self, slot: u32) {
        if let Some(lease) = self.lease(slot) {
            self.schedule_with(slot, &lease);
        }
    }

    /// [`Engine::schedule`] where the lease is at hand.
    pub(crate) fn schedule_with(&mut self, slot: u32, lease: &Lease) {
        self.wheel.disarm(&mut self.table, slot);
        let shadow_end = self.shadow_end(slot);
        let idle = self.idle_limit(slot, lease);
        let warn_at = self.warn_at(slot, lease);
        let Some(record) = self.table.get_mut(slot) else {
            return;
        };
        if record.closing.is_some() || record.would_end != WouldEnd::No {
            return;
        }
        let end = lease.fixed_deadline().map(|deadline| deadline.at);
        let mut wake = nanos(end).min(nanos(shadow_end));
        if let Some(idle) = idle {
            let idle = BootInstant(record.last).after(idle);
            if record.probing && idle > self.now.boot {
                // A renewal gave it more time: the answer does not matter any more.
                record.probing = false;
                self.probed.remove(&slot);
            }
            let probed = self.probed.get(&slot);
            let idle = probed.map_or(idle, |probed| probed.after(PATIENCE));
            wake = wake.min(idle.0);
        }
        if !record.warned
            && let Some((at, _)) = warn_at
        {
            wake = wake.min(at.0);
        }
        let ties = self.ties.get(record.ties);
        record.wake = wake.min(ties.map_or(NEVER, |ties| ties.look_again));
        if record.wake != NEVER {
            self.wheel.arm(&mut self.table, slot);
        }
    }

    /// Does what is due at `now` for one session, the earliest first. True if it lives, and was decided about again.
    fn fire(&mut self, slot: u32, now: BootInstant) -> bool {
        // Every instant is looked at once, whatever a look finds.
        let mut looked = None;
        while let (Some(lease), Some(record)) = (self.lease(slot), self.table.get(slot)) {
            let ties = self.ties.get(record.ties);
            let look_again = BootInstant(ties.map_or(NEVER, |ties| ties.look_again));
            let end = lease.fixed_deadline().filter(|end| end.at <= now);
            let probing = record.probing;
            let idle = self.idle_end(slot, &lease, now).filter(|_| probing);
            let end = end.into_iter().chain(idle).min();
            if look_again <= now
                && looked < Some(look_again)
                && end.is_none_or(|end| look_again <= end.at)
            {
                looked = Some(look_again);
                if self.review(slot, Why::Window(look_again)) != Fate::Lives {
                    return false;
                }
            } else if let Some(end) = end {
                self.tell_shadow(slot, BootInstant(end.at.0.saturating_sub(1)), false);
                let cause = cause_of(&lease, end);
                self.end(slot, end.reason, cause, Some(end.at));
                return false;
            } else {
                self.go_on(slot, &lease, now);
                return looked.is_some();
            }
        }
        false
    }

    /// A session that does not end at `now`: whether it is to be warned or asked, and when it is looked at again.
    fn go_on(&mut self, slot: u32, lease: &Lease, now: BootInstant) {
        self.tell_shadow(slot, now, false);
        self.warn(slot, lease, now);
        let idle = self.idle_limit(slot, lease);
        if let (Some(idle), Some(record)) = (idle, self.table.get_mut(slot))
            && !record.probing
            && BootInstant(record.last).after(idle) <= now
        {
            record.probing = true;
            self.probes.push(record.id);
            self.probed.insert(slot, self.now.boot);
        }
        self.schedule_with(slot, lease);
    }

    /// The end by idleness of a session whose door was asked and had its time to answer.
    pub(crate) fn idle_end(&self, slot: u32, lease: &Lease, now: BootInstant) -> Option<Deadline> {
        let last = BootInstant(self.table.get(slot)?.last);
        let (idle, _) = lease.idle_timeout.as_ref()?;
        let patient = self.probed.get(&slot)?.after(PATIENCE);
        let (deadline, _) = self.idle_deadline(slot, last.after(*idle));
        (deadline.at <= now && patient <= now).then_some(deadline)
    }

    /// The end of a session whose idle limit is passed at `due`, and whether it was due at that instant.
    fn idle_deadline(&self, slot: u32, due: BootInstant) -> (Deadline, bool) {
        match self.tightened.get(&slot) {
            Some(&Tightened { at, reason, timed }) if due <= at => (Deadline { at, reason }, timed),
            _ => {
                let reason = EndReason::IdleTimeout;
                (Deadline { at: due, reason }, true)
            }
        }
    }

    /// Has the door warn a client. Whether it did is for the door to say.
    fn warn(&mut self, slot: u32, lease: &Lease, now: BootInstant) {
        let Some((at, deadline)) = self.warn_at(slot, lease) else {
            return;
        };
        let Some(record) = self.table.get_mut(slot) else {
            return;
        };
        if record.warned || at > now {
            return;
        }
        record.warned = true;
        let id = record.id;
        self.out.push_back(Action::Warn { id, deadline });
    }

    /// The door can tell what it could not: the client is warned again, if it still has to be.
    pub(crate) fn hears(&mut self, id: SessionId) {
        if let Some(slot) = self.table.find(id)
            && let Some(lease) = self.lease(slot)
            && let Some(record) = self.table.get_mut(slot)
            && record.closing.is_none()
        {
            record.warned = false;
            self.go_on(slot, &lease, self.now.boot);
        }
    }

    /// Puts on record that the door warned a client.
    pub(crate) fn warned(&mut self, id: SessionId, deadline: Deadline) {
        let open = |slot: &u32| self.table.get(*slot).is_some_and(|r| r.closing.is_none());
        if let Some(slot) = self.table.find(id).filter(open) {
            let lease = self.lease(slot).unwrap_or_default();
            let held = self.warned_end(slot, &lease) == Some(deadline);
            let cause = held.then(|| self.cause_of_warned(slot, &lease, deadline));
            let (event, on) = (EventKind::SessionWarned, self.decided_on(slot));
            self.record_on(on, slot, event, Some(deadline.reason), cause);
        }
    }

    /// What set an end that was warned of, in words.
    fn cause_of_warned(&self, slot: u32, lease: &Lease, end: Deadline) -> String {
        let parts = self.parts(slot);
        let ahead = parts.and_then(|parts| parts.kept.class.ahead(parts.ties));
        let ahead = ahead.filter(|ahead| ahead.deadline() == end);
        ahead.map_or_else(|| cause_of(lease, end), |ahead| words(&ahead.by))
    }

    /// Takes over what a session moved, living or ended.
    pub(crate) fn moved(&mut self, activity: Activity) {
        self.moved_at(self.table.find(activity.id), activity);
    }

    /// The same of a session that was looked up.
    fn moved_at(&mut self, slot: Option<u32>, mut activity: Activity) {
        activity.last = activity.last.min(self.now.boot);
        match slot.and_then(|slot| self.table.get_mut(slot)) {
            Some(record) => record.moved(activity),
            None => self.ended_sessions.moved(activity),
        }
    }

    /// Takes over what sessions moved, and ends or leaves those that were probed; how many it ends. Nothing leaves the
    /// table meanwhile.
    pub(crate) fn activity(&mut self, seen: &[Activity]) -> u64 {
        let mut closed = 0;
        for some in seen.chunks(LOOKED_UP) {
            // Records lie far apart: looked up together, they come from memory together.
            let slots: Vec<Option<u32>> =
                some.iter().map(|seen| self.table.find(seen.id)).collect();
            for (slot, activity) in slots.into_iter().zip(some) {
                self.moved_at(slot, *activity);
                if let Some(slot) = slot {
                    closed += u64::from(self.answered(slot) == Fate::Closes);
                }
            }
        }
        closed
    }

    /// The door has said what a session moved.
    fn answered(&mut self, slot: u32) -> Fate {
        let now = self.now.boot;
        let Some(record) = self.table.get_mut(slot) else {
            return Fate::Lives;
        };
        if !record.probing || record.closing.is_some() {
            return Fate::Lives;
        }
        record.probing = false;
        self.probed.remove(&slot);
        let last = BootInstant(record.last);
        if let Some((idle, by)) = self.lease(slot).and_then(|lease| lease.idle_timeout)
            && last.after(idle) <= now
        {
            let (end, timed) = self.idle_deadline(slot, last.after(idle));
            self.tell_shadow(slot, BootInstant(end.at.0.saturating_sub(1)), true);
            return self.end(slot, end.reason, words(&by), timed.then_some(end.at));
        }
        self.tightened.remove(&slot);
        self.tell_shadow(slot, now, true);
        self.schedule(slot);
        Fate::Lives
    }
}
