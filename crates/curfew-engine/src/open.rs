//! Opening: register, decide on the engine's own copy, re-check orders, loss, reconnecting and concurrency (I7).

use std::sync::Arc;

use curfew_model::{
    BootInstant, EndReason, EventKind, Facts, Lease, Mode, Now, OnAdopt, Revision, SegmentName,
    Sensitivity, SessionId,
};
use curfew_policy::Refusal;

use crate::{
    Action, Admitted, AuditLog, Engine, Open, Refused,
    class::{Decided, all_audit},
    intern::Sought,
    record::{NIL, Record},
    shadow::Shadow,
    timing::{cause_of, is_ahead},
    who,
};

/// A reason to refuse, and whether it acts.
type Objection = (EndReason, String, Mode);

/// What speaks against a new session.
#[derive(Default)]
pub(crate) struct Objections {
    all: Vec<Objection>,
    /// When the wait after an end by lifetime is over, if one holds.
    pub(crate) retry_at: Option<BootInstant>,
    /// For what segments in audit mode would have ended it by now.
    overdue: Option<EndReason>,
}

impl Objections {
    pub(crate) fn add(&mut self, reason: EndReason, cause: String, mode: Mode) {
        self.all.push((reason, cause, mode));
    }

    /// Takes out the one to refuse for: the first of those that act. Where none does, they are sorted.
    fn acting(&mut self) -> Option<Objection> {
        self.all
            .sort_unstable_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)));
        let acts = |(_, _, mode): &Objection| *mode == Mode::Enforce;
        let at = self.all.iter().position(acts)?;
        Some(self.all.swap_remove(at))
    }
}

/// A session that came, and what is decided of it.
struct Newcomer<'a> {
    id: SessionId,
    facts: &'a Facts,
    decided: Decided<'a>,
    entry: Entry,
    /// The revision that its door let it in on, if it decided itself.
    decided_at: Option<Revision>,
    /// That one, else the one of now.
    opened_rev: u64,
}

