//! What a service speaks, and what can be said to its clients. Bytes on the wire are made by each protocol's module.

use std::time::Duration;

use curfew_model::{BootInstant, Deadline, EndReason, SessionId, format_duration};

use rustix::event::epoll::EventFlags;

use crate::postgres::message;

/// What a service speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// Bytes: nothing can be said to a client.
    Tcp,
    /// PostgreSQL, version 3 of its protocol.
    Postgres,
}

impl Protocol {
    /// What says that a client has left before it is relayed. Where there are no messages, the end of its stream is
    /// none: it may wait for an answer.
    pub(crate) fn leaving(self) -> EventFlags {
        match self {
            Self::Tcp => EventFlags::empty(),
            Self::Postgres => EventFlags::RDHUP,
        }
    }

    /// Tells a client of the end to come, at `now`; none where the protocol has no words for it.
    #[must_use]
    pub fn warning(
        self,
        session: SessionId,
        deadline: Deadline,
        now: BootInstant,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Tcp => None,
            Self::Postgres => {
                let left = whole_seconds(deadline.at.since(now));
                let text = format!("this session ends in {left}");
                let hint = match deadline.reason {
                    EndReason::ReauthOverdue => "Log in again to keep it.",
                    _ => "Finish your work and connect again if you still need access.",
                };
                Some(message::warning(deadline.reason, session, &text, hint))
            }
        }
    }

    /// Tells a client why its session ended.
    #[must_use]
    pub fn goodbye(self, session: SessionId, reason: EndReason) -> Option<Vec<u8>> {
        match self {
            Self::Tcp => None,
            Self::Postgres => Some(message::goodbye(reason, session)),
        }
    }

    /// Tells a client why it gets no session, and how long it has to wait where that is known.
    #[must_use]
    pub fn refusal(
        self,
        session: SessionId,
        reason: EndReason,
        wait: Option<Duration>,
    ) -> Option<Vec<u8>> {
        match self {
            Self::Tcp => None,
            Self::Postgres => Some(message::refusal(reason, session, wait)),
        }
    }
}

/// A time to wait in words, rounded up.
pub(crate) fn whole_seconds(left: Duration) -> String {
    let seconds = left.as_millis().div_ceil(1000);
    format_duration(Duration::from_secs(
        u64::try_from(seconds).unwrap_or(u64::MAX),
    ))
}
