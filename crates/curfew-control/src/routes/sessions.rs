//! Sessions: list, show, explain, cancel, renew.

use std::sync::Arc;

use axum::extract::State;
use curfew_audit::Entry;
use curfew_model::{
    EnforcerId, EventKind, PolicyName, SegmentName, ServiceName, SessionId, WallInstant,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{page, words};
use crate::{
    Door, Explanation, Filter, FleetError, Session, Standing,
    app::{App, Deed},
    caller::{Caller, Operator, Viewer},
    extract::{Json, Path, Query},
    problem::{Answered, Code, Document, Problem},
};

/// Which sessions, and which page of them; what is left out matches every living session.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// Carries this identity: `kind:ID` or `kind:ISSUER#ID`.
    subject: Option<String>,
    /// Leads into this segment.
    #[param(value_type = Option<String>)]
    segment: Option<SegmentName>,
    /// Goes through this service.
    #[param(value_type = Option<String>)]
    service: Option<ServiceName>,
    /// Is enforced by this enforcer.
    #[param(value_type = Option<String>)]
    enforcer: Option<EnforcerId>,
    /// Is enforced at this door.
    door: Option<Door>,
    /// Stands there; `living`, which is `open` and `closing`, if left out.
    #[serde(default)]
    #[param(inline, value_type = Option<Standing>)]
    state: Standing,
    /// Was matched by this policy.
    #[param(value_type = Option<String>)]
    policy: Option<PolicyName>,
    /// The `next` of the page before.
    #[param(value_type = Option<String>)]
    after: Option<SessionId>,
    /// Entries, 1 to 1000; 100 if left out.
    limit: Option<usize>,
}

/// One page of sessions.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Sessions {
    /// By id, which is the order of opening.
    sessions: Vec<Session>,
    /// The `after` of the next page; none on the last.
    #[schema(value_type = Option<String>)]
    next: Option<SessionId>,
}

/// Lists sessions: the living, unless `state` asks for the 10,000 that ended last.
#[utoipa::path(get, path = "/v1/sessions", tag = "sessions", params(Listing),
    responses((status = 200, body = Sessions)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Viewer,
    Query(listing): Query<Listing>,
) -> Answered<Json<Sessions>> {
    let limit = page(listing.limit)?;
    let filter = Filter {
        subject: super::subject_filter(listing.subject)?,
        segment: listing.segment,
        service: listing.service,
        enforcer: listing.enforcer,
        door: listing.door,
        state: listing.state,
        policy: listing.policy,
    };
    let after = listing.after;
    let mut sessions = app
        .blocking(move |app| app.parts.fleet.sessions(&filter, after, limit + 1))
        .await?;
    let more = sessions.len() > limit;
    sessions.truncate(limit);
    let next = sessions.last().filter(|_| more).map(|last| last.id);
    Ok(Json(Sessions { sessions, next }))
}

/// Shows a session, living or among the 10,000 that ended last.
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Session), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(id): Path<SessionId>,
) -> Answered<Json<Session>> {
    let session = app.blocking(move |app| app.parts.fleet.session(id)).await?;
    session
        .map(Json)
        .ok_or_else(|| Problem::not_found("session", id))
}

/// Says why a session is there, and when and why it will end or ended.
#[utoipa::path(get, path = "/v1/sessions/{id}/explain", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Explanation), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn explain(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(id): Path<SessionId>,
) -> Answered<Json<Explanation>> {
    let explanation = app.blocking(move |app| app.parts.fleet.explain(id)).await?;
    explanation
        .map(Json)
        .ok_or_else(|| Problem::not_found("session", id))
}

/// Why a session is cancelled.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Why {
    /// In the operator's words.
    reason: Option<String>,
}

/// A cancelled session.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Cancelled {
    #[schema(value_type = String)]
    id: SessionId,
    /// When it was ordered.
    #[schema(value_type = String, format = DateTime)]
    at: WallInstant,
    /// How long it took until the door had closed it, in milliseconds.
    closed_after_ms: f64,
}

/// Ends one session now, in audit mode too. It closes at once; the answer comes when that is on record.
#[utoipa::path(delete, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path), Why),
    responses((status = 200, body = Cancelled), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    Operator(by): Operator,
    Path(id): Path<SessionId>,
    Query(why): Query<Why>,
) -> Answered<Json<Cancelled>> {
    let reason = why.reason.as_deref().unwrap_or("cancelled by an operator");
    let reason = words("reason", reason)?;
    let working = Arc::clone(&app);
    app.finish(async move {
        let app = working;
        let start = app.parts.clock.now();
        let cause = format!("{}: {reason}", by.source());
        let (cancelled, after) = app
            .blocking(move |app| {
                let cancelled = app.parts.fleet.cancel(id, &cause);
                (cancelled, app.parts.clock.now().boot.since(start.boot))
            })
            .await?;
        cancelled?;
        app.record(&entry(&app, EventKind::SessionCancelled, &by, id, reason))
            .await?;
        Ok(Json(Cancelled {
            id,
            at: start.wall,
            closed_after_ms: after.as_secs_f64() * 1_000.0,
        }))
    })
    .await
}

/// Takes fresh proof of the session's subject into account. An operator's word is not proof.
#[utoipa::path(post, path = "/v1/sessions/{id}/renew", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Session), (status = 403, description = "`proof_required`: there is no fresh proof", body = Document, content_type = "application/problem+json")))]
pub(super) async fn renew(
    State(app): State<Arc<App>>,
    Operator(by): Operator,
    Path(id): Path<SessionId>,
) -> Answered<Json<Session>> {
    let working = Arc::clone(&app);
    app.finish(async move {
        let app = working;
        app.must_record()?;
        let renewed = app.blocking(move |app| app.parts.fleet.renew(id)).await??;
        let words = "renewed on fresh proof".to_owned();
        app.record(&entry(&app, EventKind::SessionRenewed, &by, id, words))
            .await?;
        Ok(Json(renewed))
    })
    .await
}

fn entry(app: &App, event: EventKind, by: &Caller, id: SessionId, cause: String) -> Entry {
    let deed = Deed { event, by, cause };
    let mut entry = deed.entry(app.wall(), app.parts.store.read().revision);
    entry.session = Some(id);
    entry
}

impl From<FleetError> for Problem {
    fn from(error: FleetError) -> Self {
        let code = match error {
            FleetError::Unknown(_) => Code::NotFound,
            FleetError::ProofRequired(_) => Code::ProofRequired,
            FleetError::Unreachable(_) => Code::Unreachable,
        };
        Self::new(code, error.to_string())
    }
}
