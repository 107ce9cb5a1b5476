//! What the enforcer tells the world: records, and how the door closed the sessions that they tell of.

use std::time::Duration;

use curfew_engine::Recorded;

use crate::door::Closed;

/// Something for the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What.
    pub recorded: Recorded,
    /// How the session was closed whose end or refusal it tells; none where the door did not close it, or not yet.
    pub close: Option<Close>,
}

/// How and when a session was closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Close {
    /// The door's word.
    pub closed: Closed,
    /// From its deadline until the door had done it; none for an end without a deadline.
    pub late: Option<Duration>,
}

/// Whoever keeps records.
pub trait Sink: Send + Sync {
    /// What belongs on record, by its number; never empty. Called on the thread that closed, the deadline thread for one: an
    /// implementation hands over and returns.
    fn record(&self, records: Vec<Record>);
}
