//! Opening: register, decide on the engine's own copy, re-check orders, loss, reconnecting and concurrency (I7).

use curfew_model::{EndReason, EventKind, Lease, Mode, Now, OnAdopt, Sensitivity};
use curfew_policy::{Decision, Refusal, Verdict};

use crate::{
    Action, Admitted, AuditLog, Engine, Open, Refused,
    class::{Class, all_audit},
    record::Record,
    shadow::Shadow,
    timing::{cause_of, is_ahead},
    who,
};

/// A reason to refuse, and whether it acts.
pub(crate) type Objection = (EndReason, String, Mode);

/// How a session comes to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The door asks, or tells of what it decided itself.
    Asked,
    /// Its socket was found, and nobody asked.
    Found,
}

/// The lease of a verdict, and why it is refused if it is.
pub(crate) fn split(verdict: Verdict) -> (Lease, Option<Refusal>) {
    match verdict {
        Verdict::Admit(lease) => (lease, None),
        Verdict::Refuse(mut refusal) => (std::mem::take(&mut refusal.lease), Some(refusal)),
    }
}

impl Engine {
    /// Decides about a new session and holds it. The same id again gives the same answer. A session that the door
    /// already admitted on an older revision is decided again, and closed if it is refused.
    ///
    /// # Errors
    /// [`Refused`] with the reason and its cause.
    pub fn open(&mut self, open: Open, now: Now) -> Result<Admitted, Refused> {
        self.poll(now);
        self.admit(open, Entry::Asked)
    }

    pub(crate) fn admit(&mut self, open: Open, entry: Entry) -> Result<Admitted, Refused> {
        let Open {
            id,
            mut facts,
            peer,
            decided_at,
        } = open;
        facts.client.set_ip(facts.client.ip().to_canonical());
        facts.identities.sort_unstable();
        let (bound, proof) = self.known(&facts.identities, facts.client.ip(), &peer);
        let mut bytes = std::mem::take(&mut self.scratch);
        who::encode(&mut bytes, &facts, &bound, &peer);
        // What is looked up lies far apart: looked up together, it comes from memory together.
        let same = self.table.find(id);
        let who = self.seek_who(&bytes);
        let target = self.targets.seek_equal(&facts.target);
        if let Some(slot) = same {
            self.scratch = bytes;
            return self.again(slot);
        }
        who::merge(&mut facts, &bound);
        let mut ties = self.tie(&mut facts, proof);
        let Decision {
            segments,
            policies,
            verdict,
            look_again_at,
            shadow,
            coming,
        } = self.set.decide(&facts, self.now);
        let (lease, refusal) = split(verdict);
        let coming = coming.filter(|coming| is_ahead(&lease, coming));
        self.tie_lease(
            &mut ties,
            &lease,
            coming.as_ref(),
            (look_again_at, self.now),
        );
        let class = Class::new(segments, policies, &lease, coming.as_ref());
        let opened_rev = decided_at.unwrap_or(self.revision).0;

        let whole = if all_audit(&class.segments) {
            Mode::Audit
        } else {
            Mode::Enforce
        };
        let mut objections: Vec<Objection> = Vec::new();
        if let Some(refusal) = refusal {
            let mode = if refusal.audit_only {
                Mode::Audit
            } else {
                Mode::Enforce
            };
            objections.push((refusal.reason, refusal.cause, mode));
        }
        if let Some(end) = lease.deadline(self.now.boot.max(facts.opened_at))
            && end.at <= self.now.boot
        {
            objections.push((end.reason, cause_of(&lease, end), whole));
        }
        let mut overdue = None;
        if let Some(shadow) = &shadow
            && let Some(end) = shadow.fixed_deadline()
            && end.at <= self.now.boot
        {
            objections.push((end.reason, cause_of(shadow, end), Mode::Audit));
            overdue = Some(end.reason);
        }
        if let Some((reason, cause)) = self.ordered_out(id, &facts, &class, opened_rev) {
            objections.push((reason, cause, whole));
        }
        self.object_by_segment(&class, entry, decided_at.is_none(), &mut objections);
        let retry_at = self.object_to_reconnecting(&facts, &class, &mut objections);
        if self.table.len() >= self.bounds.sessions {
            let cause = format!("{} sessions are open", self.bounds.sessions);
            objections.push((EndReason::Overloaded, cause, Mode::Enforce));
        }

        // Register, so that concurrency counts it, then re-check.
        let mut record = Record::new(id, facts.client.port(), facts.opened_at.0);
        record.opened_rev = opened_rev;
        record.last = self.now.boot.max(facts.opened_at).0;
        record.set_bounds(&lease);
        record.target = self.targets.take(target, || facts.target.into()).0;
        record.ties = self.ties.acquire(ties);
        let slot = self.table.insert(record);
        self.join_who(slot, &bytes, who);
        self.scratch = bytes;
        self.join_class(slot, class);
        let shadow = shadow.map(Shadow::new);
        self.shadows.extend(shadow.map(|shadow| (slot, shadow)));
        self.count(slot);
        *self.ages.entry(opened_rev).or_default() += 1;
        if let Some((cause, mode)) = self.refuses_by_count(slot) {
            objections.push((EndReason::ConcurrencyExceeded, cause, mode));
        }
        objections.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let refusing = objections
            .iter()
            .position(|(_, _, mode)| *mode == Mode::Enforce);
        if let Some(refusing) = refusing {
            let (reason, cause, _) = objections.swap_remove(refusing);
            let told = Some(cause.clone());
            self.keep_refused(slot, reason, cause.clone());
            self.record(slot, EventKind::SessionRefused, Some(reason), told);
            self.forget(slot);
            if decided_at.is_some() || entry == Entry::Found {
                self.out.push_back(Action::Close {
                    id,
                    reason,
                    deadline: None,
                });
            }
            return Err(Refused {
                reason,
                cause,
                retry_at: retry_at.filter(|_| reason == EndReason::LifetimeExpired),
            });
        }
        self.record(slot, EventKind::SessionOpened, None, None);
        if let Some((reason, cause, _)) = objections.into_iter().next() {
            let kind = EventKind::SessionWouldRefuse;
            self.record(slot, kind, Some(reason), Some(cause));
            self.mark_gone(slot);
            if overdue == Some(reason) {
                // It would end for what it would be refused for: that is told.
                self.mark_told(slot);
            }
        }
        let for_door = self.door_lease(slot, &lease);
        if decided_at.is_some() || entry == Entry::Found {
            self.out.push_back(Action::SetLease {
                id,
                lease: for_door,
            });
        }
        self.schedule_with(slot, &lease);
        let names = self.names(slot);
        Ok(Admitted {
            lease,
            segments: names,
            for_door,
        })
    }

