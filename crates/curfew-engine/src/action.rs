//! What the engine answers and orders. How a door carries it out may not live here.

use curfew_model::{BootInstant, Deadline, EndReason, Event, Lease, SegmentName, SessionId};

/// One order to the shell, in the order of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// End it now.
    Close {
        /// Which.
        id: SessionId,
        /// Why: what the client is told and the audit log says.
        reason: EndReason,
        /// The deadline that ended it, from which lateness is counted; none for an order.
        deadline: Option<BootInstant>,
    },
    /// Tell the client of a coming end.
    Warn {
        /// Which.
        id: SessionId,
        /// When it ends, and why.
        deadline: Deadline,
    },
    /// Ask the door when these last moved payload; the answer is [`crate::Input::Activity`].
    Probe(
        /// Which.
        Vec<SessionId>,
    ),
    /// The deadline for the door's own copy.
    SetLease {
        /// Which.
        id: SessionId,
        /// The earliest end that activity does not move; none for never.
        until: Option<BootInstant>,
    },
    /// Put it on record.
    Record(Box<Event>),
}

/// A session that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its lease.
    pub lease: Lease,
    /// The destination segments, the most sensitive first.
    pub segments: Vec<SegmentName>,
}

/// A session that may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: EndReason,
    /// What refuses, in words for operators.
    pub cause: String,
}

/// What an input did to live sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sessions that it concerned.
    pub matched: u64,
    /// Of these, ordered to close.
    pub closed: u64,
    /// Of these, only recorded, because every segment is in audit mode.
    pub audit_only: u64,
    /// Index entries looked at: the work done.
    pub visited: u64,
}
