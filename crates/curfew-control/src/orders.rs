//! Orders over time: whether one keeps new sessions out, and when it is not needed any more. Giving orders may not live
//! here.

use std::sync::Arc;

use curfew_model::{Block, Revision, Revocation, RevocationId, WallInstant};
use curfew_state::{Change, CommitError, Expected, State};
use serde_json::json;

use crate::app::App;

/// Orders that are kept though nothing needs them, for whoever looks back. What each did stays on the audit log.
const KEPT: usize = 10_000;
/// Orders forgotten at once.
const AT_ONCE: usize = 1_000;

/// What a record of an order tells of it beside its cause, by name.
#[must_use]
pub fn order_detail(order: &Revocation) -> [(&'static str, String); 3] {
    [
        ("revocation", order.id.to_string()),
        ("scope", json!(order.scope).to_string()),
        ("block", json!(order.block).to_string()),
    ]
}

/// Whether an order keeps new sessions out.
pub(crate) fn blocks(order: &Revocation, now: WallInstant) -> bool {
    order.lifted_at.is_none()
        && match order.block {
            Block::None => false,
            Block::Until(until) => now < until,
            Block::UntilLifted => true,
        }
}

/// The oldest orders above `kept` that block nothing and that every enforcer has applied.
fn needless(state: &State, applied: Revision, kept: usize, now: WallInstant) -> Vec<RevocationId> {
    let over = state.revocations.len().saturating_sub(kept);
    let orders = state.revocations.values();
    let done = orders.filter(|order| order.revision <= applied && !blocks(order, now));
    done.map(|order| order.id).take(over.min(AT_ONCE)).collect()
}

/// Forgets orders that nobody needs, when there are many. May block.
pub(crate) fn forget_needless(app: &App) -> Result<(), CommitError> {
    let state = app.parts.store.read();
    if state.revocations.len() <= KEPT {
        return Ok(());
    }
    // Without any enforcer nothing is open, and nobody has to acknowledge.
    let enforcers = app.parts.fleet.enforcers();
    let applied = enforcers.iter().map(|enforcer| enforcer.revision).min();
    let ids = needless(&state, applied.unwrap_or(state.revision), KEPT, app.wall());
    let changes: Vec<Change> = ids.into_iter().map(Change::ForgetRevocation).collect();
    if changes.is_empty() {
        return Ok(());
    }
    // Whatever has changed meanwhile: none of them is needed again, and where somebody else forgot one, all wait for the
    // next order.
    app.parts.store.commit(Expected::Nothing, &changes)?;
    Ok(())
}

/// Starts [`forget_needless`] beside everything else, unless it is under way.
pub(crate) fn start_forgetting(app: &Arc<App>) {
    if let Ok(turn) = Arc::clone(&app.forgetting).try_acquire_owned() {
        // After an error, as of a broken disk, the next order tries again.
        drop(app.holding(turn, |app| forget_needless(app).ok()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curfew_model::Scope;

    fn order(number: u64, block: Block, lifted: bool) -> Revocation {
        Revocation {
            id: RevocationId(uuid::Uuid::from_u128(u128::from(number))),
            scope: Scope::All,
            block,
            reason: "drill".to_owned(),
            source: "api:admin".to_owned(),
            created_at: WallInstant(0),
            revision: Revision(number),
            lifted_at: lifted.then_some(WallInstant(1)),
        }
    }

    #[test]
    fn what_blocks_or_is_not_applied_is_never_forgotten() {
        let orders = [
            order(1, Block::UntilLifted, false),
            order(2, Block::UntilLifted, true),
            order(3, Block::Until(WallInstant(100)), false),
            order(4, Block::None, false),
            order(5, Block::None, false),
            order(6, Block::None, false),
        ];
        let all = orders.into_iter().map(|order| (order.id, order)).collect();
        let state = State {
            revocations: all,
            ..State::default()
        };
        let forgotten = |applied, kept, now| -> Vec<u128> {
            let ids = needless(&state, Revision(applied), kept, WallInstant(now));
            ids.into_iter().map(|id| id.0.as_u128()).collect()
        };
        assert_eq!(forgotten(5, 0, 99), [2, 4, 5]);
        assert_eq!(forgotten(5, 0, 100), [2, 3, 4, 5]);
        assert_eq!(forgotten(1, 0, 100), [] as [u128; 0]);
        assert_eq!(forgotten(6, 4, 100), [2, 3], "only as many as are too many");
        assert_eq!(forgotten(6, 6, 100), [] as [u128; 0]);
    }
}
