//! The bindings of `curfew.yaml`, as the enforcer was told of them last. What a binding does is the engine's; what the
//! API sets is the desired state's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use curfew_enforcer::{Enforcer, EngineError, Input, Keeper};
use curfew_model::{Binding, BindingKey};
use parking_lot::Mutex;

/// Keeps the bindings of the configuration at one enforcer.
pub struct Configured {
    enforcer: Arc<Enforcer>,
    told: Mutex<Arc<BTreeMap<BindingKey, Binding>>>,
}

impl Configured {
    /// Nothing was told yet.
    pub fn new(enforcer: Arc<Enforcer>) -> Self {
        Self {
            enforcer,
            told: Mutex::default(),
        }
    }

    /// What the enforcer was told last.
    pub fn bindings(&self) -> Arc<BTreeMap<BindingKey, Binding>> {
        Arc::clone(&self.told.lock())
    }

    /// Tells the enforcer what differs from before; answers how many sessions that ended.
    ///
    /// # Errors
    /// What the engine does not take. What it took until then is in force.
    pub fn take(&self, bindings: &[Binding]) -> Result<u64, EngineError> {
        let mut told = self.told.lock();
        let told = Arc::make_mut(&mut told);
        let mut closed = 0;
        // What is new comes first, so that a key that is written wider or narrower leaves its sessions alone.
        for binding in bindings {
            if told.get(&binding.key) == Some(binding) {
                continue;
            }
            let set = Input::BindingSet(Keeper::Config, binding.clone());
            closed += self.enforcer.handle(set)?.closed;
            told.insert(binding.key.clone(), binding.clone());
        }
        let wanted: BTreeSet<&BindingKey> = bindings.iter().map(|binding| &binding.key).collect();
        let gone = |key: &&BindingKey| !wanted.contains(key);
        let gone: Vec<BindingKey> = told.keys().filter(gone).cloned().collect();
        for key in gone {
            let removed = Input::BindingRemoved(Keeper::Config, key.clone());
            closed += self.enforcer.handle(removed)?.closed;
            told.remove(&key);
        }
        Ok(closed)
    }
}
