//! What an operator does in the demo: real requests to the control plane's API with the token of the data directory.

use std::{net::SocketAddr, path::PathBuf};

use curfew_control::{Explanation, Outcome};
use curfew_model::{Revision, SessionId};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::json;

use crate::client::{Call, Client, ClientError, Connect};

/// Why an order came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The API does not answer, or answers that it will not.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer says something else than it should.
    #[error("the control plane's answer is not readable: is it of this version?")]
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

/// Speaks to one API.
pub struct Operator {
    client: Client,
    server: String,
}

impl Operator {
    /// Takes the token from its file.
    ///
    /// # Errors
    /// [`ClientError`] when there is none in it.
    pub fn new(address: SocketAddr, token: PathBuf) -> Result<Self, ClientError> {
        let server = format!("http://{address}");
        let client = Connect::to(server.clone(), token).client()?;
        Ok(Self { client, server })
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
        let done: Revoked = self.send(Call::post("/v1/revocations").body(order))?;
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
        let done: Applied = self.send(Call::post("/v1/policies").body(set))?;
        let closed: u64 = done.enforcers.iter().map(|enforcer| enforcer.closed).sum();
        Ok(format!(
            "revision {}, closed {closed} at once, on record in {:.1} ms",
            done.revision, done.took_ms
        ))
    }

    /// Ends one session; says what was done.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn cancel(&self, id: SessionId) -> Result<String, OrderError> {
        let done: Cancelled = self.send(Call::delete(format!("/v1/sessions/{id}")))?;
        Ok(format!("closed in {:.1} ms", done.closed_after_ms))
    }

    /// Why a session is there and when it will end: a sentence, then each bound.
    ///
    /// # Errors
    /// [`OrderError`].
    pub fn explain(&self, id: SessionId) -> Result<Vec<String>, OrderError> {
        let why: Explanation = self.send(Call::get(format!("/v1/sessions/{id}/explain")))?;
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

    fn send<T: DeserializeOwned>(&self, call: Call) -> Result<T, OrderError> {
        Ok(serde_json::from_value(self.client.send(&call)?)?)
    }
}
