//! Bodies, queries and paths as values; what does not fit becomes a problem document.

use std::error::Error;

use axum::{
    extract::{FromRequest, FromRequestParts, Request, path::ErrorKind, rejection::PathRejection},
    http::{HeaderMap, header, request::Parts},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, error::Category};

use crate::problem::{Code, Problem};

/// A JSON body, in or out.
#[derive(Clone, Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Json<T> {
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            return Err(Problem::new(
                Code::UnsupportedMediaType,
                "send the body as `Content-Type: application/json`",
            ));
        }
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|error| Problem::new(Code::BadRequest, error.to_string()))?;
        serde_json::from_slice(&body).map(Self).map_err(|error| {
            let (code, detail) = match error.classify() {
                Category::Data => (Code::Invalid, error.to_string()),
                // A choice that names nothing, or two things, is taken for bad syntax: only the whole body tells.
                _ if serde_json::from_slice::<Value>(&body).is_ok() => {
                    let detail =
                        format!("where one of several is chosen, name exactly one: {error}");
                    (Code::Invalid, detail)
                }
                _ => (Code::MalformedJson, error.to_string()),
            };
            Problem::new(code, detail)
                .with("line", error.line())
                .with("column", error.column())
        })
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|v| v.to_str().ok());
    kind.and_then(|kind| kind.split(';').next())
        .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("application/json"))
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(body) => ([(header::CONTENT_TYPE, "application/json")], body).into_response(),
            Err(error) => Problem::new(Code::Internal, error.to_string()).into_response(),
        }
    }
}

/// The query string.
pub(crate) struct Query<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Query::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Query(value)| Self(value))
            .map_err(|error| {
                // What is wrong is the innermost error, without what axum says of it.
                let why = error.source().map_or_else(|| error.body_text(), plain);
                Problem::new(Code::BadRequest, format!("in the query: {why}"))
            })
    }
}

/// What is wrong with a text, in words for whoever wrote it.
fn plain(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let (name, why) = text.rsplit_once(": ").unwrap_or(("", &text));
    // As the standard library says it of numbers.
    let is_number = ["invalid digit", "cannot parse integer", "number too "];
    if is_number.iter().any(|start| why.starts_with(start)) {
        return format!("{name}: a whole number is expected");
    }
    text
}

/// The variable part of the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|error| {
                let detail = match error {
                    PathRejection::FailedToDeserializePathParams(error) => {
                        unread(error.into_kind())
                    }
                    other => other.body_text(),
                };
                Problem::new(Code::NotFound, detail)
            })
    }
}

/// Why a part of the path names nothing.
fn unread(kind: ErrorKind) -> String {
    match kind {
        ErrorKind::ParseError { value, .. } => {
            format!("{value:?} in the path: a whole number is expected")
        }
        ErrorKind::DeserializeError { value, message, .. } if message.starts_with("UUID ") => {
            let example = "018f0000-0000-7000-8000-000000000000";
            format!("{value:?} in the path: an id like {example} is expected")
        }
        ErrorKind::DeserializeError { value, message, .. } => {
            format!("{value:?} in the path: {message}")
        }
        other => other.to_string(),
    }
}
