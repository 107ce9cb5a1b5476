//! Orders looked back on: list, show, and lift their blocks. Giving them lives in `revoke`.

use std::{ops::Bound, sync::Arc};

use axum::extract::State;
use curfew_model::{Block, EventKind, Revision, Revocation, RevocationId, Scope, WallInstant};
use curfew_state::{Change, Expected, Role};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Wait, page};
use crate::{
    Outcome,
    app::{App, Deed},
    caller::{Operator, Viewer},
    extract::{Json, Path, Query},
    orders,
    problem::{Answered, Code, Document, Problem},
    schema,
};

/// An order, and what enforcers did.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Revocation)]
pub(super) struct Shown {
    #[schema(value_type = String)]
    id: RevocationId,
    /// Which sessions.
    #[schema(value_type = schema::Scope)]
    pub(super) scope: Scope,
    /// What happens to new ones.
    #[schema(value_type = schema::Block)]
    block: Block,
    /// Whether it keeps new ones out now.
    blocks: bool,
    /// Why.
    reason: String,
    /// Who ordered it.
    source: String,
    /// When.
    #[schema(value_type = String, format = DateTime)]
    created_at: WallInstant,
    /// Sessions opened at or before it end.
    #[schema(value_type = u64)]
    revision: Revision,
    /// When its block was lifted.
    #[schema(value_type = Option<String>, format = DateTime)]
    lifted_at: Option<WallInstant>,
    /// What each enforcer did; none when it is not remembered.
    pub(super) enforcers: Option<Vec<Outcome>>,
}

impl Shown {
    pub(super) fn new(
        order: &Revocation,
        enforcers: Option<Vec<Outcome>>,
        now: WallInstant,
    ) -> Self {
        let order = order.clone();
        let blocks = orders::blocks(&order, now);
        Self {
            id: order.id,
            scope: order.scope,
            block: order.block,
            blocks,
            reason: order.reason,
            source: order.source,
            created_at: order.created_at,
            revision: order.revision,
            lifted_at: order.lifted_at,
            enforcers,
        }
    }
}

/// Which orders.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Only those that keep new sessions out, or do not.
    blocks: Option<bool>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<RevocationId>,
    /// Entries, 1 to 1000; 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// One page of orders.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Revocations {
    /// By id, which is the order of giving.
    revocations: Vec<Shown>,
    /// The `after` of the next page; none on the last.
    #[schema(value_type = Option<String>)]
    next: Option<RevocationId>,
}

/// Lists orders.
#[utoipa::path(get, path = "/v1/revocations", tag = "revocations", params(Listing), responses((status = 200, body = Revocations)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Viewer,
    Query(listing): Query<Listing>,
) -> Answered<Json<Revocations>> {
    let limit = page(listing.limit)?;
    app.look(move |app| Json(listed(app, &listing, limit)))
        .await
}

fn listed(app: &App, listing: &Listing, limit: usize) -> Revocations {
    let state = app.parts.store.read();
    let now = app.wall();
    let from = listing.after.map_or(Bound::Unbounded, Bound::Excluded);
    let outcomes = app.outcomes.lock();
    let mut revocations: Vec<Shown> = state
        .revocations
        .range((from, Bound::Unbounded))
        .filter(|(_, order)| {
            let wanted = listing.blocks;
            wanted.is_none_or(|blocks| orders::blocks(order, now) == blocks)
        })
        .take(limit + 1)
        .map(|(id, order)| Shown::new(order, outcomes.get(*id), now))
        .collect();
    let more = revocations.len() > limit;
    revocations.truncate(limit);
    let next = revocations.last().filter(|_| more).map(|last| last.id);
    Revocations { revocations, next }
}

/// Shows an order.
#[utoipa::path(get, path = "/v1/revocations/{id}", tag = "revocations", params(("id" = String, Path)),
    responses((status = 200, body = Shown), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(id): Path<RevocationId>,
) -> Answered<Json<Shown>> {
    let state = app.parts.store.read();
    let order = state.revocations.get(&id);
    let order = order.ok_or_else(|| Problem::not_found("revocation", id))?;
    let outcomes = app.outcomes.lock().get(id);
    Ok(Json(Shown::new(order, outcomes, app.wall())))
}

/// Lifts the block of an order. Only its source or an admin may; the order stays.
#[utoipa::path(post, path = "/v1/revocations/{id}/lift", tag = "revocations", params(("id" = String, Path), Wait),
    responses((status = 200, body = Shown), (status = 403, body = Document, content_type = "application/problem+json")))]
pub(super) async fn lift(
    State(app): State<Arc<App>>,
    Operator(by): Operator,
    Path(id): Path<RevocationId>,
    Query(wait): Query<Wait>,
) -> Answered<Json<Shown>> {
    let wait = wait.read()?;
    let state = app.parts.store.read();
    let order = state.revocations.get(&id);
    let order = order.ok_or_else(|| Problem::not_found("revocation", id))?;
    if by.role != Role::Admin && order.source != by.source() {
        let detail = format!(
            "the block belongs to {}: it or an admin lifts it",
            order.source
        );
        return Err(Problem::new(Code::Forbidden, detail));
    }
    if order.lifted_at.is_some() {
        // There is nothing to change: the answer says since when.
        let outcomes = app.outcomes.lock().get(id);
        return Ok(Json(Shown::new(order, outcomes, app.wall())));
    }
    let working = Arc::clone(&app);
    app.finish(async move {
        let app = working;
        let deed = Deed {
            event: EventKind::RevocationLifted,
            by: &by,
            cause: format!("revocation {id}"),
        };
        let lifted = Change::Lift { id, at: app.wall() };
        app.change(Expected::Nothing, vec![lifted], deed, wait)
            .await?;
        // Where there is no room for more orders, lifting makes some.
        orders::start_forgetting(&app);
        let state = app.parts.store.read();
        let order = state.revocations.get(&id);
        let order = order.ok_or_else(|| Problem::not_found("revocation", id))?;
        let outcomes = app.outcomes.lock().get(id);
        Ok(Json(Shown::new(order, outcomes, app.wall())))
    })
    .await
}
