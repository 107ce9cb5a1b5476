//! What becomes of live sessions when bindings change, or what is known of subjects (rule 7): a subject that is lost ends
//! them, one that appears has them decided again, as other groups and attributes have, fresh proof renews them. Looking
//! up lives in `binding` and `subject`.

use std::collections::BTreeSet;

use curfew_model::{Binding, BindingKey, BootInstant, EndReason, EventKind, Facts, SessionId};

use crate::{
    Engine, EngineError, Keeper, Owner, Report, Subject,
    action::{Fate, Tally},
    binding::BoundProof,
    change::Why,
    class::{Ties, nanos},
    index::Key,
    record::{List, NEVER},
    who::{self, Bound, Who, is_same, octets},
};

/// The identity sets that a change of a binding can concern, and its cause in words.
pub(crate) type Touched = (Vec<u32>, String);

impl Engine {
    /// The instants that tie a session: those of the facts, which are given the bindings' as well.
    pub(crate) fn tie(&self, facts: &mut Facts, proof: BoundProof) -> Ties {
        let at = |wall| nanos(Option::map(wall, |wall| self.now.boot_at(wall)));
        let own = at(facts.binding_until);
        let binding = own.min(nanos(proof.until));
        if let Some(until) = proof.until
            && binding == until.0
        {
            facts.binding_until = Some(self.now.wall_at(until));
        }
        facts.proved_at = facts.proved_at.max(proof.proved);
        Ties {
            proved: nanos(facts.proved_at),
            credential: at(facts.credential_until),
            own,
            binding,
            look_again: NEVER,
            clock: 0,
            lease_credential: NEVER,
            lease_binding: NEVER,
            ahead: None,
            decided_on: self.revision,
        }
    }

    /// Takes in what a keeper says of a key.
    pub(crate) fn bind(
        &mut self,
        keeper: Keeper,
        mut binding: Binding,
    ) -> Result<Touched, EngineError> {
        binding.key = binding.key.canonical();
        let key = binding.key.clone();
        let cause = format!("{key} to {}", binding.identity);
        let limit = self.bounds.bindings;
        let clocks = (self.now, self.shown);
        self.bindings.insert(keeper, binding, limit, clocks)?;
        Ok(self.touch(keeper, &key, cause))
    }

    /// Takes back what a keeper says of a key, if it says anything.
    pub(crate) fn unbind(&mut self, keeper: Keeper, key: BindingKey) -> Option<Touched> {
        let key = key.canonical();
        let said = self.bindings.remove(keeper, &key);
        said.then(|| self.touch(keeper, &key, format!("{key} removed")))
    }

    fn touch(&mut self, keeper: Keeper, key: &BindingKey, cause: String) -> Touched {
        let told = format!("binding {cause}");
        if keeper == Keeper::Config {
            // What the desired state says is put on record by whoever changes it.
            self.note(EventKind::BindingChanged, cause);
        }
        (self.reached(key), told)
    }

    /// The identity sets that a binding of this key can concern.
    fn reached(&self, key: &BindingKey) -> Vec<u32> {
        match key {
            BindingKey::Address(net) => {
                let (first, last) = (octets(net.network()), octets(net.broadcast()));
                let range = self.addresses.range((first, 0)..=(last, u32::MAX));
                range.map(|&(_, who)| who).collect()
            }
            BindingKey::Uid(uid) => {
                let mut groups = self.groups(Key::Uid(*uid));
                // Any of them may be this user's.
                groups.extend(self.groups(Key::Unlearnt));
                groups
            }
            BindingKey::Cgroup(path) => self.groups(Key::Cgroup(path)),
        }
    }

    /// Has bindings end when they say by the clocks as they are, and not when they would have by a time that was wrong.
    pub(crate) fn end_bindings_anew(&mut self) -> Report {
        let keys = self.bindings.end_anew(self.now);
        let groups: BTreeSet<u32> = keys.iter().flat_map(|key| self.reached(key)).collect();
        let (groups, cause) = (groups.into_iter().collect(), "the clock was accepted");
        let mut tally = Tally::default();
        self.attribute_again(groups, EventKind::BindingChanged, cause, &mut tally);
        tally.report
    }