impl Newcomer<'_> {
    /// Whether it has a socket that passes, or may.
    fn was_let_in(&self) -> bool {
        self.decided_at.is_some() || self.entry == Entry::Found
    }
}

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
        let decision = self.set.decide(&facts, self.now);
        let lease = &decision.lease;
        let coming = decision.coming.as_ref();
        let coming = coming.filter(|coming| is_ahead(lease, coming));
        let look_again = (decision.look_again_at, self.now);
        self.tie_lease(&mut ties, lease, coming, look_again);
        let newcomer = Newcomer {
            id,
            facts: &facts,
            decided: Decided {
                segments: &decision.segments,
                policies: &decision.policies,
                lease,
                coming,
            },
            entry,
            decided_at,
            opened_rev: decided_at.unwrap_or(self.revision).0,
        };
        let (refusal, shadow) = (decision.refusal, decision.shadow);
        let mut objections = self.objections(&newcomer, refusal, shadow.as_ref());

        // Register, so that concurrency counts it, then re-check.
        let mut record = Record::new(id, facts.client.port(), facts.opened_at.0);
        record.opened_rev = newcomer.opened_rev;
        record.last = self.now.boot.max(facts.opened_at).0;
        record.set_bounds(lease);
        record.target = self.targets.take(target, || facts.target.clone().into()).0;
        record.ties = self.ties.acquire(ties);
        let class = self.take_class(record.target, &newcomer.decided);
        let slot = self.register(record, class, (&bytes, who), shadow);
        self.scratch = bytes;
        if let Some((cause, mode)) = self.refuses_by_count(slot) {
            objections.add(EndReason::ConcurrencyExceeded, cause, mode);
        }
        if let Some(objection) = objections.acting() {
            return Err(self.refuse(slot, &newcomer, objection, objections.retry_at));
        }
        self.record(slot, EventKind::SessionOpened, None, None);
        if let Some(objection) = objections.all.into_iter().next() {
            self.tell_refusal(slot, objection, objections.overdue);
        }
        let for_door = self.door_lease(slot, lease);
        if newcomer.was_let_in() {
            self.out.push_back(Action::SetLease {
                id,
                lease: for_door,
            });
        }
        self.schedule_with(slot, lease);
        Ok(Admitted {
            segments: self.names(class),
            lease: decision.lease,
            for_door,
        })
    }

    /// Everything that speaks against a newcomer, but how many its subject has open.
    fn objections(
        &self,
        newcomer: &Newcomer<'_>,
        refusal: Option<Refusal>,
        shadow: Option<&Lease>,
    ) -> Objections {
        let Newcomer {
            id, facts, decided, ..
        } = newcomer;
        let mode_of = |only_recorded| {
            if only_recorded {
                Mode::Audit
            } else {
                Mode::Enforce
            }
        };
        let whole = mode_of(all_audit(decided.segments));
        let mut objections = Objections::default();
        if let Some(refusal) = refusal {
            let mode = mode_of(refusal.audit_only);
            objections.add(refusal.reason, refusal.cause, mode);
        }
        if let Some(end) = decided.lease.deadline(self.now.boot.max(facts.opened_at))
            && end.at <= self.now.boot
        {
            objections.add(end.reason, cause_of(decided.lease, end), whole);
        }
        if let Some(shadow) = shadow
            && let Some(end) = shadow.fixed_deadline()
            && end.at <= self.now.boot
        {
            objections.add(end.reason, cause_of(shadow, end), Mode::Audit);
            objections.overdue = Some(end.reason);
        }
        let ordered = self.ordered_out(*id, facts, decided.keys(), newcomer.opened_rev);
        if let Some((reason, cause)) = ordered {
            objections.add(reason, cause, whole);
        }
        self.object_by_segment(newcomer, &mut objections);
        self.object_to_reconnecting(facts, decided.segments, &mut objections);
        if self.table.len() >= self.bounds.sessions {
            let cause = format!("{} sessions are open", self.bounds.sessions);
            objections.add(EndReason::Overloaded, cause, Mode::Enforce);
        }
        objections
    }

    /// Holds a session that was not held yet.
    fn register(
        &mut self,
        record: Record,
        class: u32,
        (bytes, who): (&[u8], Sought),
        shadow: Option<Lease>,
    ) -> u32 {
        *self.ages.entry(record.opened_rev).or_default() += 1;
        let slot = self.table.insert(record);
        self.join_who(slot, bytes, who);
        self.join_class(slot, class);
        let shadow = shadow.map(Shadow::new);
        self.shadows.extend(shadow.map(|shadow| (slot, shadow)));
        self.count(slot);
        slot
    }

    /// Takes a session that was registered out again, and has its door close it if it was let in.
    fn refuse(
        &mut self,
        slot: u32,
        newcomer: &Newcomer<'_>,
        (reason, cause, _): Objection,
        retry_at: Option<BootInstant>,
    ) -> Refused {
        let told = Some(cause.clone());
        self.keep_refused(slot, reason, cause.clone());
        self.record(slot, EventKind::SessionRefused, Some(reason), told);
        self.forget(slot);
        if newcomer.was_let_in() {
            self.out.push_back(Action::Close {
                id: newcomer.id,
                reason,
                deadline: None,
            });
        }
        Refused {
            reason,
            cause,
            retry_at: retry_at.filter(|_| reason == EndReason::LifetimeExpired),
        }
    }

    /// Notes that segments in audit mode would refuse a session.
    fn tell_refusal(
        &mut self,
        slot: u32,
        (reason, cause, _): Objection,
        overdue: Option<EndReason>,
    ) {
        let event = EventKind::SessionWouldRefuse;
        self.record(slot, event, Some(reason), Some(cause));
        self.mark_gone(slot);
        if overdue == Some(reason) {
            // It would end for what it would be refused for: that is told.
            self.mark_told(slot);
        }
    }

    fn names(&self, class: u32) -> Arc<[SegmentName]> {
        let kept = self.classes.get(class);
        kept.map_or_else(Default::default, |kept| kept.names.clone())
    }

    fn again(&mut self, slot: u32) -> Result<Admitted, Refused> {
        let record = self.table.get(slot);
        let class = record.map_or(NIL, |record| record.class);
        if let Some(reason) = record.and_then(|record| record.closing) {
            return Err(Refused {
                reason,
                cause: "the session is closing".to_owned(),
                retry_at: None,
            });
        }
        let lease = self.lease(slot).unwrap_or_default();
        Ok(Admitted {
            segments: self.names(class),
            for_door: self.door_lease(slot, &lease),
            lease,
        })
    }

    fn object_by_segment(&self, newcomer: &Newcomer<'_>, objections: &mut Objections) {
        for segment in newcomer.decided.segments {
            let say = |what: &str| format!("segment {}: {what}", segment.name);
            if self.refuses_by_loss(segment.on_control_plane_loss) {
                let cause = say("the control plane was not heard");
                objections.add(EndReason::ControlPlaneLost, cause, segment.mode);
            }
            if self.audit == AuditLog::Full && segment.sensitivity >= Sensitivity::High {
                let cause = say("the audit log is full");
                objections.add(EndReason::Overloaded, cause, segment.mode);
            }
            let older = newcomer.entry == Entry::Found && newcomer.decided_at.is_none();
            if older && segment.on_adopt == OnAdopt::Close {
                let cause = say("onAdopt is close");
                objections.add(EndReason::AccessDenied, cause, segment.mode);
            }
        }
    }
}
