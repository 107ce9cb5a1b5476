//! The policy that is in force at an enforcer: the texts of its owners, the set that they make, and what the next one
//! changes. Carrying it out is not done here.

use std::{collections::BTreeMap, sync::Arc};

use curfew_model::Revision;
use curfew_policy::{Decide, Difference, PolicySet};
use curfew_state::{Owner, Policies, State};

use super::compiler;

/// The texts of each owner's set.
pub fn owners(policies: &Policies) -> BTreeMap<Owner, Arc<str>> {
    policies
        .iter()
        .map(|(owner, (_, text))| (*owner, Arc::clone(text)))
        .collect()
}

/// What is in force.
pub struct InForce {
    owners: BTreeMap<Owner, Arc<str>>,
    /// What the engine decides by.
    set: Arc<PolicySet>,
}

impl InForce {
    /// The policy of `state`, which `set` was compiled from.
    pub fn new(state: &State, set: Arc<PolicySet>) -> Self {
        let owners = owners(&state.policies);
        Self { owners, set }
    }

    /// What the engine decides by.
    pub fn set(&self) -> &PolicySet {
        &self.set
    }

    /// Takes the texts of one owner.
    pub fn put(&mut self, owner: Owner, text: &Arc<str>) {
        self.owners.insert(owner, Arc::clone(text));
    }

    /// Takes the texts of all owners.
    pub fn put_all(&mut self, state: &State) {
        self.owners = owners(&state.policies);
    }

    /// The set that the texts make, for the engine to take at once, and where it may decide differently than the one
    /// before.
    ///
    /// # Errors
    /// The problems as they are shown; what was in force stays so.
    pub fn next(&mut self, revision: Revision) -> Result<(Arc<dyn Decide>, Difference), String> {
        let set = Arc::new(compiler::union(&self.owners, revision)?);
        let difference = set.difference(&self.set);
        // The engine takes none that is older than its own.
        if revision >= self.set.revision() {
            self.set = Arc::clone(&set);
        }
        Ok((set, difference))
    }
}
