//! What the engine answers and orders. How a door carries it out may not live here.

use std::sync::Arc;

use curfew_model::{
    BootInstant, Deadline, EndReason, Event, EventKind, Lease, Revision, SegmentName, SessionId,
    WallInstant,
};

use crate::who::{self, Encoded};

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
    /// The deadline for the door's own copy, where it moved or where the door decided itself. A door that waits for
    /// the answer has the first one from there.
    SetLease {
        /// Which.
        id: SessionId,
        /// The earliest end that activity does not move; none for never.
        until: Option<BootInstant>,
    },
    /// Put it on record.
    Record(Recorded),
}

/// Something for the record, cheap to make while the engine is held; [`Recorded::into_event`] spells it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// When.
    pub at: WallInstant,
    /// What.
    pub event: EventKind,
    /// The session concerned.
    pub session: Option<SessionId>,
    /// Why it ended or was refused.
    pub reason: Option<EndReason>,
    /// The revision that it was decided on.
    pub revision: Revision,
    /// What set it off, in words.
    pub cause: Option<String>,
    pub(crate) who: Option<Encoded>,
    pub(crate) segments: Option<Arc<[SegmentName]>>,
}

impl Recorded {
    /// The event with its subject and segments.
    #[must_use]
    pub fn into_event(self) -> Event {
        let who = self.who.and_then(|bytes| who::decode(&bytes));
        Event {
            at: self.at,
            event: self.event,
            session: self.session,
            subject: who.and_then(|who| who.subject().cloned()),
            segments: self.segments.map_or_else(Vec::new, |names| names.to_vec()),
            reason: self.reason,
            revision: self.revision,
            cause: self.cause,
        }
    }
}

/// A session that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its lease.
    pub lease: Lease,
    /// The destination segments, the most sensitive first.
    pub segments: Arc<[SegmentName]>,
}

/// A session that may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: EndReason,
    /// What refuses, in words for operators.
    pub cause: String,
    /// When the wait after an end by lifetime is over, where that is what refuses.
    pub retry_at: Option<BootInstant>,
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
    /// When the door had closed the last of them: the shell's to say, none where it closed none.
    pub closed_at: Option<BootInstant>,
}

/// What a change did to one session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// It lives on.
    Lives,
    /// It was ordered to close.
    Closes,
    /// It is recorded that it would have ended.
    WouldEnd,
}

impl Report {
    /// Counts what became of one session that was looked at.
    pub(crate) fn count(&mut self, fate: Fate) {
        self.visited += 1;
        self.matched += 1;
        self.closed += u64::from(fate == Fate::Closes);
        self.audit_only += u64::from(fate == Fate::WouldEnd);
    }
}
