//! The routes of the API, one file for each kind of thing, and the OpenAPI document that describes them.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::{Method, Uri, header},
    response::IntoResponse,
    routing::get,
};
use curfew_model::{Kind, Revision, parse_duration};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use utoipa::{IntoParams, OpenApi, ToSchema};
use utoipa_axum::{
    router::{OpenApiRouter, UtoipaMethodRouter},
    routes,
};

use crate::{
    Outcome,
    app::App,
    guard,
    problem::{Answered, Code, Document, Problem},
};

mod audit;
mod bindings;
mod described;
mod enforcers;
mod health;
mod policies;
mod revocations;
mod revoke;
mod sessions;
mod subjects;
mod tokens;
mod watch;

use described::Bearer;

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

/// Every route, with the schemas that it brings into the document.
fn all() -> Vec<UtoipaMethodRouter<Arc<App>>> {
    vec![
        routes!(sessions::list),
        routes!(sessions::show, sessions::cancel),
        routes!(sessions::explain),
        routes!(sessions::renew),
        routes!(revocations::list, revoke::create),
        routes!(revocations::show),
        routes!(revocations::lift),
        routes!(watch::watch),
        routes!(policies::segments),
        routes!(policies::list, policies::apply),
        routes!(policies::validate),
        routes!(policies::history),
        routes!(policies::past),
        routes!(bindings::list, bindings::bind, bindings::unbind),
        routes!(subjects::list, subjects::set, subjects::forget),
        routes!(tokens::list, tokens::create),
        routes!(tokens::remove),
        routes!(enforcers::list),
        routes!(enforcers::accept_clock),
        routes!(audit::tail),
        routes!(audit::head),
        routes!(audit::verify),
        routes!(health::metrics),
        routes!(health::alive),
        routes!(health::ready),
    ]
}

fn described() -> OpenApiRouter<Arc<App>> {
    let empty = OpenApiRouter::with_openapi(Api::openapi());
    let mut router = all().into_iter().fold(empty, OpenApiRouter::routes);
    described::complete(router.get_openapi_mut());
    router
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

/// What a change came to.
#[derive(Debug, Serialize, ToSchema)]
struct Changed {
    #[schema(value_type = u64)]
    revision: Revision,
    /// What each enforcer did.
    enforcers: Vec<Outcome>,
    /// What is probably not meant.
    warnings: Vec<String>,
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
    let is_kind = |word: &str| word == Kind::Address.as_str() || Kind::of_word(word).is_some();
    let kind = text.as_deref().map(|text| text.split_once(':'));
    match kind {
        Some(None) => {}
        Some(Some((kind, id))) if !is_kind(kind) || id.is_empty() => {}
        // The issuer `local` is not written.
        Some(Some((kind, id))) => {
            let id = id.strip_prefix("local#").unwrap_or(id);
            return Ok(Some(format!("{kind}:{id}")));
        }
        None => return Ok(None),
    }
    let detail = "subject: write KIND:ID or KIND:ISSUER#ID, like user:alice; kinds are user, workload, device, role and address";
    Err(Problem::new(Code::BadRequest, detail))
}

/// Refuses what stands for nobody: an address is no identity, and a role is one of a service.
fn named(kind: Kind, id: &str) -> Answered<()> {
    let is_whole = |(service, name): (&str, &str)| !service.is_empty() && !name.is_empty();
    let detail = match kind {
        Kind::Address => {
            "kind: user, workload, device or role; who has no identity is ended by session or by segment".to_owned()
        }
        Kind::Role if !id.split_once('/').is_some_and(is_whole) => format!(
            "id: a role is written SERVICE/NAME, as sessions show it: not {id:?}, but like orders/admin"
        ),
        _ => return Ok(()),
    };
    Err(Problem::new(Code::Invalid, detail))
}

/// Says that no door that there is knows a device, neither by itself nor from a binding.
fn devices_unseen(what: &str) -> String {
    format!("no door knows devices yet: {what}")
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
