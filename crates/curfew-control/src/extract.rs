//! Bodies, queries and paths as values; what does not fit becomes a problem document.

use axum::{
    extract::{FromRequest, FromRequestParts, Request},
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
            .map_err(|error| Problem::new(Code::BadRequest, error.body_text()))
    }
}

/// The variable part of the path.
pub(crate) struct Path<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned + Send> FromRequestParts<S> for Path<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        axum::extract::Path::from_request_parts(parts, state)
            .await
            .map(|axum::extract::Path(value)| Self(value))
            .map_err(|error| Problem::new(Code::NotFound, error.body_text()))
    }
}