    /// Takes in what the desired state knows of a subject from now on.
    pub(crate) fn set_subject(&mut self, subject: Subject) -> Result<Report, EngineError> {
        let Subject {
            kind, issuer, id, ..
        } = &subject;
        let cause = format!("subject {kind}:{}#{id}", issuer.0);
        let groups = self.groups(Key::Identity(*kind, id));
        self.subjects.put(subject, self.bounds.subjects)?;
        let mut tally = Tally::default();
        self.attribute_again(groups, EventKind::SubjectChanged, &cause, &mut tally);
        Ok(tally.report)
    }

    /// Holds what is known now against every session of these identity sets.
    pub(crate) fn attribute_again(
        &mut self,
        groups: Vec<u32>,
        event: EventKind,
        cause: &str,
        tally: &mut Tally,
    ) {
        let mut moved = Vec::new();
        for group in groups {
            let Some(who) = self.who(group) else {
                continue;
            };
            for slot in self.of_groups(List::Who, vec![group]) {
                match self.attribute_one(slot, &who, (event, cause), &mut moved) {
                    Some(fate) => tally.count(slot, fate),
                    None => tally.report.visited += 1,
                }
            }
        }
        self.trim(&moved, &mut tally.report);
    }

    /// Takes in whose the sockets of sessions are of which it was not known.
    pub(crate) fn own(&mut self, owners: Vec<(SessionId, Owner)>) -> Report {
        let (mut tally, mut moved) = (Tally::default(), Vec::new());
        for (id, owner) in owners {
            let living = |&slot: &u32| self.table.get(slot).is_some_and(|r| r.closing.is_none());
            let Some(slot) = self.table.find(id).filter(living) else {
                continue;
            };
            let unlearnt = |who: &Who| matches!(who.peer.owner, Owner::Unknown | Owner::Unasked);
            let Some(mut who) = self.who_of(slot).filter(unlearnt) else {
                continue;
            };
            let (_, proof) = self.bound(&who);
            who.peer.owner = owner;
            self.move_to(slot, &who, &who.bound, proof);
            let told = (EventKind::BindingChanged, "whose its socket is was learnt");
            match self.attribute_one(slot, &who, told, &mut moved) {
                Some(fate) => tally.count(slot, fate),
                None => tally.report.visited += 1,
            }
        }
        self.trim(&moved, &mut tally.report);
        tally.report
    }

    /// What bindings say of whoever holds a session.
    fn bound(&self, who: &Who) -> (Bound, BoundProof) {
        let own = &who.own.identities;
        self.bindings.of(own, who.client, &who.peer, self.now.boot)
    }

    /// Holds what is known now against one session; none when nothing changed for it.
    fn attribute_one(
        &mut self,
        slot: u32,
        who: &Who,
        (event, cause): (EventKind, &str),
        moved: &mut Vec<u32>,
    ) -> Option<Fate> {
        let (bound, proof) = self.known(&who.own.identities, who.client, &who.peer);
        let kept = |old: &_| bound.identities.iter().any(|new| is_same(old, new));
        if !who.bound.identities.iter().all(kept) {
            let fate = self.end(slot, EndReason::BindingExpired, cause.to_owned(), None);
            if fate == Fate::WouldEnd {
                self.move_to(slot, who, &bound, proof);
                // A set that came with the binding may be one that acts.
                return Some(fate.max(self.review(slot, Why::Binding)));
            }
            return Some(fate);
        }
        if bound == who.bound {
            return self.refresh(slot, proof);
        }
        let newer = self.move_to(slot, who, &bound, proof)?;
        let told = Some(cause.to_owned());
        self.record(slot, event, None, told);
        moved.push(slot);
        let facts = self.facts(slot, self.now)?;
        let record = self.table.get(slot)?;
        let keys = self.class(slot)?.keys();
        let ordered = self.ordered_out(record.id, &facts, keys, record.opened_rev);
        if let Some((reason, cause)) = ordered
            && self.end(slot, reason, cause, None) == Fate::Closes
        {
            return Some(Fate::Closes);
        }
        Some(self.review_proof(slot, if newer { Why::Proof } else { Why::Binding }))
    }

