//! `trait Door`: what every enforcement point offers the enforcer. Protocols, sockets and policy may not live here.
//!
//! Every call starts its work and returns without waiting for a peer, so that the deadline thread can make it:
//! a door that closes by a system call has closed when `apply` returns; one that closes by a message to another
//! process answers [`Outcome::Started`] and reports the end by its upcall. Held against the three doors:
//!
//! | call | gateway | kernel | Envoy |
//! |---|---|---|---|
//! | `apply(Close)` | sets the flow's flag, resets the client, and the upstream as soon as no other client waits | writes the lease, destroys the socket by cookie | resets the stream by message |
//! | `apply(SetLease)` | sets the flow's own deadline, after which it writes nothing | writes the deadline into the socket's storage | replaces the stream's time limit |
//! | `apply(Warn)` | where the protocol knows how | [`Outcome::Unsupported`] | [`Outcome::Unsupported`] |
//! | `activity` | an atomic of the flow | a field of the socket's storage | the last access-log entry |
//! | `snapshot` | the flow table | the socket iterator | the access-log inventory |
//! | `owners` | inet_diag, of each client on this host | none: it knows the owner when it opens a session | none: clients are elsewhere |
//!
//! A door decides about new sessions by the upcall [`crate::Enforcer::open`], inline, or on its own copy of the
//! decision; then it names the revision that it decided on, and the engine looks again.

use curfew_engine::{Activity, DoorLease, Owner};
use curfew_model::{Deadline, EndReason, SessionId};
use curfew_policy::Sight;

/// What a door can do, for `explain` and for choosing a door by sensitivity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// It asks before a session passes a byte.
    pub decides_inline: bool,
    /// Deadlines hold while the agent is dead (I2).
    pub survives_agent: bool,
    /// It can tell a client of a coming deadline.
    pub warns: bool,
    /// It can tell a client why a session ended.
    pub says_goodbye: bool,
    /// What it sees of a connection beside addresses, for the members of segments and for bindings.
    pub sees: &'static [Sight],
}

/// What the engine wants done at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// End it now; after this is done the door passes nothing of it on.
    Close {
        /// Which.
        session: SessionId,
        /// What the client is told.
        reason: EndReason,
    },
    /// Tell the client of its deadline.
    Warn {
        /// Which.
        session: SessionId,
        /// When it will end, and why.
        deadline: Deadline,
    },
    /// The deadline that the door's own copy holds from now on.
    SetLease {
        /// Which.
        session: SessionId,
        /// The copy; one with a lower number than another of this session comes late, and is passed over.
        lease: DoorLease,
    },
}

/// What became of an order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Done; of a close, this says what was closed.
    Done,
    /// Closed: the door passes no byte on any more, and its client has been told or cut off.
    Closed(Closed),
    /// On its way; the door reports the end by upcall.
    Started,
    /// Not yet; when it can be, the door says so (`Input::Hears`).
    Later,
    /// The door has no such session (it ended at the same moment).
    Unknown,
    /// The door cannot do this; see [`Caps`].
    Unsupported,
}

/// How the door closed a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Closed {
    /// What it moved; none where it had not come so far.
    pub moved: Option<Activity>,
    /// Whether its client could not be told why, though its protocol has words for it: `goodbye: skipped` on record.
    pub untold: bool,
}

/// A session that has no socket any more, by the door's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// Which.
    pub session: SessionId,
    /// How it ended at the door.
    pub closed: Closed,
    /// Why, if nobody ordered it.
    pub reason: EndReason,
    /// What the door knows beyond that, in words for operators.
    pub cause: Option<&'static str>,
}

/// One enforcement point.
pub trait Door: Send + Sync {
    /// What it can do.
    fn caps(&self) -> Caps;

    /// Starts `orders`, and calls `answer` once with the index of each as soon as it is done or started, so that the
    /// answer's instant is the order's own. `answer` takes no lock and makes no system call.
    fn apply(&self, orders: &[Order], answer: &mut dyn FnMut(usize, Outcome));

    /// What these sessions moved; sessions that are gone are left out.
    fn activity(&self, sessions: &[SessionId]) -> Vec<Activity>;

    /// Every session that has a socket.
    fn snapshot(&self) -> Vec<SessionId>;

    /// Whose the sockets of its sessions are; of those that it is still opening it says so before it passes a byte on
    /// (`Input::Owners`). Asked once, when [`crate::Enforcer::needs_owners`] begins to say yes.
    fn owners(&self) -> Vec<(SessionId, Owner)>;
}
