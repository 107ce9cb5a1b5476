//! API tokens: list, make, remove. A token is shown once, when it is made.

use std::{sync::Arc, time::Duration};

use axum::{extract::State, http::StatusCode};
use curfew_model::{EnforcerId, EventKind, WallInstant, canonical_net};
use curfew_state::{ApiToken, Change, Expected, Hash, Role};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    app::{App, Deed},
    caller::Admin,
    extract::{Json, Path},
    problem::{Answered, Code, Document, Problem},
    token,
};

/// Networks of one token, at most.
const NETWORKS: usize = 256;

/// A token on record, without the token.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Token)]
pub(super) struct Shown {
    name: String,
    /// `viewer`, `operator`, `admin` or `binder`.
    #[schema(value_type = String)]
    role: Role,
    /// Where the addresses that a binder binds have to be in.
    #[schema(value_type = Vec<String>)]
    networks: Vec<IpNet>,
    #[schema(value_type = String, format = DateTime)]
    created_at: WallInstant,
}

impl From<&ApiToken> for Shown {
    fn from(token: &ApiToken) -> Self {
        Self {
            name: token.name.clone(),
            role: token.role,
            networks: token.networks.clone(),
            created_at: token.created_at,
        }
    }
}

/// Every token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Tokens {
    tokens: Vec<Shown>,
}

/// Lists tokens.
#[utoipa::path(get, path = "/v1/tokens", tag = "tokens", responses((status = 200, body = Tokens)))]
pub(super) async fn list(State(app): State<Arc<App>>, _: Admin) -> Answered<Json<Tokens>> {
    let state = app.parts.store.read();
    let tokens = state.tokens.values().map(Shown::from).collect();
    Ok(Json(Tokens { tokens }))
}

/// A token to make.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewToken {
    /// 1 to 253 of `a-z 0-9 - . _`.
    name: String,
    /// `viewer`, `operator`, `admin` or `binder`.
    #[schema(value_type = String)]
    role: Role,
    /// For a binder: where the addresses that it binds have to be in.
    #[serde(default)]
    #[schema(value_type = Vec<String>)]
    networks: Vec<IpNet>,
}

/// A made token.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Made {
    #[serde(flatten)]
    shown: Shown,
    /// The token. It is not kept, and not shown again.
    token: String,
}

/// Makes a token.
#[utoipa::path(post, path = "/v1/tokens", tag = "tokens", request_body = NewToken,
    responses((status = 201, body = Made), (status = 409, body = Document, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Admin(by): Admin,
    Json(new): Json<NewToken>,
) -> Answered<(StatusCode, Json<Made>)> {
    // Tokens are named by the same letters as everything else.
    EnforcerId::new(&new.name).map_err(|error| Problem::new(Code::Invalid, error.to_string()))?;
    let fits = match new.role {
        Role::Binder => (1..=NETWORKS).contains(&new.networks.len()),
        _ => new.networks.is_empty(),
    };
    if !fits {
        let detail = format!("networks: 1 to {NETWORKS} for a binder, none for others");
        return Err(Problem::new(Code::Invalid, detail));
    }
    for net in &new.networks {
        super::bindings::whole_range("networks", net)?;
    }
    let working = Arc::clone(&app);
    app.finish(async move {
        let app = working;
        let token = token::make().map_err(|error| {
            Problem::new(
                Code::Internal,
                format!("no randomness for a token: {error}"),
            )
        })?;
        let kept = ApiToken {
            name: new.name,
            hash: Hash::of(token.as_bytes()),
            role: new.role,
            networks: new.networks.into_iter().map(canonical_net).collect(),
            created_at: app.wall(),
        };
        let shown = Shown::from(&kept);
        let deed = Deed {
            event: EventKind::TokenChanged,
            by: &by,
            cause: format!("token {} was made: {}", kept.name, super::word(kept.role)),
        };
        app.change(
            Expected::Nothing,
            vec![Change::PutToken(kept)],
            deed,
            Duration::ZERO,
        )
        .await?;
        Ok((StatusCode::CREATED, Json(Made { shown, token })))
    })
    .await
}

/// Removes a token: what it presents is refused from now on. The last admin's stays.
#[utoipa::path(delete, path = "/v1/tokens/{name}", tag = "tokens", params(("name" = String, Path)),
    responses((status = 204), (status = 404, body = Document, content_type = "application/problem+json"), (status = 409, body = Document, content_type = "application/problem+json")))]
pub(super) async fn remove(
    State(app): State<Arc<App>>,
    Admin(by): Admin,
    Path(name): Path<String>,
) -> Answered<StatusCode> {
    let working = Arc::clone(&app);
    app.finish(async move {
        let app = working;
        let deed = Deed {
            event: EventKind::TokenChanged,
            by: &by,
            cause: format!("token {name} was removed"),
        };
        let change = Change::RemoveToken(name);
        app.change(Expected::Nothing, vec![change], deed, Duration::ZERO)
            .await?;
        Ok(StatusCode::NO_CONTENT)
    })
    .await
}