    /// Looks at a session again; fresh proof that moved its lease is a renewal, on record once.
    fn review_proof(&mut self, slot: u32, why: Why) -> Fate {
        let fate = self.review(slot, why);
        if fate == Fate::Lives && why == Why::Proof {
            let cause = Some("the binding was refreshed".to_owned());
            self.record(slot, EventKind::SessionRenewed, None, cause);
        }
        fate
    }

    /// Puts a session under what is known now; answers whether that is fresher proof.
    fn move_to(&mut self, slot: u32, who: &Who, bound: &Bound, proof: BoundProof) -> Option<bool> {
        let facts = Facts {
            identities: who.own.identities.clone(),
            groups: who.own.groups.clone(),
            attributes: who.own.attributes.clone(),
            ambiguous: who.own.ambiguous,
            ..self.facts(slot, self.now)?
        };
        let mut bytes = std::mem::take(&mut self.scratch);
        who::encode(&mut bytes, &facts, bound, &who.peer);
        self.uncount(slot);
        self.leave_who_list(slot);
        let old = self.table.get(slot)?.who;
        let sought = self.seek_who(&bytes);
        self.join_who(slot, &bytes, sought);
        self.scratch = bytes;
        self.release_who(old);
        self.count(slot);
        Some(self.tie_again(slot, proof) == Some(Why::Proof))
    }

    /// Takes the instants of bindings into a session's ties; answers what is new about them, if anything is.
    fn tie_again(&mut self, slot: u32, proof: BoundProof) -> Option<Why> {
        let record = self.table.get(slot)?;
        let old = *self.ties.get(record.ties)?;
        let opened_at = record.opened_at;
        // Proof from before the session was opened is fresh only where later than what it was opened with.
        let before = if old.proved == NEVER { 0 } else { old.proved };
        let proved = proof.proved.filter(|proved| proved.0 > before);
        let ties = Ties {
            proved: proved.map_or(old.proved, |proved| proved.0),
            binding: old.own.min(nanos(proof.until)),
            ..old
        };
        self.set_ties(slot, ties);
        let fresh = proved.is_some_and(|proved| old.proved != NEVER || proved.0 > opened_at);
        if fresh {
            self.renewed.insert(slot);
            Some(Why::Proof)
        } else if ties != old {
            Some(Why::Binding)
        } else {
            None
        }
    }

    /// Takes a later refresh or another end of a session's bindings into its lease.
    fn refresh(&mut self, slot: u32, proof: BoundProof) -> Option<Fate> {
        let why = self.tie_again(slot, proof)?;
        Some(self.review_proof(slot, why))
    }

    /// Takes proof later than the one that the lease counts from into account. Where a refresh did that by itself since
    /// the session was opened or last asked for, there is nothing more to do.
    pub(crate) fn renew(&mut self, id: SessionId) -> Result<Report, EngineError> {
        let unknown = EngineError::UnknownSession(id);
        let slot = self.table.find(id).ok_or(unknown.clone())?;
        let closing = self.table.get(slot).is_none_or(|r| r.closing.is_some());
        let who = self.who_of(slot).filter(|_| !closing).ok_or(unknown)?;
        let (_, proof) = self.bound(&who);
        let newer = |proved: BootInstant| {
            let ties = self.table.get(slot).and_then(|r| self.ties.get(r.ties));
            ties.is_some_and(|ties| ties.proved == NEVER || proved.0 > ties.proved)
        };
        let newer = proof.proved.is_some_and(newer);
        if !newer && !self.renewed.contains(&slot) {
            return Err(EngineError::ProofRequired(id));
        }
        let mut report = Report::default();
        let fate = newer.then(|| self.refresh(slot, proof)).flatten();
        report.count(fate.unwrap_or(Fate::Lives));
        self.renewed.remove(&slot);
        Ok(report)
    }
}
