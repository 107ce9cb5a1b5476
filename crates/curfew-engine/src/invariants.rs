//! The invariants of the engine, each defined once: the tests check them after every step. Fixing may not live here.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::{
    Engine,
    class::Class,
    record::{List, NEVER, WouldEnd},
};

/// A broken invariant, by name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invariant {name} is broken at slot {slot}")]
pub struct Broken {
    /// Which.
    pub name: &'static str,
    /// The slot where it shows.
    pub slot: u32,
}

impl Engine {
    /// Checks everything that must hold between two inputs. Costs a full scan: for tests and `doctor`.
    ///
    /// # Errors
    /// The first invariant that does not hold.
    pub fn check(&self) -> Result<(), Broken> {
        let now = self.now.boot;
        let mut armed = BTreeSet::new();
        for slot in self.table.slots() {
            let broken = |name| Err(Broken { name, slot });
            let Some(record) = self.table.get(slot) else {
                continue;
            };
            if self.table.find(record.id) != Some(slot) {
                return broken("I5 found by its id");
            }
            let lease = self.lease(slot).unwrap_or_default();
            let late = lease.fixed_deadline().is_some_and(|end| end.at <= now);
            let living = record.closing.is_none() && record.would_end == WouldEnd::No;
            if living && late {
                return broken("I1 on time");
            }
            let due = lease.fixed_deadline().map_or(NEVER, |end| end.at.0);
            if living && record.wake > due {
                return broken("I1 armed no later than its end");
            }
            if living && self.shadow_end(slot).is_some_and(|end| record.wake > end.0) {
                return broken("I8 armed no later than audit mode would end it");
            }
            if living && record.wake != NEVER {
                armed.insert(slot);
            }
            let class = self.class(slot);
            if record.would_end != WouldEnd::No && !class.is_some_and(Class::is_audit) {
                return broken("I8 only audit mode outlives its end");
            }
            if self.whos.get(record.who).is_none() || class.is_none() {
                return broken("I5 its shared parts exist");
            }
        }
        let living: BTreeSet<u32> = self.living().into_iter().collect();
        for (list, heads) in [
            (
                List::Who,
                self.whos
                    .keys()
                    .map(|k| self.whos.head(k))
                    .collect::<Vec<_>>(),
            ),
            (
                List::Class,
                self.classes.keys().map(|k| self.classes.head(k)).collect(),
            ),
            (List::Wheel, self.wheel.heads().to_vec()),
        ] {
            let mut seen = BTreeSet::new();
            for head in heads {
                for slot in self.table.walk(list, head) {
                    if !seen.insert(slot) {
                        return Err(Broken {
                            name: "I5 once in a list",
                            slot,
                        });
                    }
                }
            }
            let expected = if list == List::Wheel { &armed } else { &living };
            if let Some(&slot) = seen.symmetric_difference(expected).next() {
                return Err(Broken {
                    name: "I5 lists are what lives",
                    slot,
                });
            }
        }
        let uncounted = Broken {
            name: "I5 counts are what lives",
            slot: 0,
        };
        let (mut ages, mut counts) = (BTreeMap::new(), HashMap::new());
        for &slot in &living {
            let age = self.table.get(slot).map_or(0, |record| record.opened_rev);
            *ages.entry(age).or_insert(0) += 1;
            for place in self.places(slot) {
                *counts.entry(place).or_insert(0) += 1;
            }
        }
        if ages != self.ages || counts != self.counts {
            return Err(uncounted);
        }
        let shared = self.whos.len() + self.classes.len() + self.ties.len() + self.targets.len();
        let found = !self.index.is_empty() || !self.addresses.is_empty();
        let left = !self.probed.is_empty()
            || !self.tightened.is_empty()
            || !self.shadows.is_empty()
            || !self.gone.is_empty();
        if self.table.len() == 0 && (shared > 0 || found || left) {
            return Err(Broken {
                name: "I5 nothing is left behind",
                slot: 0,
            });
        }
        Ok(())
    }
}
