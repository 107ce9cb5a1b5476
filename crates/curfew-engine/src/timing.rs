//! What becomes due: deadlines, warnings, looks at windows, idle probes, and the answers to them.

use std::time::Duration;

use curfew_model::{BootInstant, Deadline, EndReason, EventKind, Lease, Now, Provenance};

use crate::{Action, Activity, Engine, change::Why, record::NEVER};

/// How long a door may leave a probe unanswered before the session counts as idle.
const PATIENCE: Duration = Duration::from_secs(1);

/// A provenance in words for operators.
pub(crate) fn words(by: &Provenance) -> String {
    match by {
        Provenance::Document {
            document,
            field,
            place: None,
        } => format!("{document} {field}"),
        Provenance::Document {
            document,
            field,
            place: Some(place),
        } => {
            format!("{document} {field} ({place})")
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
    bound
        .map(|b| &b.by)
        .or(idle)
        .map_or_else(String::new, |by| words(by))
}

/// The end that a client is warned of: lifetime or re-authentication, whichever comes first (rule 11).
fn warned_end(lease: &Lease) -> Option<Deadline> {
    let bounds = [&lease.expires_at, &lease.reauth_by];
    bounds
        .into_iter()
        .flatten()
        .map(|b| Deadline {
            at: b.at,
            reason: b.reason,
        })
        .min()
}

fn warn_at(lease: &Lease) -> Option<(u64, Deadline)> {
    let before = u64::try_from(lease.warn_before?.as_nanos()).unwrap_or(NEVER);
    let end = warned_end(lease)?;
    Some((end.at.0.saturating_sub(before), end))
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
        for slot in self.wheel.advance(&mut self.table, self.now.boot.0) {
            self.fire(slot);
        }
        self.act_on_loss();
        self.flush_probes();
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
        Some(self.classes.get(record.class)?.lease(record, ties))
    }

    /// Arms the wheel for the next thing that can happen to a session.
    pub(crate) fn schedule(&mut self, slot: u32) {
        self.wheel.disarm(&mut self.table, slot);
        let Some(lease) = self.lease(slot) else {
            return;
        };
        let Some(record) = self.table.get_mut(slot) else {
            return;
        };
        if record.closing.is_some() || record.would_end {
            return;
        }
        let mut wake = lease
            .fixed_deadline()
            .map_or(NEVER, |deadline| deadline.at.0);
        if let Some((idle, _)) = lease.idle_timeout {
            let idle = BootInstant(record.last).after(idle).0;
            wake = wake.min(match self.probed.get(&slot) {
                Some(probed) if record.probing => probed.after(PATIENCE).0,
                _ => idle,
            });
        }
        if !record.warned
            && let Some((at, _)) = warn_at(&lease)
        {
            wake = wake.min(at);
        }
        wake = wake.min(
            self.ties
                .get(record.ties)
                .map_or(NEVER, |ties| ties.look_again),
        );
        record.wake = wake;
        if wake != NEVER {
            self.wheel.arm(&mut self.table, slot);
        }
    }

    fn fire(&mut self, slot: u32) {
        let now = self.now.boot;
        let Some(lease) = self.lease(slot) else {
            return;
        };
        let Some(record) = self.table.get(slot) else {
            return;
        };
        let (id, last, probing, warned) = (record.id, record.last, record.probing, record.warned);
        let look_again = self
            .ties
            .get(record.ties)
            .map_or(NEVER, |ties| ties.look_again);
        if let Some(end) = lease.fixed_deadline()
            && end.at <= now
        {
            let cause = cause_of(&lease, end);
            self.end(slot, end.reason, cause, Some(end.at));
            return;
        }
        if look_again <= now.0 && !self.review(slot, &Why::Window) {
            return;
        }
        if !warned
            && let Some((at, deadline)) = warn_at(&lease)
            && at <= now.0
        {
            if let Some(record) = self.table.get_mut(slot) {
                record.warned = true;
            }
            self.out.push_back(Action::Warn { id, deadline });
            let cause = cause_of(&lease, deadline);
            self.record(
                slot,
                EventKind::SessionWarned,
                Some(deadline.reason),
                Some(cause),
            );
        }
        if let Some((idle, by)) = &lease.idle_timeout {
            let at = BootInstant(last).after(*idle);
            let patient = self.probed.get(&slot).map(|probed| probed.after(PATIENCE));
            if at <= now && probing && patient.is_none_or(|until| until <= now) {
                self.end(slot, EndReason::IdleTimeout, words(by), Some(at));
                return;
            }
            if at <= now && !probing {
                self.probes.push(id);
                self.probed.insert(slot, now);
                if let Some(record) = self.table.get_mut(slot) {
                    record.probing = true;
                }
            }
        }
        self.schedule(slot);
    }

    pub(crate) fn activity(&mut self, activity: Activity) {
        let now = self.now.boot;
        let Some(slot) = self.table.find(activity.id) else {
            return;
        };
        let Some(record) = self.table.get_mut(slot) else {
            return;
        };
        record.last = record.last.max(activity.last.0.min(now.0));
        record.bytes_in = record.bytes_in.max(activity.bytes_in);
        record.bytes_out = record.bytes_out.max(activity.bytes_out);
        if !record.probing || record.closing.is_some() {
            return;
        }
        record.probing = false;
        self.probed.remove(&slot);
        let last = BootInstant(record.last);
        if let Some((idle, by)) = self.lease(slot).and_then(|lease| lease.idle_timeout)
            && last.after(idle) <= now
        {
            self.end(
                slot,
                EndReason::IdleTimeout,
                words(&by),
                Some(last.after(idle)),
            );
            return;
        }
        self.schedule(slot);
    }
}
