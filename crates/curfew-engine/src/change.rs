//! What a change does to live sessions: a new policy set, a window, fresh proof. A looser rule leaves a lease as it is.

use std::sync::Arc;

use curfew_model::{EndReason, EventKind, Lease, Revision, SessionId};
use curfew_policy::{Decide, Decision, Verdict};

use crate::{
    Action, Concerns, Engine, EngineError, Report,
    record::{List, NEVER},
    session::{Class, Key, Ties, Who, bound_at, nanos},
    timing::cause_of,
};

/// Why a session is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The documents changed.
    Policies(Revision),
    /// A window opened or closed, or a grant ended.
    Window,
    /// The subject proved itself again.
    Proof,
}

impl Engine {
    /// Writes what a decision gives into a session's record and indexes.
    pub(crate) fn place(&mut self, slot: u32, decision: &Decision, lease: &Lease, mut ties: Ties) {
        ties.lease_credential = bound_at(&lease.credential_until);
        ties.lease_binding = bound_at(&lease.binding_until);
        let look = nanos(decision.look_again_at);
        ties.look_again = if look > self.now.boot.0 { look } else { NEVER };
        let class = Class::new(decision, self.set.revision(), lease);
        let audit = class.is_audit();
        let (ties, _) = self.ties.acquire(ties);
        let Some(record) = self.table.get_mut(slot) else {
            return;
        };
        record.expires = bound_at(&lease.expires_at);
        let reauth = bound_at(&lease.reauth_by);
        if reauth > record.reauth {
            record.warned = false;
        }
        record.reauth = reauth;
        record.would_end &= audit;
        let old_ties = std::mem::replace(&mut record.ties, ties);
        let old_class = record.class;
        self.ties.release(old_ties);
        if self.classes.get(old_class) == Some(&class) {
            return;
        }
        self.leave_class_list(slot);
        self.join_class(slot, class);
        self.release_class(old_class);
    }

    /// Decides about a live session again; answers whether it lives on.
    pub(crate) fn review(&mut self, slot: u32, why: &Why) -> bool {
        let (Some(facts), Some(old)) = (self.facts(slot), self.lease(slot)) else {
            return false;
        };
        let Some(record) = self.table.get(slot) else {
            return false;
        };
        let Some(&ties) = self.ties.get(record.ties) else {
            return false;
        };
        if record.closing.is_some() {
            return false;
        }
        let decision = self.set.decide(&facts, self.now);
        let (mut lease, refusal) = match &decision.verdict {
            Verdict::Admit(lease) => (lease.clone(), None),
            Verdict::Refuse(refusal) => (refusal.lease.clone(), Some(refusal)),
        };
        match why {
            Why::Policies(_) | Why::Window => lease.tighten(old),
            Why::Proof => lease.tighten(Lease {
                expires_at: old.expires_at,
                credential_until: old.credential_until,
                ..Lease::default()
            }),
        }
        self.place(slot, &decision, &lease, ties);
        if let Some(refusal) = refusal {
            let (reason, cause) = match why {
                Why::Policies(at) => (EndReason::PolicyChanged, format!("{}@{at}", refusal.cause)),
                Why::Window | Why::Proof => (refusal.reason, refusal.cause.clone()),
            };
            if self.end(slot, reason, cause, None) {
                return false;
            }
        }
        if let Some(end) = lease.fixed_deadline()
            && end.at <= self.now.boot
        {
            let cause = cause_of(&lease, end);
            let (reason, cause) = match why {
                Why::Policies(at) => (EndReason::PolicyChanged, format!("{cause}@{at}")),
                Why::Window | Why::Proof => (end.reason, cause),
            };
            if self.end(slot, reason, cause, Some(end.at)) {
                return false;
            }
        }
        let until = lease.fixed_deadline().map(|end| end.at);
        if let Some(id) = self.table.get(slot).map(|record| record.id) {
            self.out.push_back(Action::SetLease { id, until });
        }
        self.schedule(slot);
        true
    }

    pub(crate) fn apply_policies(&mut self, set: Arc<dyn Decide>, concerns: &Concerns) -> Report {
        let revision = set.revision();
        let mut report = Report::default();
        if revision < self.set.revision() {
            return report;
        }
        self.set = set;
        self.revision = self.revision.max(revision);
        self.note(EventKind::PolicyApplied, format!("revision {revision}"));
        let slots = self.concerned(concerns);
        for &slot in &slots {
            report.visited += 1;
            report.matched += 1;
            if !self.review(slot, &Why::Policies(revision)) {
                report.closed += 1;
            }
        }
        for slot in slots {
            if let Some((cause, _)) = self.excess(slot)
                && self.end(slot, EndReason::ConcurrencyExceeded, cause, None)
            {
                report.closed += 1;
            }
        }
        self.loss_done = None;
        self.act_on_loss();
        report
    }

