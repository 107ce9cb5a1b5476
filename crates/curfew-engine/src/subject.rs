//! What the desired state knows of subjects apart from bindings: groups and attributes of whoever is proven or bound.
//! What becomes of live sessions when that changes lives in `attribution`.

use std::net::IpAddr;

use curfew_model::{Facts, Identity, Issuer, Kind, Proof};
use hashbrown::HashMap;

use crate::{
    Engine, EngineError, Peer, Subject,
    binding::BoundProof,
    who::{self, Bound},
};

/// What the names of attributes of the subject begin with.
const OF_SUBJECT: &str = "subject.";

/// All that is known, by who it is known of.
#[derive(Debug, Default)]
pub(crate) struct Subjects(HashMap<(Kind, Issuer, String), Subject>);

impl Subjects {
    /// Keeps what is known of a subject; without groups and attributes it is forgotten.
    pub(crate) fn put(&mut self, subject: Subject, limit: usize) -> Result<(), EngineError> {
        let key = (subject.kind, subject.issuer.clone(), subject.id.clone());
        if subject.groups.is_empty() && subject.attributes.is_empty() {
            self.0.remove(&key);
            return Ok(());
        }
        if self.0.len() >= limit && !self.0.contains_key(&key) {
            return Err(EngineError::Full {
                what: "subjects",
                limit,
            });
        }
        self.0.insert(key, subject);
        Ok(())
    }

    /// Adds what is known of these identities, of which the first is the subject: attributes of the `subject` are its own
    /// only. One that only asserts who it is gets nothing. Of two values of one attribute that of the first identity holds.
    fn add(&self, identities: &[Identity], bound: &mut Bound) {
        for identity in identities {
            let key = (identity.kind, identity.issuer.clone(), identity.id.clone());
            let known = self.0.get(&key);
            let Some(known) = known.filter(|_| identity.proof != Proof::Asserted) else {
                continue;
            };
            bound.groups.extend(known.groups.iter().cloned());
            let is_subject = identities.first() == Some(identity);
            let attributes = known.attributes.iter();
            for (name, value) in
                attributes.filter(|(name, _)| is_subject || !name.starts_with(OF_SUBJECT))
            {
                let entry = bound.attributes.entry(name.clone());
                entry.or_insert_with(|| value.clone());
            }
        }
    }
}

impl Engine {
    /// The facts of a session as it would be decided about now: those of its door, and what bindings and the desired
    /// state say of its client.
    #[must_use]
    pub fn attributed(&self, mut facts: Facts, peer: &Peer) -> Facts {
        facts.client.set_ip(facts.client.ip().to_canonical());
        facts.identities.sort_unstable();
        let (bound, proof) = self.known(&facts.identities, facts.client.ip(), peer);
        who::merge(&mut facts, &bound);
        self.tie(&mut facts, proof);
        facts
    }

    /// What bindings and the desired state say of a client whose door knew its `own` identities.
    pub(crate) fn known(
        &self,
        own: &[Identity],
        address: IpAddr,
        peer: &Peer,
    ) -> (Bound, BoundProof) {
        let (mut bound, proof) = self.bindings.of(own, address, peer, self.now.boot);
        if !self.subjects.0.is_empty() {
            let mut all = own.to_vec();
            all.extend(bound.identities.iter().cloned());
            all.sort_unstable();
            self.subjects.add(&all, &mut bound);
            bound.groups.sort_unstable();
            bound.groups.dedup();
        }
        (bound, proof)
    }
}
