//! The bindings of `curfew.yaml`, as the enforcer was told of them last. What a binding does is the engine's; what the
//! API sets is the desired state's.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use curfew_enforcer::{Changes, Keeper};
use curfew_model::{Binding, BindingKey};
use parking_lot::Mutex;

/// What the enforcer knows of the configuration.
#[derive(Default)]
pub struct Configured(Mutex<Arc<BTreeMap<BindingKey, Binding>>>);

impl Configured {
    /// What the enforcer was told last.
    pub fn bindings(&self) -> Arc<BTreeMap<BindingKey, Binding>> {
        Arc::clone(&self.0.lock())
    }

    /// What the enforcer has to be told, so that it knows these instead.
    pub fn changes(&self, bindings: &[Binding]) -> Changes {
        let told = self.bindings();
        let is_told = |binding: &&Binding| told.get(&binding.key) == Some(*binding);
        let wanted: BTreeSet<&BindingKey> = bindings.iter().map(|binding| &binding.key).collect();
        let new = bindings.iter().filter(|binding| !is_told(binding)).cloned();
        let gone = told.keys().filter(|key| !wanted.contains(key)).cloned();
        Changes {
            policies: None,
            bound: new.map(|binding| (Keeper::Config, binding)).collect(),
            unbound: gone.map(|key| (Keeper::Config, key)).collect(),
        }
    }

    /// The enforcer was told of these.
    pub fn told(&self, bindings: Vec<Binding>) {
        let by_key = bindings
            .into_iter()
            .map(|binding| (binding.key.clone(), binding));
        *self.0.lock() = Arc::new(by_key.collect());
    }
}
