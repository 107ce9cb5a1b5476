//! Enforcers: list.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Enforcer, app::App, caller::Viewer, extract::Json, problem::Answered};

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
