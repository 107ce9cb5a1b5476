//! What enforcers answered to the last orders, for `show`. Kept in memory: after a restart enforcers have followed by
//! their watch, and what each had closed is on the audit log.

use std::collections::{BTreeMap, VecDeque};

use curfew_model::RevocationId;

use crate::{Answer, Outcome};

/// Orders whose answers are kept.
const KEPT: usize = 1_024;

/// The answers by order.
#[derive(Debug, Default)]
pub(crate) struct Outcomes {
    order: VecDeque<RevocationId>,
    by_id: BTreeMap<RevocationId, Vec<Outcome>>,
}

impl Outcomes {
    /// Keeps the first answer of each enforcer to an order, and gives those that are kept; later ones count nothing that
    /// these did not.
    pub(crate) fn keep(&mut self, id: RevocationId, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        if let Some(kept) = self.by_id.get_mut(&id) {
            for outcome in outcomes {
                let same = |known: &&mut Outcome| known.enforcer == outcome.enforcer;
                match kept.iter_mut().find(same) {
                    Some(known) if known.answer == Answer::Unreachable => *known = outcome,
                    Some(known) if outcome.answer == Answer::Done => known.answer = Answer::Done,
                    Some(_) => {}
                    None => kept.push(outcome),
                }
            }
            return kept.clone();
        }
        self.by_id.insert(id, outcomes.clone());
        self.order.push_back(id);
        if self.order.len() > KEPT
            && let Some(oldest) = self.order.pop_front()
        {
            self.by_id.remove(&oldest);
        }
        outcomes
    }

    pub(crate) fn get(&self, id: RevocationId) -> Option<Vec<Outcome>> {
        self.by_id.get(&id).cloned()
    }
}
