//! What happened, as the audit log, the bus and the API tell it. Field names are a contract.

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::{EndReason, Identity, Revision, SegmentName, SessionId, WallInstant};

/// What happened. The code is stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EventKind {
    /// A session was admitted.
    #[serde(rename = "session.opened")]
    SessionOpened,
    /// A session was refused.
    #[serde(rename = "session.refused")]
    SessionRefused,
    /// A client was told of a deadline.
    #[serde(rename = "session.warned")]
    SessionWarned,
    /// A lease moved on fresh proof.
    #[serde(rename = "session.renewed")]
    SessionRenewed,
    /// A session ended.
    #[serde(rename = "session.ended")]
    SessionEnded,
    /// Audit mode: it would have been refused.
    #[serde(rename = "session.would_refuse")]
    SessionWouldRefuse,
    /// Audit mode: it would have ended.
    #[serde(rename = "session.would_end")]
    SessionWouldEnd,
    /// An operator ordered one session to end.
    #[serde(rename = "session.cancelled")]
    SessionCancelled,
    /// An order was given.
    #[serde(rename = "revocation.created")]
    RevocationCreated,
    /// A block was lifted.
    #[serde(rename = "revocation.lifted")]
    RevocationLifted,
    /// The state did not take an order that was carried out already: it ended sessions, and keeps no new ones out.
    #[serde(rename = "revocation.not_kept")]
    RevocationNotKept,
    /// A policy set took effect.
    #[serde(rename = "policy.applied")]
    PolicyApplied,
    /// A binding was made or refreshed.
    #[serde(rename = "binding.changed")]
    BindingChanged,
    /// What is known of a subject changed.
    #[serde(rename = "subject.changed")]
    SubjectChanged,
    /// An API token was made or removed.
    #[serde(rename = "token.changed")]
    TokenChanged,
    /// The state that a process started with is older than what is on record.
    #[serde(rename = "state.behind")]
    StateBehind,
    /// The wall clock of an enforcer shows an earlier time than the latest on record, by which it judges.
    #[serde(rename = "clock.behind")]
    ClockBehind,
    /// An administrator had an enforcer take its wall clock as it is, though a later time is on record.
    #[serde(rename = "clock.accepted")]
    ClockAccepted,
    /// The process started.
    #[serde(rename = "enforcer.started")]
    EnforcerStarted,
    /// The process stopped in order.
    #[serde(rename = "enforcer.stopped")]
    EnforcerStopped,
}

impl EventKind {
    /// Whether it is the last that is heard of a session.
    #[must_use]
    pub fn is_over(self) -> bool {
        matches!(self, Self::SessionEnded | Self::SessionRefused)
    }
}

/// One more fact of an event: numbers stay numbers, so that whoever reads them can compare them and add them up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Detail {
    /// A number, in the unit that its name ends with.
    Number(u64),
    /// Anything else.
    Text(String),
}

impl Detail {
    /// In words.
    #[must_use]
    pub fn text(value: impl fmt::Display) -> Self {
        Self::Text(value.to_string())
    }

    /// A number; the greatest there is for one that is beyond it.
    #[must_use]
    pub fn number(number: impl TryInto<u64>) -> Self {
        Self::Number(number.try_into().unwrap_or(u64::MAX))
    }

    /// The number, if it is one.
    #[must_use]
    pub fn as_number(&self) -> Option<u64> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Text(_) => None,
        }
    }
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// When, for people; the order is the log's.
    pub at: WallInstant,
    /// What.
    pub event: EventKind,
    /// The session concerned.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// Its subject.
    #[serde(default)]
    pub subject: Option<Identity>,
    /// Its segments, the most sensitive first.
    #[serde(default)]
    pub segments: Vec<SegmentName>,
    /// Why it ended or was refused.
    #[serde(default)]
    pub reason: Option<EndReason>,
    /// The revision that it was decided on.
    pub revision: Revision,
    /// What set it off: a rule, a signal, an order, in words.
    #[serde(default)]
    pub cause: Option<String>,
    /// More, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, Detail>,
}

impl Event {
    /// An event of which nothing more is known yet.
    #[must_use]
    pub fn new(event: EventKind, at: WallInstant, revision: Revision) -> Self {
        Self {
            at,
            event,
            session: None,
            subject: None,
            segments: Vec::new(),
            reason: None,
            revision,
            cause: None,
            detail: BTreeMap::new(),
        }
    }

    /// The event with one more detail, in words.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.detail.insert(name.to_owned(), Detail::text(value));
        self
    }

    /// The event with one more detail, a number.
    #[must_use]
    pub fn count(mut self, name: &str, number: impl TryInto<u64>) -> Self {
        self.detail.insert(name.to_owned(), Detail::number(number));
        self
    }
}