    /// The living sessions of a list of index keys, each once, the oldest first.
    pub(crate) fn under(&self, list: List, keys: &[Key]) -> Vec<u32> {
        let mut groups: Vec<u32> = keys
            .iter()
            .filter_map(|k| self.index.get(k))
            .flatten()
            .copied()
            .collect();
        groups.sort_unstable();
        groups.dedup();
        let heads = groups.into_iter().map(|group| match list {
            List::Who => self.whos.head(group),
            List::Class | List::Wheel => self.classes.head(group),
        });
        let slots = heads.flat_map(|head| self.table.walk(list, head)).collect();
        self.by_age(slots)
    }

    fn by_age(&self, mut slots: Vec<u32>) -> Vec<u32> {
        slots.sort_unstable_by_key(|&slot| self.table.get(slot).map(|r| (r.opened_at, r.id)));
        slots
    }

    fn concerned(&self, concerns: &Concerns) -> Vec<u32> {
        match concerns {
            Concerns::All => self.living(),
            Concerns::Only { segments, policies } => {
                let segments = segments.iter().cloned().map(Key::Segment);
                let policies = policies.iter().cloned().map(Key::Policy);
                let keys: Vec<Key> = segments.chain(policies).collect();
                self.under(List::Class, &keys)
            }
        }
    }

    /// Every session that is not closing, the oldest first.
    pub(crate) fn living(&self) -> Vec<u32> {
        let open = |&slot: &u32| self.table.get(slot).is_some_and(|r| r.closing.is_none());
        self.by_age(self.table.slots().filter(open).collect())
    }

    /// Whether older sessions of the same subject fill a segment; then the words for it, and whether it enforces.
    pub(crate) fn excess(&self, slot: u32) -> Option<(String, curfew_model::Mode)> {
        let record = self.table.get(slot)?;
        if record.closing.is_some() {
            return None;
        }
        let class = self.classes.get(record.class)?;
        let limited = class
            .segments
            .iter()
            .filter_map(|s| s.max_concurrent.as_ref().map(|max| (s, max)));
        let mut limited = limited.peekable();
        limited.peek()?;
        let mine = (record.opened_at, record.id);
        let subject = self.whos.get(record.who)?.subject();
        let groups: Vec<u32> = match subject {
            Some(subject) => {
                let key = Key::Identity(subject.kind, subject.id.clone());
                self.index.get(&key).cloned().unwrap_or_default()
            }
            None => vec![record.who],
        };
        let same = |who: &Who| match (who.subject(), subject) {
            (Some(a), Some(b)) => (a.kind, &a.issuer, &a.id) == (b.kind, &b.issuer, &b.id),
            (None, None) => true,
            _ => false,
        };
        let groups = groups
            .into_iter()
            .filter(|&group| self.whos.get(group).is_some_and(same));
        let peers: Vec<_> = groups
            .flat_map(|group| self.table.walk(List::Who, self.whos.head(group)))
            .filter_map(|slot| self.table.get(slot))
            .filter(|peer| (peer.opened_at, peer.id) < mine)
            .filter(|peer| subject.is_some() || peer.client().ip() == record.client().ip())
            .filter_map(|peer| self.classes.get(peer.class))
            .collect();
        let over: Vec<_> = limited
            .filter(|(segment, (max, _))| {
                let into = |class: &&&Class| class.segments.iter().any(|s| s.name == segment.name);
                peers.iter().filter(into).count() >= *max as usize
            })
            .collect();
        let (segment, (max, by)) = over
            .iter()
            .find(|(segment, _)| segment.mode == curfew_model::Mode::Enforce)
            .or(over.first())?;
        let cause = format!(
            "segment {}: at most {max}, {}",
            segment.name,
            crate::timing::words(by)
        );
        Some((cause, segment.mode))
    }

    /// Takes proof later than the one that the lease counts from into account.
    pub(crate) fn renew(&mut self, id: SessionId) -> Result<Report, EngineError> {
        let slot = self.table.find(id).ok_or(EngineError::UnknownSession(id))?;
        if self.table.get(slot).is_some_and(|r| r.closing.is_some()) {
            return Err(EngineError::UnknownSession(id));
        }
        if self.refresh(slot) {
            Ok(Report {
                matched: 1,
                closed: 0,
                audit_only: 0,
                visited: 1,
            })
        } else {
            Err(EngineError::ProofRequired(id))
        }
    }
}
