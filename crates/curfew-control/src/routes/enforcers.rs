//! Enforcers: list, and the one order that is for an enforcer alone.

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use curfew_model::{EnforcerId, EventKind, format_duration};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Enforcer, FleetError,
    app::{App, Deed},
    caller::{Admin, Viewer},
    extract::{Json, Path},
    problem::{Answered, Document, Problem},
};

/// Every enforcer.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Enforcers {
    enforcers: Vec<Enforcer>,
}

/// Lists enforcers.
#[utoipa::path(get, path = "/v1/enforcers", tag = "enforcers", responses((status = 200, body = Enforcers)))]
pub(super) async fn list(State(app): State<Arc<App>>, _: Viewer) -> Answered<Json<Enforcers>> {
    let enforcers = app.look(|app| app.parts.fleet.enforcers()).await?;
    Ok(Json(Enforcers { enforcers }))
}

/// Has an enforcer judge by its wall clock again, though a later time is on record: for a clock that was wrong ahead and
/// is right now. Until then no admission is judged by an earlier time than one before, after a restart either.
#[utoipa::path(post, path = "/v1/enforcers/{id}/accept-clock", tag = "enforcers", params(("id" = String, Path)),
    responses((status = 200, body = Enforcer), (status = 404, body = Document, content_type = "application/problem+json"),
        (status = 503, description = "`not_on_record`, `not_durable`: a restart would judge by the record again", body = Document, content_type = "application/problem+json")))]
pub(super) async fn accept_clock(
    State(app): State<Arc<App>>,
    Admin(by): Admin,
    Path(id): Path<EnforcerId>,
) -> Answered<Json<Enforcer>> {
    let working = Arc::clone(&app);
    app.finish(async move {
        let app = working;
        app.must_record()?;
        let caller = by.clone();
        let (behind, accepted) = app
            .blocking(move |app| {
                caller.check_known(&app.parts.store.read())?;
                let known = app.parts.fleet.enforcers();
                let known = known.into_iter().find(|known| known.id == id);
                let known = known.ok_or(FleetError::UnknownEnforcer(id))?;
                let accepted = app.parts.fleet.accept_clock(&known.id)?;
                Ok::<_, Problem>((known.clock_behind_ms, accepted))
            })
            .await??;
        let behind = format_duration(Duration::from_millis(behind));
        let deed = Deed {
            event: EventKind::ClockAccepted,
            by: &by,
            cause: format!("enforcer {} was {behind} behind the record", accepted.id),
        };
        // After everything that was judged by the other time, so that the next start reads them in this order.
        let at = app.wall();
        app.record(&deed.entry(at, accepted.revision)).await?;
        app.blocking(move |app| {
            app.parts.fleet.clock_accepted(&accepted.id, at)?;
            Ok(Json(accepted))
        })
        .await?
    })
    .await
}
