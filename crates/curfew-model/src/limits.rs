//! The limits that are more than a number: how credentials count, and what a reconnect needs.

use std::time::Duration;

/// Whether a credential's end also ends the session. Ordered, `Cap` is stricter and greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Credential {
    /// The credential is looked at on entry only.
    Entry,
    /// The session ends with its credential.
    Cap,
}

/// What a new session of the same subject into the same segment needs after one that ended by its lifetime. Of several,
/// the longest wait holds, and proof where any asks for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reconnect {
    /// How long it has to wait; zero for not at all.
    pub wait: Duration,
    /// Whether it needs proof later than that end.
    pub proof: bool,
}
