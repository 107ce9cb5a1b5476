//! Sessions: list, show, explain, cancel, renew.

use std::sync::Arc;

use axum::extract::State;
use curfew_model::{
    EnforcerId, EventKind, PolicyName, Scope, SegmentName, ServiceName, SessionId, WallInstant,
};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{page, words};
use crate::{
    Door, Explanation, Filter, FleetError, Outcome, Session, Standing,
    app::{App, Deed},
    caller::{Operator, Viewer},
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
    #[param(minimum = 1, maximum = 1000)]
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
    /// What is probably not meant: there is none, and a filter names what does not exist.
    warnings: Vec<String>,
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
    let (mut sessions, warnings) = app
        .look(move |app| {
            let sessions = app.parts.fleet.sessions(&filter, after, limit + 1);
            let none = sessions.is_empty() && after.is_none();
            let warnings = if none {
                unknown(app, filter)
            } else {
                Vec::new()
            };
            (sessions, warnings)
        })
        .await?;
    let more = sessions.len() > limit;
    sessions.truncate(limit);
    let next = sessions.last().filter(|_| more).map(|last| last.id);
    Ok(Json(Sessions {
        sessions,
        next,
        warnings,
    }))
}

fn unknown_session(id: SessionId) -> Problem {
    let detail = format!(
        "no session {id} is open or among those that ended or were refused last: of older ones, and of clients that were turned away before they had one, the audit log tells"
    );
    Problem::new(Code::NotFound, detail)
}

/// What a filter names and does not exist. May block.
fn unknown(app: &App, filter: Filter) -> Vec<String> {
    let named = [
        filter.segment.map(Scope::Segment),
        filter.policy.map(Scope::Policy),
        filter.enforcer.map(Scope::Enforcer),
    ];
    let missing = |scope: Scope| super::revoke::missing(app, &scope);
    let missing = named.into_iter().flatten().filter_map(missing);
    let no_service = filter.service.filter(|service| {
        let enforcers = app.parts.fleet.enforcers();
        !enforcers
            .iter()
            .any(|known| known.services.contains(service))
    });
    let no_service = no_service.map(|name| format!("no enforcer has a service `{name}`"));
    missing.chain(no_service).collect()
}

/// Shows a session, living or among the 10,000 that ended last.
#[utoipa::path(get, path = "/v1/sessions/{id}", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Session), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn show(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(id): Path<SessionId>,
) -> Answered<Json<Session>> {
    let session = app.look(move |app| app.parts.fleet.session(id)).await?;
    session.map(Json).ok_or_else(|| unknown_session(id))
}

/// Says why a session is there, and when and why it will end or ended.
#[utoipa::path(get, path = "/v1/sessions/{id}/explain", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Explanation), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn explain(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(id): Path<SessionId>,
) -> Answered<Json<Explanation>> {
    let explanation = app.look(move |app| app.parts.fleet.explain(id)).await?;
    explanation.map(Json).ok_or_else(|| unknown_session(id))
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
    /// From the order until the door had closed it; where its enforcer does not say when, until it had answered. In
    /// milliseconds.
    closed_after_ms: f64,
    /// What its enforcer did.
    enforcers: Vec<Outcome>,
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
        let (cancelled, answered) = app
            .blocking(move |app| {
                let cancelled = app.parts.fleet.cancel(id, &cause);
                let answered = app.parts.clock.now().boot;
                (cancelled.map_err(|error| failed(app, id, error)), answered)
            })
            .await?;
        let outcome = cancelled?;
        let closed_at = outcome.closed_at.unwrap_or(answered);
        let deed = Deed {
            event: EventKind::SessionCancelled,
            by: &by,
            cause: reason,
        };
        let mut entry = deed.entry(app.wall(), app.parts.store.read().revision);
        entry.session = Some(id);
        app.record(&entry).await?;
        Ok(Json(Cancelled {
            id,
            at: start.wall,
            closed_after_ms: closed_at.since(start.boot).as_secs_f64() * 1_000.0,
            enforcers: vec![outcome],
        }))
    })
    .await
}

/// Takes fresh proof of the session's subject into account. An operator's word is not proof. The enforcer puts the renewal
/// on record, once for each proof.
#[utoipa::path(post, path = "/v1/sessions/{id}/renew", tag = "sessions", params(("id" = String, Path)),
    responses((status = 200, body = Session), (status = 403, description = "`proof_required`: there is no fresh proof", body = Document, content_type = "application/problem+json")))]
pub(super) async fn renew(
    State(app): State<Arc<App>>,
    Operator(_): Operator,
    Path(id): Path<SessionId>,
) -> Answered<Json<Session>> {
    let working = Arc::clone(&app);
    app.finish(async move {
        working.must_record()?;
        let renewed = working.blocking(move |app| {
            let renewed = app.parts.fleet.renew(id);
            renewed.map_err(|error| failed(app, id, error))
        });
        Ok(Json(renewed.await??))
    })
    .await
}

/// Why a session could not be cancelled or renewed: of one that ends or ended not long ago, how. May block.
fn failed(app: &App, id: SessionId, error: FleetError) -> Problem {
    let over = match error {
        FleetError::Unknown(_) => app.parts.fleet.session(id).and_then(|known| known.over()),
        FleetError::ProofRequired(_)
        | FleetError::UnknownEnforcer(_)
        | FleetError::NotKept(..)
        | FleetError::Unreachable(_) => None,
    };
    match over {
        Some(over) => Problem::new(Code::NotFound, format!("session {id} is not open: {over}")),
        None => error.into(),
    }
}

impl From<FleetError> for Problem {
    fn from(error: FleetError) -> Self {
        let code = match error {
            FleetError::Unknown(_) | FleetError::UnknownEnforcer(_) => Code::NotFound,
            FleetError::ProofRequired(_) => Code::ProofRequired,
            FleetError::NotKept(..) => Code::NotDurable,
            FleetError::Unreachable(_) => Code::Unreachable,
        };
        Self::new(code, error.to_string())
    }
}
