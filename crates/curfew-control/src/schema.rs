//! How types of the model look in the OpenAPI document. Nothing here is ever made: the model serialises itself.
#![allow(
    dead_code,
    reason = "these types only describe what the model's own types look like"
)]

use utoipa::ToSchema;

use crate::{Finding, Outcome};

/// Who or what holds a session.
#[derive(ToSchema)]
pub(crate) struct Identity {
    /// `proven`, `bound` or `asserted`.
    proof: String,
    /// `user`, `workload`, `device` or `role`; `address` for whoever has no identity.
    kind: String,
    /// Who vouches: an issuer URL, or `local`.
    issuer: String,
    /// The name, unique within issuer and kind.
    id: String,
    /// For people to read.
    display: Option<String>,
}

/// A subject in the scope of an order.
#[derive(ToSchema)]
pub(crate) struct ScopeSubject {
    /// `user`, `workload`, `device` or `role`.
    kind: String,
    /// Who vouches; none for any issuer.
    issuer: Option<String>,
    /// The name.
    id: String,
}

/// Which sessions an order ends.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Scope {
    /// Every session everywhere.
    All,
    /// Every session of one enforcer.
    Enforcer(String),
    /// Every session into a segment.
    Segment(String),
    /// Every session that a policy admitted or limits.
    Policy(String),
    /// Every session that carries this identity.
    Subject(ScopeSubject),
    /// Every session from a device.
    Device(String),
    /// One session.
    Session(String),
}

/// What an order does to sessions that open after it.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
pub(crate) enum Block {
    /// Nothing.
    None,
    /// Refuses them until an instant, RFC 3339.
    Until(String),
    /// Refuses them until the block is lifted.
    UntilLifted,
}

/// What a problem document has where it applies.
#[derive(ToSchema)]
pub(crate) struct ProblemMore {
    /// What is wrong with a policy set.
    #[schema(nullable = false)]
    findings: Option<Vec<Finding>>,
    /// The line of the body that is wrong, from one.
    #[schema(nullable = false)]
    line: Option<u64>,
    /// Its column.
    #[schema(nullable = false)]
    column: Option<u64>,
    /// What each enforcer did all the same.
    #[schema(nullable = false)]
    enforcers: Option<Vec<Outcome>>,
    /// The order that the idempotency key made.
    #[schema(nullable = false)]
    revocation: Option<String>,
}
