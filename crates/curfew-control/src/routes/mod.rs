//! The routes of the API, one file for each kind of thing, and the OpenAPI document that describes them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, Uri, header},
    response::IntoResponse,
    routing::get,
};
use curfew_model::parse_duration;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{
    IntoParams, Modify, OpenApi,
    openapi::security::{Http, HttpAuthScheme, SecurityScheme},
};
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    app::App,
    guard,
    problem::{Answered, Code, Document, Problem},
};

mod audit;
mod bindings;
mod enforcers;
mod health;
mod policies;
mod revocations;
mod revoke;
mod sessions;
mod subjects;
mod tokens;
mod watch;

/// How long an answer waits for enforcers if the caller does not say.
const WAIT: Duration = Duration::from_secs(5);
/// The longest `wait`.
const LONGEST_WAIT: Duration = Duration::from_secs(60);
/// Entries of a list if the caller does not say, and at most.
const PAGE: (usize, usize) = (100, 1_000);

#[derive(OpenApi)]
#[openapi(
    info(title = "Curfew", description = "Ends network sessions on time. Instants are RFC 3339 UTC with milliseconds; errors are problem documents (RFC 9457)."),
    components(schemas(Document)),
    modifiers(&Bearer),
    security(("token" = [])),
)]
struct Api;

struct Bearer;

impl Modify for Bearer {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        if let Some(components) = &mut openapi.components {
            components.add_security_scheme(
                "token",
                SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)),
            );
        }
    }
}

fn described() -> OpenApiRouter<Arc<App>> {
    OpenApiRouter::with_openapi(Api::openapi())
        .routes(routes!(sessions::list))
        .routes(routes!(sessions::show, sessions::cancel))
        .routes(routes!(sessions::explain))
        .routes(routes!(sessions::renew))
        .routes(routes!(revocations::list, revoke::create))
        .routes(routes!(revocations::show))
        .routes(routes!(revocations::lift))
        .routes(routes!(watch::watch))
        .routes(routes!(policies::segments))
        .routes(routes!(policies::list, policies::apply))
        .routes(routes!(policies::validate))
        .routes(routes!(policies::history))
        .routes(routes!(policies::past))
        .routes(routes!(bindings::list, bindings::bind, bindings::unbind))
        .routes(routes!(subjects::list, subjects::set, subjects::forget))
        .routes(routes!(tokens::list, tokens::create))
        .routes(routes!(tokens::remove))
        .routes(routes!(enforcers::list))
        .routes(routes!(audit::tail))
        .routes(routes!(audit::head))
        .routes(routes!(audit::verify))
        .routes(routes!(health::metrics))
        .routes(routes!(health::alive))
        .routes(routes!(health::ready))
}

/// The OpenAPI document as JSON.
///
/// # Errors
/// When it cannot be written, which it always can.
pub fn openapi() -> Result<String, serde_json::Error> {
    described().into_openapi().to_pretty_json()
}

/// Every route behind the guard.
pub(crate) fn router(app: &Arc<App>) -> Router {
    let (router, document) = described().split_for_parts();
    let document: Arc<str> = document.to_json().unwrap_or_default().into();
    let document = move || async move {
        (
            [(header::CONTENT_TYPE, "application/json")],
            document.to_string(),
        )
    };
    router
        .route("/v1/openapi.json", get(document))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        // The guard has read the body within its own limits, which are wider for policy sets.
        .layer(DefaultBodyLimit::disable())
        .layer(axum::middleware::from_fn_with_state(
            Arc::clone(app),
            guard::guard,
        ))
        .with_state(Arc::clone(app))
}

async fn not_found(uri: Uri) -> impl IntoResponse {
    Problem::not_found("path", uri.path())
}

async fn method_not_allowed(method: Method, uri: Uri) -> impl IntoResponse {
    let detail = format!("{} takes no {method}: see `Allow`", uri.path());
    Problem::new(Code::MethodNotAllowed, detail)
}

/// How long to wait for enforcers.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct Wait {
    /// How long the answer waits for enforcers, like `5s`; at most 60s.
    wait: Option<String>,
}

impl Wait {
    fn read(&self) -> Answered<Duration> {
        let Some(text) = &self.wait else {
            return Ok(WAIT);
        };
        let wait = parse_duration(text)
            .map_err(|error| Problem::new(Code::BadRequest, format!("wait: {error}")))?;
        if wait > LONGEST_WAIT {
            return Err(Problem::new(Code::BadRequest, "wait: at most 60s"));
        }
        Ok(wait)
    }
}

/// How many entries of a list are wanted.
fn page(limit: Option<usize>) -> Answered<usize> {
    match limit.unwrap_or(PAGE.0) {
        limit if (1..=PAGE.1).contains(&limit) => Ok(limit),
        _ => Err(Problem::new(
            Code::BadRequest,
            format!("limit: 1 to {}", PAGE.1),
        )),
    }
}

/// A subject to look for, as names are shown. A name without its kind would find nothing, and look like an answer.
fn subject_filter(text: Option<String>) -> Answered<Option<String>> {
    let kinds = ["user", "workload", "device", "role"];
    let kind = text.as_deref().map(|text| text.split_once(':'));
    match kind {
        Some(None) => {}
        Some(Some((kind, id))) if !kinds.contains(&kind) || id.is_empty() => {}
        // The issuer `local` is not written.
        Some(Some((kind, id))) => {
            let id = id.strip_prefix("local#").unwrap_or(id);
            return Ok(Some(format!("{kind}:{id}")));
        }
        None => return Ok(None),
    }
    let detail = "subject: write KIND:ID or KIND:ISSUER#ID, like user:alice; kinds are user, workload, device and role";
    Err(Problem::new(Code::BadRequest, detail))
}

/// The place in a list that a `next` of ours names.
fn cursor<K: DeserializeOwned>(after: Option<&str>) -> Answered<Option<K>> {
    let unknown = |_| {
        Problem::new(
            Code::BadRequest,
            "after: give the `next` of the page before",
        )
    };
    after.map(serde_json::from_str).transpose().map_err(unknown)
}

fn as_cursor(key: &impl Serialize) -> String {
    serde_json::to_string(key).unwrap_or_default()
}

/// Words of a caller that go on record: not empty, not long, no control characters.
fn words(what: &str, text: &str) -> Answered<String> {
    let text = text.trim();
    if text.is_empty() || text.len() > 1_000 || text.chars().any(char::is_control) {
        let detail = format!("{what}: 1 to 1000 bytes without control characters");
        return Err(Problem::new(Code::Invalid, detail));
    }
    Ok(text.to_owned())
}

/// How an enum of ours is written.
fn word(value: impl Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(text)) => text,
        other => other.map(|value| value.to_string()).unwrap_or_default(),
    }
}
