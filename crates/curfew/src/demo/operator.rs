//! What an operator does in the demo: real requests to the control plane's API with the token of the data directory.

use std::{net::SocketAddr, path::Path, time::Duration};

use curfew_control::{Explanation, Outcome};
use curfew_model::{Revision, SessionId};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use ureq::{Agent, Body, http::Response};

/// How long the API may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// The longest answer that is read, in bytes.
const LONGEST: u64 = 1 << 20;

/// Why a request came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The API does not answer.
    #[error("the control plane does not answer")]
    Unreachable(#[source] ureq::Error),
    /// The API answers that it will not.
    #[error("the control plane refuses: {0}")]
    Refused(String),
    /// The answer is none.
    #[error("the control plane's answer is not readable")]
    Answer(#[from] serde_json::Error),
}

#[derive(Deserialize)]
struct Revoked {
    matched: u64,
    closed: u64,
    enforced_after_ms: f64,
    durable_after_ms: f64,
}

#[derive(Deserialize)]
struct Applied {
    revision: Revision,
    enforcers: Vec<Outcome>,
    took_ms: f64,
}

#[derive(Deserialize)]
struct Cancelled {
    closed_after_ms: f64,
}

#[derive(Deserialize)]
struct Refusal {
    detail: String,
}

/// Speaks to one API.
pub struct Operator {
    agent: Agent,
    server: String,
    bearer: String,
}

impl Operator {
    /// Takes the token from its file.
    ///
    /// # Errors
    /// The file system's.
    pub fn new(address: SocketAddr, token: &Path) -> std::io::Result<Self> {
        let config = Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .http_status_as_error(false)
            .proxy(None)
            .build();
        Ok(Self {
            agent: Agent::new_with_config(config),
            server: format!("http://{address}"),
            bearer: format!("Bearer {}", std::fs::read_to_string(token)?.trim()),
        })
    }

    /// Where the API is.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// Ends every session of a user and keeps the user out; says what was done.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn revoke(&self, user: &str) -> Result<String, OrderError> {
        let order = json!({
            "scope": {"subject": {"kind": "user", "issuer": null, "id": user}},
            "reason": "left the company",
        });
        let done: Revoked = self.post("/v1/revocations", &order)?;
        Ok(format!(
            "matched {}, closed {} in {:.1} ms, durable in {:.1} ms",
            done.matched, done.closed, done.enforced_after_ms, done.durable_after_ms,
        ))
    }

    /// Applies a policy document beside those of the files; says what was done.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn apply(&self, document: &str) -> Result<String, OrderError> {
        let set = json!({"sources": [{"path": "tightened.yaml", "text": document}]});
        let done: Applied = self.post("/v1/policies", &set)?;
        let closed: u64 = done.enforcers.iter().map(|enforcer| enforcer.closed).sum();
        Ok(format!(
            "revision {}, closed {closed} at once, in {:.1} ms",
            done.revision, done.took_ms
        ))
    }

    /// Ends one session; says what was done.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn cancel(&self, id: SessionId) -> Result<String, OrderError> {
        let request = self.agent.delete(self.at(&format!("/v1/sessions/{id}")));
        let done: Cancelled = read(request.header("authorization", &self.bearer).call())?;
        Ok(format!("closed in {:.1} ms", done.closed_after_ms))
    }

    /// Why a session is there and when it will end: a sentence, then each bound.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn explain(&self, id: SessionId) -> Result<Vec<String>, OrderError> {
        let request = self
            .agent
            .get(self.at(&format!("/v1/sessions/{id}/explain")));
        let why: Explanation = read(request.header("authorization", &self.bearer).call())?;
        let bounds = why.bounds.into_iter().map(|bound| {
            let field = bound.field.map(|field| format!(" {field}"));
            let place = bound.place.map(|place| format!(" ({place})"));
            format!(
                "{}: {} by {}{}{}",
                bound.bound,
                bound.reason,
                bound.by,
                field.unwrap_or_default(),
                place.unwrap_or_default()
            )
        });
        Ok(std::iter::once(why.text).chain(bounds).collect())
    }

    fn at(&self, path: &str) -> String {
        format!("{}{path}", self.server)
    }

    fn post<T: DeserializeOwned>(&self, path: &str, body: &Value) -> Result<T, OrderError> {
        let request = self.agent.post(self.at(path));
        let answer = request
            .header("authorization", &self.bearer)
            .header("content-type", "application/json")
            .send(body.to_string());
        read(answer)
    }
}

fn read<T: DeserializeOwned>(answer: Result<Response<Body>, ureq::Error>) -> Result<T, OrderError> {
    let mut answer = answer.map_err(OrderError::Unreachable)?;
    let body = answer.body_mut().with_config().limit(LONGEST);
    let text = body.read_to_string().map_err(OrderError::Unreachable)?;
    if answer.status().is_success() {
        return Ok(serde_json::from_str(&text)?);
    }
    let problem: Refusal = serde_json::from_str(&text)?;
    Err(OrderError::Refused(problem.detail))
}
