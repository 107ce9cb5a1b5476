//! A connection that is not relayed: what it waits for. Sockets are watched and moved on by the front.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use curfew_model::{BootInstant, SessionId};
use parking_lot::Mutex;

use crate::accept::{Client, Permit};
use crate::connect::Connecting;
use crate::door::Opening;
use crate::postgres::preamble::{Preamble, Startup};

/// One connection.
pub(super) struct Pending {
    /// None for a cancel of our own.
    pub(super) client: Option<Client>,
    pub(super) stage: Stage,
    /// When it is looked at again, whatever its sockets do.
    pub(super) due: BootInstant,
}

/// What it waits for.
pub(super) enum Stage {
    /// The client's wish.
    Preamble(Preamble),
    /// The upstream's answer.
    Connecting(Connecting, Purpose),
    /// The upstream's end, after it was sent a cancel.
    Cancelling(OwnedFd, Errand),
    /// The client's end, after it was told why it gets nothing.
    Leaving,
}

/// What an upstream is connected for.
pub(super) enum Purpose {
    /// A session that was admitted.
    Session(Box<Admitted>),
    /// A cancel with these bytes.
    Cancel(Vec<u8>, Errand),
}

/// Whose a cancel is, and what it holds while it is on its way.
pub(super) enum Errand {
    /// A client's.
    Client { _claim: Claim },
    /// Of a session that ended, with a place among those that may take a descriptor that is kept back, if one was free.
    Own(Option<Permit>),
}

/// The sessions that a client's cancel is on its way for.
pub(super) type Cancelling = Arc<Mutex<HashSet<SessionId>>>;

/// Says that a client's cancel of this session is on its way, until it is dropped.
pub(super) struct Claim {
    all: Cancelling,
    session: SessionId,
}

impl Claim {
    /// None while another cancel of this session is on its way.
    pub(super) fn take(all: &Cancelling, session: SessionId) -> Option<Self> {
        let all = Arc::clone(all);
        let is_first = all.lock().insert(session);
        is_first.then_some(Self { all, session })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.all.lock().remove(&self.session);
    }
}

impl Purpose {
    pub(super) fn is_session(&self) -> bool {
        matches!(self, Self::Session(_))
    }

    /// Whether it gets through when clients have taken all descriptors that they may.
    pub(super) fn is_urgent(&self) -> bool {
        matches!(self, Self::Cancel(_, Errand::Own(Some(_))))
    }
}

/// A session that waits for its upstream.
pub(super) struct Admitted {
    pub(super) opening: Opening,
    pub(super) place: Permit,
    /// What a PostgreSQL client said.
    pub(super) startup: Option<Startup>,
}

impl Pending {
    /// Whether it may be reset for a newcomer.
    pub(super) fn can_make_room(&self) -> bool {
        matches!(self.stage, Stage::Preamble(_) | Stage::Leaving)
    }

    /// The session that waits for its upstream.
    pub(super) fn opening(&self) -> Option<&Opening> {
        match &self.stage {
            Stage::Connecting(_, Purpose::Session(admitted)) => Some(&admitted.opening),
            _ => None,
        }
    }

    /// Whether it is a client that may still get a session.
    pub(super) fn wants_session(&self) -> bool {
        matches!(
            self.stage,
            Stage::Preamble(_) | Stage::Connecting(_, Purpose::Session(_))
        )
    }

    /// Whether an upstream is being connected: at its time the next address is tried.
    pub(super) fn is_connecting(&self) -> bool {
        matches!(self.stage, Stage::Connecting(..))
    }
}