    fn names(&self, slot: u32) -> std::sync::Arc<[curfew_model::SegmentName]> {
        let record = self.table.get(slot);
        let kept = record.and_then(|record| self.classes.get(record.class));
        kept.map_or_else(Default::default, |kept| kept.names.clone())
    }

    fn again(&mut self, slot: u32) -> Result<Admitted, Refused> {
        let record = self.table.get(slot);
        if let Some(reason) = record.and_then(|record| record.closing) {
            return Err(Refused {
                reason,
                cause: "the session is closing".to_owned(),
                retry_at: None,
            });
        }
        let lease = self.lease(slot).unwrap_or_default();
        Ok(Admitted {
            segments: self.names(slot),
            for_door: self.door_lease(slot, &lease),
            lease,
        })
    }

    fn object_by_segment(
        &self,
        class: &Class,
        entry: Entry,
        undecided: bool,
        objections: &mut Vec<Objection>,
    ) {
        for segment in &class.segments {
            let say = |what: &str| format!("segment {}: {what}", segment.name);
            if self.refuses_by_loss(segment.on_control_plane_loss) {
                let cause = say("the control plane was not heard");
                objections.push((EndReason::ControlPlaneLost, cause, segment.mode));
            }
            if self.audit == AuditLog::Full && segment.sensitivity >= Sensitivity::High {
                let cause = say("the audit log is full");
                objections.push((EndReason::Overloaded, cause, segment.mode));
            }
            let older = entry == Entry::Found && undecided;
            if older && segment.on_adopt == OnAdopt::Close {
                let cause = say("onAdopt is close");
                objections.push((EndReason::AccessDenied, cause, segment.mode));
            }
        }
    }
}
