//! The gateway as a door: which session is which flow of the relay, and the way between enforcer and relay.
//!
//! Accepting, connecting and protocols may not live here, nor any arithmetic on leases.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use curfew_enforcer::{
    Activity, Admitted, Caps, Closed, Door, DoorLease, Enforcer, Gone, Input, Open, Order, Outcome,
    Owner,
};
use curfew_model::{BootInstant, Deadline, EndReason, SessionId};
use parking_lot::Mutex;
use socket2::SockRef;

use crate::{
    accept::Permit,
    peer::owners,
    protocol::Protocol,
    relay::{AdoptError, Bytes, Ending, Finish, Finished, Flow, Opened, Relay, Side, end_all},
};

pub use crate::carry::CarryError;
pub use crate::opening::Opening;

/// Told that sessions which are still being opened were ended: [`Opening::ended`] says which.
pub trait Nudge: Send + Sync {
    /// Called under locks of the door: must not block, nor call it.
    fn nudge(&self);
}

/// How a session is carried.
pub enum Carriage {
    /// Byte by byte.
    Tcp,
    /// PostgreSQL, message by message.
    Postgres(Opened),
}

/// How far a session has come.
pub(crate) enum Carried {
    /// Asked for, without a flow yet.
    Opening {
        key: u64,
        opened_at: BootInstant,
        lease: DoorLease,
        ended: Option<EndReason>,
        owes_warning: bool,
        nudge: Option<Arc<dyn Nudge>>,
    },
    /// Relayed.
    Flowing {
        key: u64,
        flow: Flow,
        /// The number of the lease that it holds.
        leased: u64,
        protocol: Protocol,
        /// Its client was to be warned before it could be.
        owes_warning: bool,
        /// Given back with the entry.
        _place: Option<Permit>,
    },
}

/// What an order to close found.
enum Taken {
    Nothing,
    Opening,
    Flow(Flow, Protocol),
}

/// Takes `new` unless it comes late.
pub(crate) fn hold(held: &mut DoorLease, new: DoorLease) {
    if held.number < new.number {
        *held = new;
    }
}

impl Carried {
    /// Its name in the relay.
    fn key(&self) -> u64 {
        match self {
            Self::Opening { key, .. } | Self::Flowing { key, .. } => *key,
        }
    }
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<SessionId, Carried>,
    by_key: HashMap<u64, SessionId>,
}

/// Of a session that never had a flow.
const NOTHING_MOVED: Closed = Closed {
    moved: None,
    untold: false,
};

fn moved(session: SessionId, bytes: Bytes, last: BootInstant) -> Activity {
    Activity {
        id: session,
        last,
        bytes_in: bytes.inbound,
        bytes_out: bytes.outbound,
    }
}

/// The sessions of a gateway.
#[derive(Default)]
pub struct GatewayDoor {
    sessions: Mutex<Sessions>,
    next_key: AtomicU64,
    enforcer: OnceLock<Weak<Enforcer>>,
}

impl GatewayDoor {
    /// Attaches the enforcer that decides; the first one stays.
    pub fn attach(&self, enforcer: Weak<Enforcer>) {
        // A second enforcer would decide about sessions that it does not know.
        let _ = self.enforcer.set(enforcer);
    }

    pub(crate) fn enforcer(&self) -> Option<Arc<Enforcer>> {
        self.enforcer.get().and_then(Weak::upgrade)
    }

    /// Whether whose a client's socket is has to be learnt before its session is asked for.
    pub(crate) fn needs_owners(&self) -> bool {
        self.enforcer()
            .is_some_and(|enforcer| enforcer.needs_owners())
    }

    /// Asks for a session. If it is admitted, it is open from now on, and an order that ends it before it is carried
    /// gives `nudge` a sign.
    ///
    /// The session is noted before the question is asked, so that an order that comes in between finds it (I7).
    ///
    /// # Errors
    /// [`CarryError::Refused`] or [`CarryError::Detached`].
    pub fn open(
        self: &Arc<Self>,
        open: Open,
        nudge: Option<Arc<dyn Nudge>>,
    ) -> Result<Opening, CarryError> {
        let enforcer = self.enforcer().ok_or(CarryError::Detached)?;
        let (id, owner) = (open.id, open.peer.owner);
        let key = self.note(id, open.facts.opened_at, nudge);
        match enforcer.open(open) {
            Ok(admitted) => Ok(Opening::new(Arc::clone(self), (id, key), admitted, owner)),
            Err(refused) => {
                self.forget(id);
                Err(CarryError::Refused(refused))
            }
        }
    }

