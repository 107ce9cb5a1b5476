//! Errors as problem documents (RFC 9457): one closed list of codes, each with its status and title.
//!
//! `detail` is for the caller: what an inner error says goes into it only where the caller may know.

use axum::{
    body::Body,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use curfew_state::CommitError;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use crate::schema;

/// The media type of problem documents.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

macro_rules! codes {
    ($($variant:ident = $code:literal, $status:ident, $title:literal;)*) => {
        /// What went wrong. The code is stable.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Code { $(#[doc = $title] $variant,)* }

        impl Code {
            pub(crate) const ALL: &[Self] = &[$(Self::$variant,)*];

            pub(crate) fn code(self) -> &'static str {
                match self { $(Self::$variant => $code,)* }
            }

            pub(crate) fn status(self) -> StatusCode {
                match self { $(Self::$variant => StatusCode::$status,)* }
            }

            pub(crate) fn title(self) -> &'static str {
                match self { $(Self::$variant => $title,)* }
            }
        }
    };
}

codes! {
    BadRequest = "bad_request", BAD_REQUEST, "The request is not understood";
    MalformedJson = "malformed_json", BAD_REQUEST, "The body is not JSON";
    Unauthenticated = "unauthenticated", UNAUTHORIZED, "A valid token is needed";
    Forbidden = "forbidden", FORBIDDEN, "The token's role does not allow this";
    ProofRequired = "proof_required", FORBIDDEN, "A renewal needs fresh proof";
    NotFound = "not_found", NOT_FOUND, "There is no such thing";
    MethodNotAllowed = "method_not_allowed", METHOD_NOT_ALLOWED, "The method does not fit the path";
    RequestTimeout = "request_timeout", REQUEST_TIMEOUT, "The request took too long to arrive";
    Conflict = "conflict", CONFLICT, "The state does not allow this";
    NameTaken = "name_taken", CONFLICT, "A document of another owner has this name";
    TooLarge = "too_large", PAYLOAD_TOO_LARGE, "The body is too large";
    UnsupportedMediaType = "unsupported_media_type", UNSUPPORTED_MEDIA_TYPE, "The body has to be JSON";
    WrongHost = "wrong_host", MISDIRECTED_REQUEST, "The Host header names another host";
    Invalid = "invalid", UNPROCESSABLE_ENTITY, "A value is not valid";
    PolicyInvalid = "policy_invalid", UNPROCESSABLE_ENTITY, "The policy set has errors";
    KeyReused = "idempotency_key_reused", UNPROCESSABLE_ENTITY, "The idempotency key belongs to another request";
    TooManyRequests = "too_many_requests", TOO_MANY_REQUESTS, "Too many requests";
    Internal = "internal", INTERNAL_SERVER_ERROR, "Curfew failed";
    NotDurable = "not_durable", SERVICE_UNAVAILABLE, "The change is not known to be on disk";
    NotOnRecord = "not_on_record", SERVICE_UNAVAILABLE, "The audit log does not take records";
    Unreachable = "unreachable", SERVICE_UNAVAILABLE, "The enforcer does not answer";
    TimedOut = "timed_out", GATEWAY_TIMEOUT, "The answer took too long";
    NotBlocked = "not_blocked", INSUFFICIENT_STORAGE, "There is no room for a further block";
}

/// A problem document.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub(crate) struct Document {
    /// `tag:curfew.dev,2026:CODE`.
    #[serde(rename = "type")]
    kind: String,
    /// The code in words, the same for every problem of it.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What happened here, and what to do.
    detail: String,
    /// The stable code.
    code: &'static str,
    #[serde(flatten)]
    #[schema(value_type = schema::ProblemMore)]
    more: Map<String, Value>,
}

/// A problem on its way to the caller. The document is boxed: problems are rare, and it is large.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    document: Box<Document>,
    code: Code,
    retry_after: Option<u64>,
}

impl Problem {
    pub(crate) fn new(code: Code, detail: impl Into<String>) -> Self {
        let document = Document {
            kind: format!("tag:curfew.dev,2026:{}", code.code()),
            title: code.title(),
            status: code.status().as_u16(),
            detail: detail.into(),
            code: code.code(),
            more: Map::new(),
        };
        Self {
            document: Box::new(document),
            code,
            retry_after: None,
        }
    }

    pub(crate) fn code(&self) -> Code {
        self.code
    }

    /// One more member of the document.
    pub(crate) fn with(mut self, name: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.document.more.insert(name.to_owned(), value);
        }
        self
    }

    /// Something else that is true of it.
    pub(crate) fn also(mut self, words: impl std::fmt::Display) -> Self {
        self.document.detail = format!("{}; {words}", self.document.detail);
        self
    }

    /// When to come back, in seconds.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after = Some(seconds);
        self
    }

    pub(crate) fn not_found(what: &str, name: impl std::fmt::Display) -> Self {
        Self::new(Code::NotFound, format!("there is no {what} {name}"))
    }
}

/// What handlers answer.
pub(crate) type Answered<T> = Result<T, Problem>;

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = serde_json::to_vec(&self.document).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.code.status();
        let headers = response.headers_mut();
        let kind = HeaderValue::from_static(PROBLEM_JSON);
        headers.insert(header::CONTENT_TYPE, kind);
        if self.code == Code::Unauthenticated {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

impl From<CommitError> for Problem {
    fn from(error: CommitError) -> Self {
        let code = match &error {
            CommitError::Conflict { .. }
            | CommitError::OtherRevocation(_)
            | CommitError::TokenExists(_)
            | CommitError::LastAdmin => Code::Conflict,
            CommitError::KeyReused(_) => Code::KeyReused,
            CommitError::Unknown { .. } => Code::NotFound,
            CommitError::Limit { .. } => Code::Invalid,
            CommitError::Empty => Code::Internal,
            CommitError::Storage(_) | CommitError::Closed => Code::NotDurable,
        };
        Self::new(code, error.to_string())
    }
}
