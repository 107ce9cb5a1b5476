//! Opening: register, decide on the engine's own copy, re-check orders, loss, reconnecting and concurrency (I7).

use curfew_model::{EndReason, EventKind, Mode, Now, OnAdopt, Sensitivity};
use curfew_policy::Verdict;

use crate::{
    Action, Admitted, AuditLog, Engine, LastEnd, Open, Refused,
    record::{NIL, Record},
    session::{Class, Who, all_audit, subject_text},
    timing::cause_of,
};

/// A reason to refuse, and whether it acts.
type Objection = (EndReason, String, Mode);

/// How a session comes to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// The door asks, or tells of what it decided itself.
    Asked,
    /// Its socket was found, and nobody asked.
    Found,
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
        if let Some(slot) = self.table.find(id) {
            return self.again(slot);
        }
        let (bindings, ties) = self.attribute(&mut facts, &peer);
        let decision = self.set.decide(&facts, self.now);
        let (lease, refusal) = match &decision.verdict {
            Verdict::Admit(lease) => (lease.clone(), None),
            Verdict::Refuse(refusal) => (refusal.lease.clone(), Some(refusal)),
        };
        let whole = if all_audit(&decision.segments) {
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
            objections.push((refusal.reason, refusal.cause.clone(), mode));
        }
        if let Some(end) = lease.deadline(self.now.boot.max(facts.opened_at))
            && end.at <= self.now.boot
        {
            objections.push((end.reason, cause_of(&lease, end), whole));
        }
        let who = Who {
            identities: facts.identities.clone().into(),
            groups: facts.groups.clone().into(),
            device: facts.device.clone(),
            attributes: facts.attributes.clone(),
            ambiguous: facts.ambiguous,
            bindings,
        };
        let class = Class::new(&decision, self.set.revision(), &lease);
        let opened_rev = decided_at.unwrap_or(self.revision).0;
        if let Some((reason, cause)) = self.ordered_out(id, &who, &class, opened_rev) {
            objections.push((reason, cause, whole));
        }
        self.object_by_segment(&facts, &class, &mut objections);
        if entry == Entry::Found && decided_at.is_none() {
            let closing = class
                .segments
                .iter()
                .filter(|s| s.on_adopt == OnAdopt::Close);
            objections.extend(closing.map(|segment| {
                let cause = format!("segment {}: onAdopt is close", segment.name);
                (EndReason::AccessDenied, cause, segment.mode)
            }));
        }
        if self.table.len() >= self.bounds.sessions {
            let cause = format!("{} sessions are open", self.bounds.sessions);
            objections.push((EndReason::Overloaded, cause, Mode::Enforce));
        }
        // Register, so that concurrency counts it, then re-check.
        let mut record = Record::new(id, facts.client, facts.opened_at.0);
        record.opened_rev = opened_rev;
        record.last = self.now.boot.max(facts.opened_at).0;
        let slot = self.table.insert(record);
        self.join_who(slot, who);
        let (target, _) = self.targets.acquire(facts.target);
        if let Some(record) = self.table.get_mut(slot) {
            record.target = target;
            record.class = NIL;
        }
        self.place(slot, &decision, &lease, ties);
        if let Some((cause, mode)) = self.excess(slot) {
            objections.push((EndReason::ConcurrencyExceeded, cause, mode));
        }
        objections.sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        if let Some((reason, cause, _)) = objections.iter().find(|o| o.2 == Mode::Enforce).cloned()
        {
            self.record(
                slot,
                EventKind::SessionRefused,
                Some(reason),
                Some(cause.clone()),
            );
            self.forget(slot);
            if decided_at.is_some() || entry == Entry::Found {
                self.out.push_back(Action::Close {
                    id,
                    reason,
                    deadline: None,
                });
            }
            return Err(Refused { reason, cause });
        }
        self.record(slot, EventKind::SessionOpened, None, None);
        if let Some((reason, cause, _)) = objections.into_iter().next() {
            self.record(
                slot,
                EventKind::SessionWouldRefuse,
                Some(reason),
                Some(cause),
            );
        }
        let until = lease.fixed_deadline().map(|end| end.at);
        self.out.push_back(Action::SetLease { id, until });
        self.schedule(slot);
        let segments = decision.segments.into_iter().map(|s| s.name).collect();
        Ok(Admitted { lease, segments })
    }

    fn again(&self, slot: u32) -> Result<Admitted, Refused> {
        let record = self.table.get(slot);
        if let Some(reason) = record.and_then(|record| record.closing) {
            return Err(Refused {
                reason,
                cause: "the session is closing".to_owned(),
            });
        }
        let class = record.and_then(|record| self.classes.get(record.class));
        let segments = class.map(|c| c.segments.iter().map(|s| s.name.clone()).collect());
        Ok(Admitted {
            lease: self.lease(slot).unwrap_or_default(),
            segments: segments.unwrap_or_default(),
        })
    }

    fn object_by_segment(
        &self,
        facts: &curfew_model::Facts,
        class: &Class,
        objections: &mut Vec<Objection>,
    ) {
        let now = self.now.boot;
        for segment in &class.segments {
            let say = |what: &str| format!("segment {}: {what}", segment.name);
            if self.refuses_by_loss(segment.on_control_plane_loss) {
                let cause = say("the control plane was not heard");
                objections.push((EndReason::ControlPlaneLost, cause, segment.mode));
            }
            if self.audit == AuditLog::Full && segment.sensitivity >= Sensitivity::High {
                objections.push((
                    EndReason::Overloaded,
                    say("the audit log is full"),
                    segment.mode,
                ));
            }
            if self.last_ends.is_empty() {
                continue;
            }
            let subject = subject_text(facts.subject(), facts.client);
            let Some(&end) = self.last_ends.get(&(subject, segment.name.clone())) else {
                continue;
            };
            let rule = segment.reconnect;
            if now < curfew_model::BootInstant(end).after(rule.wait) {
                let cause = say("reconnecting has to wait after an end by lifetime");
                objections.push((EndReason::LifetimeExpired, cause, segment.mode));
            }
            if rule.proof && facts.proved_at.is_none_or(|proved| proved.0 <= end) {
                let cause = say("reconnecting after an end by lifetime needs fresh proof");
                objections.push((EndReason::ReauthOverdue, cause, segment.mode));
            }
        }
    }

    /// The last ends by lifetime, sorted, for the enforcer to keep.
    #[must_use]
    pub fn last_ends(&self) -> Vec<LastEnd> {
        let end = |((subject, segment), at): (&(String, _), &u64)| LastEnd {
            subject: subject.clone(),
            segment: Clone::clone(segment),
            at: curfew_model::BootInstant(*at),
        };
        let mut ends: Vec<LastEnd> = self.last_ends.iter().map(end).collect();
        ends.sort_unstable_by(|a, b| (&a.subject, &a.segment).cmp(&(&b.subject, &b.segment)));
        ends
    }

    /// Takes back a last end that the enforcer kept; the later of two holds.
    pub fn restore_last_end(&mut self, end: LastEnd) {
        self.keep_end((end.subject, end.segment), end.at.0);
    }
}