    /// Asks for a session and, if it is admitted, relays between the two sockets from then on; otherwise both are
    /// closed, the client's by a reset.
    ///
    /// # Errors
    /// [`CarryError`]: nothing was relayed.
    pub fn carry(
        self: &Arc<Self>,
        relay: &Relay,
        client: OwnedFd,
        upstream: OwnedFd,
        open: Open,
    ) -> Result<Admitted, CarryError> {
        match self.open(open, None) {
            Ok(opening) => match relay.make_ready(&client, &upstream) {
                Ok(()) => opening
                    .carry(relay.anywhere(), client, upstream, Carriage::Tcp, None)
                    .map_err(|uncarried| uncarried.why),
                Err(error) => {
                    opening.fail(EndReason::NetworkError, None);
                    Err(AdoptError::from(error).into())
                }
            },
            Err(error) => {
                // The close that follows is a reset then; a socket that refuses this is closed in order.
                let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
                Err(error)
            }
        }
    }

    fn note(&self, id: SessionId, opened_at: BootInstant, nudge: Option<Arc<dyn Nudge>>) -> u64 {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let mut sessions = self.sessions.lock();
        let opening = Carried::Opening {
            key,
            opened_at,
            lease: DoorLease::default(),
            ended: None,
            owes_warning: false,
            nudge,
        };
        sessions.by_id.insert(id, opening);
        sessions.by_key.insert(key, id);
        key
    }

    /// What `look` says of a session on the table.
    pub(crate) fn carried<T>(
        &self,
        id: SessionId,
        look: impl FnOnce(&mut Carried) -> T,
    ) -> Option<T> {
        self.sessions.lock().by_id.get_mut(&id).map(look)
    }

    pub(crate) fn forget(&self, id: SessionId) {
        let mut sessions = self.sessions.lock();
        if let Some(carried) = sessions.by_id.remove(&id) {
            sessions.by_key.remove(&carried.key());
        }
    }

    /// Takes the session of this name in the relay off the table.
    fn forget_key(&self, key: u64) -> Option<SessionId> {
        let mut sessions = self.sessions.lock();
        let id = sessions.by_key.remove(&key)?;
        sessions.by_id.remove(&id);
        Some(id)
    }

    /// Takes a session off the table, so that what is listed has sockets (I5). One that is being opened stays, marked as
    /// ended.
    fn take(&self, id: SessionId, reason: EndReason) -> Taken {
        let mut sessions = self.sessions.lock();
        if let Some(Carried::Opening { ended, nudge, .. }) = sessions.by_id.get_mut(&id) {
            ended.get_or_insert(reason);
            if let Some(nudge) = nudge {
                nudge.nudge();
            }
            return Taken::Opening;
        }
        let Some(carried) = sessions.by_id.remove(&id) else {
            return Taken::Nothing;
        };
        sessions.by_key.remove(&carried.key());
        match carried {
            Carried::Flowing { flow, protocol, .. } => Taken::Flow(flow, protocol),
            Carried::Opening { .. } => Taken::Opening,
        }
    }

    fn lease(&self, id: SessionId, lease: DoorLease) -> Outcome {
        let held = self.carried(id, |carried| match carried {
            Carried::Flowing { flow, leased, .. } if *leased < lease.number => {
                *leased = lease.number;
                flow.hold_until(lease.until);
            }
            Carried::Flowing { .. } => {}
            Carried::Opening { lease: held, .. } => hold(held, lease),
        });
        held.map_or(Outcome::Unknown, |()| Outcome::Done)
    }

    fn warn(&self, id: SessionId, deadline: Deadline) -> Outcome {
        let told = self.carried(id, |carried| match carried {
            Carried::Flowing {
                flow,
                protocol,
                owes_warning,
                ..
            } => match protocol.warning(id, deadline, flow.now()) {
                Some(warning) if flow.takes_notices() => {
                    flow.notice(warning);
                    Outcome::Started
                }
                Some(_) => {
                    *owes_warning = true;
                    Outcome::Later
                }
                None => Outcome::Unsupported,
            },
            Carried::Opening { owes_warning, .. } => {
                *owes_warning = true;
                Outcome::Later
            }
        });
        told.unwrap_or(Outcome::Unknown)
    }

