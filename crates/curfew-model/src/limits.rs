//! What policy asks for: limits, combined by taking the strictest of each field (I3).

use std::time::Duration;

/// Whether a credential's end also ends the session. Ordered, `Cap` is stricter and greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Credential {
    /// The credential is looked at on entry only.
    Entry,
    /// The session ends with its credential.
    Cap,
}

/// What a new session of the same subject into the same segment needs after one that ended by its lifetime.
/// The strictest combination holds a wait and a demand for proof side by side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reconnect {
    /// How long it has to wait; zero for not at all.
    pub wait: Duration,
    /// Whether it needs proof later than that end.
    pub proof: bool,
}

impl Reconnect {
    /// Both demands of both.
    #[must_use]
    pub fn strictest(self, other: Self) -> Self {
        Self {
            wait: self.wait.max(other.wait),
            proof: self.proof || other.proof,
        }
    }
}

/// The limits of one rule; a field that is none asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Limits {
    /// From opening to the end, whatever happens.
    pub max_lifetime: Option<Duration>,
    /// Without payload in either direction.
    pub idle_timeout: Option<Duration>,
    /// From the subject's last proof.
    pub reauth_every: Option<Duration>,
    /// After an end by lifetime.
    pub reconnect: Option<Reconnect>,
    /// Open sessions of one subject into one segment.
    pub max_concurrent: Option<u32>,
    /// Before a deadline, the client is warned. Of several the largest holds.
    pub warn_before: Option<Duration>,
    /// Whether the credential's end is the session's.
    pub credential: Option<Credential>,
}

impl Limits {
    /// `self` with every field that `over` sets replaced by it (a segment's limits over its default).
    #[must_use]
    pub fn replaced_by(self, over: Self) -> Self {
        Self {
            max_lifetime: over.max_lifetime.or(self.max_lifetime),
            idle_timeout: over.idle_timeout.or(self.idle_timeout),
            reauth_every: over.reauth_every.or(self.reauth_every),
            reconnect: over.reconnect.or(self.reconnect),
            max_concurrent: over.max_concurrent.or(self.max_concurrent),
            warn_before: over.warn_before.or(self.warn_before),
            credential: over.credential.or(self.credential),
        }
    }
}
