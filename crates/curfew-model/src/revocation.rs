//! Durable, idempotent orders to end sessions, and the blocks they leave behind (rule 14).

use serde::{Deserialize, Serialize};

use crate::{
    DeviceId, EndReason, EnforcerId, Issuer, Kind, PolicyName, Revision, RevocationId, SegmentName,
    SessionId, WallInstant,
};

/// Which sessions an order ends.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every session everywhere.
    All,
    /// Every session of one enforcer.
    Enforcer(EnforcerId),
    /// Every session into a segment.
    Segment(SegmentName),
    /// Every session that a policy admitted or limits.
    Policy(PolicyName),
    /// Every session that carries this identity, whatever its proof. A missing issuer is any.
    Subject {
        /// What it names.
        kind: Kind,
        /// Who vouches; none for any issuer.
        issuer: Option<Issuer>,
        /// The name.
        id: String,
    },
    /// Every session from a device.
    Device(DeviceId),
    /// One session.
    Session(SessionId),
}

impl Scope {
    /// The reason of sessions that an order of this scope ends.
    #[must_use]
    pub fn reason(&self) -> EndReason {
        match self {
            Self::All => EndReason::AllRevoked,
            Self::Enforcer(_) => EndReason::EnforcerRevoked,
            Self::Segment(_) => EndReason::SegmentRevoked,
            Self::Policy(_) => EndReason::PolicyRevoked,
            Self::Subject { .. } => EndReason::SubjectRevoked,
            Self::Device(_) => EndReason::DeviceRevoked,
            Self::Session(_) => EndReason::SessionCancelled,
        }
    }

    /// What an operator's order does to new sessions if it does not say: subjects and devices stay out.
    #[must_use]
    pub fn default_block(&self) -> Block {
        match self {
            Self::Subject { .. } | Self::Device(_) => Block::UntilLifted,
            _ => Block::None,
        }
    }
}

/// What an order does to sessions that open after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Block {
    /// Nothing.
    None,
    /// Refuses them until an instant.
    Until(WallInstant),
    /// Refuses them until the block is lifted.
    UntilLifted,
}

/// One order. The same id again is the same order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Its id.
    pub id: RevocationId,
    /// Which sessions.
    pub scope: Scope,
    /// What happens to new ones.
    pub block: Block,
    /// Why, in the words of who ordered it.
    pub reason: String,
    /// Who ordered it: only this source or an admin lifts the block.
    pub source: String,
    /// When it was ordered.
    pub created_at: WallInstant,
    /// The revision that holds it; sessions opened at or before it end.
    pub revision: Revision,
    /// When its block was lifted.
    #[serde(default)]
    pub lifted_at: Option<WallInstant>,
}