    /// Takes a warning that a session owes.
    fn owed_by(&self, key: u64) -> Option<SessionId> {
        let mut sessions = self.sessions.lock();
        let id = *sessions.by_key.get(&key)?;
        let Carried::Flowing { owes_warning, .. } = sessions.by_id.get_mut(&id)? else {
            return None;
        };
        std::mem::take(owes_warning).then_some(id)
    }
}

impl Door for GatewayDoor {
    fn caps(&self) -> Caps {
        Caps {
            decides_inline: true,
            survives_agent: false,
            // Where the protocol has words for it.
            warns: true,
            says_goodbye: true,
            sees: &[],
        }
    }

    fn apply(&self, orders: &[Order], answer: &mut dyn FnMut(usize, Outcome)) {
        let (mut closing, mut flows) = (Vec::new(), Vec::new());
        for (index, order) in orders.iter().enumerate() {
            match *order {
                Order::Close { session, reason } => match self.take(session, reason) {
                    Taken::Nothing => answer(index, Outcome::Unknown),
                    Taken::Opening => answer(index, Outcome::Closed(NOTHING_MOVED)),
                    Taken::Flow(flow, protocol) => {
                        let goodbye = protocol.goodbye(session, reason);
                        closing.push((index, session, goodbye.is_some()));
                        flows.push((flow, goodbye.unwrap_or_default()));
                    }
                },
                Order::Warn { session, deadline } => answer(index, self.warn(session, deadline)),
                Order::SetLease { session, lease } => answer(index, self.lease(session, lease)),
            }
        }
        end_all(flows, |flow, over| {
            if let Some(&(order, session, has_words)) = closing.get(flow) {
                let closed = Closed {
                    moved: Some(moved(session, over.bytes, over.last)),
                    untold: has_words && over.how == Ending::Reset,
                };
                answer(order, Outcome::Closed(closed));
            }
        });
    }

    fn activity(&self, asked: &[SessionId]) -> Vec<Activity> {
        let sessions = self.sessions.lock();
        asked
            .iter()
            .filter_map(|id| match sessions.by_id.get(id)? {
                Carried::Flowing { flow, .. } => {
                    Some(moved(*id, flow.bytes(), flow.last_activity()))
                }
                // It has moved nothing since it was opened, which is an answer: the engine need not wait for one.
                Carried::Opening { opened_at, .. } => {
                    Some(moved(*id, Bytes::default(), *opened_at))
                }
            })
            .collect()
    }

    fn snapshot(&self) -> Vec<SessionId> {
        self.sessions.lock().by_id.keys().copied().collect()
    }

    fn owners(&self) -> Vec<(SessionId, Owner)> {
        let flowing = |(id, carried): (&SessionId, &Carried)| match carried {
            Carried::Flowing { flow, .. } => Some((*id, flow.clone())),
            Carried::Opening { .. } => None,
        };
        let sessions = self.sessions.lock();
        let flows: Vec<_> = sessions.by_id.iter().filter_map(flowing).collect();
        drop(sessions);
        owners(flows)
    }
}

impl Finished for GatewayDoor {
    fn hears(&self, key: u64) {
        if let Some(id) = self.owed_by(key)
            && let Some(enforcer) = self.enforcer()
        {
            // Nothing of it can be refused.
            let _ = enforcer.handle(Input::Hears(id));
        }
    }

    fn finished(&self, key: u64, how: Finish, bytes: Bytes) {
        let (reason, cause, untold) = match how {
            // By order: the enforcer has had its answer, and the session is off the table.
            Finish::Ended => return,
            Finish::ClosedByClient => (EndReason::ClosedByClient, None, false),
            Finish::ClosedByServer => (EndReason::ClosedByServer, None, false),
            Finish::NetworkError => (EndReason::NetworkError, None, false),
            Finish::ProtocolError { by, told } => {
                let cause = match by {
                    Side::Client => "the client broke the protocol",
                    Side::Upstream => "the upstream broke the protocol, or speaks another",
                };
                (EndReason::ProtocolError, Some(cause), !told)
            }
            Finish::Shutdown => (EndReason::Shutdown, None, false),
        };
        let Some(session) = self.forget_key(key) else {
            return;
        };
        if let Some(enforcer) = self.enforcer() {
            enforcer.finished(Gone {
                session,
                closed: Closed {
                    moved: Some(moved(session, bytes, BootInstant(0))),
                    untold,
                },
                reason,
                cause,
            });
        }
    }
}
