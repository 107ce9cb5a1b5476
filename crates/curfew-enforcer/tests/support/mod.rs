//! A door that decides inline and has no sockets. What it does when it is told to may not live here.

#![cfg(test)]

use curfew_enforcer::{Activity, Caps, Door, Order, Outcome, Owner};
use curfew_model::SessionId;

/// Answers each order as this says.
pub struct Doing<T>(pub T);

impl<T: Fn(&Order) -> Outcome + Send + Sync> Door for Doing<T> {
    fn caps(&self) -> Caps {
        Caps {
            decides_inline: true,
            survives_agent: false,
            warns: false,
            says_goodbye: false,
            sees: &[],
        }
    }

    fn apply(&self, orders: &[Order], answer: &mut dyn FnMut(usize, Outcome)) {
        for (index, order) in orders.iter().enumerate() {
            answer(index, self.0(order));
        }
    }

    fn activity(&self, _sessions: &[SessionId]) -> Vec<Activity> {
        Vec::new()
    }

    fn snapshot(&self) -> Vec<SessionId> {
        Vec::new()
    }

    fn owners(&self) -> Vec<(SessionId, Owner)> {
        Vec::new()
    }
}
