//! What enforcers answered to the last orders, for `show`. Kept in memory: after a restart enforcers have followed by
//! their watch, and what each had closed is on the audit log.

use std::collections::{BTreeMap, VecDeque};

use curfew_model::RevocationId;

use crate::Outcome;

/// Orders whose answers are kept.
const KEPT: usize = 1_024;

/// The answers by order.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    order: VecDeque<RevocationId>,
    by_id: BTreeMap<RevocationId, Vec<Outcome>>,
}

impl Outcomes {
    /// Keeps the first answers to an order; later ones count nothing that these did not.
    pub(crate) fn keep(&mut self, id: RevocationId, outcomes: &[Outcome]) {
        if self.by_id.contains_key(&id) {
            return;
        }
        self.by_id.insert(id, outcomes.to_vec());
        self.order.push_back(id);
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
    }

    pub(crate) fn get(&self, id: RevocationId) -> Option<Vec<Outcome>> {
        self.by_id.get(&id).cloned()
    }
}
