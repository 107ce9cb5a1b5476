//! Metrics, and whether the process is alive and ready.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};
use serde::Serialize;
use utoipa::ToSchema;

use crate::{
    Door, OpenCount,
    app::{App, Phase},
    caller::Viewer,
    extract::Json,
    metrics::Read,
    problem::Answered,
};

/// What is counted, as OpenMetrics text.
#[utoipa::path(get, path = "/metrics", tag = "health", responses((status = 200, content_type = "application/openmetrics-text")))]
pub(super) async fn metrics(State(app): State<Arc<App>>, _: Viewer) -> Answered<Response> {
    let text = app
        .look(|app| {
            let parts = &app.parts;
            let (mut open, health) = (parts.fleet.open(), parts.journal.health());
            let (state, enforcers) = (parts.store.read(), parts.fleet.enforcers());
            let behind = enforcers.iter().map(|known| known.clock_behind_ms).max();
            // Of each segment of the policy there is a series, so that none open is a number too.
            if let Ok(policy) = app.segments.of(&state, &*parts.compile) {
                let doors: Vec<Door> = enforcers
                    .into_iter()
                    .flat_map(|known| known.doors)
                    .collect();
                let named = policy
                    .segments
                    .iter()
                    .map(|segment| Some(segment.name.clone()));
                open.extend(named.flat_map(|segment| {
                    doors.iter().map(move |&door| OpenCount {
                        segment: segment.clone(),
                        door,
                        open: 0,
                    })
                }));
            }
            parts.metrics.write(&Read {
                open: &open,
                revision: state.revision,
                health: &health,
                behind: Duration::from_millis(behind.unwrap_or_default()),
            })
        })
        .await?;
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

/// The process answers.
#[utoipa::path(get, path = "/healthz", tag = "health", security(()), responses((status = 200, content_type = "text/plain")))]
pub(super) async fn alive() -> &'static str {
    "ok\n"
}

/// Whether changes can be made and clients are let in.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Ready {
    ready: bool,
    /// Whether the audit log takes records.
    audit: bool,
    /// Whether the state is where the next start will look for it.
    state: bool,
    /// Whether the process is not stopping.
    serving: bool,
    /// Why not, in words.
    reason: Option<&'static str>,
}

/// Whether changes can be made and clients are let in: 503 if not.
#[utoipa::path(get, path = "/readyz", tag = "health", security(()), responses((status = 200, body = Ready), (status = 503, body = Ready)))]
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let audit = app.parts.journal.health().keeps_records();
    let state = app.parts.store.is_in_place().is_ok();
    let phase = *app.phase.borrow();
    let reason = match phase {
        Phase::Draining => Some("the process stops: sessions may finish, and nobody new is let in"),
        Phase::Stopping => Some("the process stops"),
        Phase::Serving if !audit => Some("the audit log takes no records"),
        Phase::Serving if !state => {
            Some("the state was removed or replaced while this process runs: no change is kept")
        }
        Phase::Serving => None,
    };
    let ready = reason.is_none();
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(Ready {
            ready,
            audit,
            state,
            serving: phase == Phase::Serving,
            reason,
        }),
    )
        .into_response()
}
