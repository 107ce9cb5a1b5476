//! The gateway as a door: which session is which flow of the relay, and the way between enforcer and relay.
//!
//! Accepting, connecting and protocols may not live here, nor any arithmetic on leases.

use std::{
    collections::HashMap,
    os::fd::OwnedFd,
    sync::{
        OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use curfew_enforcer::{
    Activity, Admitted, Caps, Door, Enforcer, Input, Open, Order, Outcome, Refused,
};
use curfew_model::{EndReason, SessionId};
use parking_lot::Mutex;
use socket2::SockRef;

use crate::relay::{AdoptError, Bytes, Finish, Finished, Flow, Relay};

/// Why a connection is not carried. Both sockets are closed then.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    /// Policy, an order or a limit refuses it.
    #[error("refused: {} ({})", .0.reason, .0.cause)]
    Refused(Refused),
    /// It was ended while it was being opened.
    #[error("ended while it was being opened")]
    Ended,
    /// The relay did not take it.
    #[error("the relay does not take it")]
    Relay(#[from] AdoptError),
    /// The door has no enforcer to ask.
    #[error("no enforcer is attached to this door: nothing is admitted")]
    Detached,
}

/// How far a session has come.
enum Carried {
    /// Asked for, without a flow yet.
    Opening { key: u64, ended: bool },
    /// Relayed.
    Flowing { key: u64, flow: Flow },
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<SessionId, Carried>,
    by_key: HashMap<u64, SessionId>,
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

    /// Asks for a session and, if it is admitted, relays between the two sockets from then on.
    ///
    /// The session is noted before the question is asked, so that an order that comes in between finds it (I7).
    ///
    /// # Errors
    /// [`CarryError`]: nothing was relayed.
    pub fn carry(
        &self,
        relay: &Relay,
        client: OwnedFd,
        upstream: OwnedFd,
        open: Open,
    ) -> Result<Admitted, CarryError> {
        let enforcer = self
            .enforcer
            .get()
            .and_then(Weak::upgrade)
            .ok_or(CarryError::Detached)?;
        let id = open.id;
        let key = self.note(id);
        let admitted = enforcer.open(open).map_err(|refused| {
            self.forget(id);
            // The close that follows is a reset then; a socket that refuses this is closed in order.
            let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
            CarryError::Refused(refused)
        })?;
        match self.flow(relay, client, upstream, id, key) {
            Ok(()) => Ok(admitted),
            Err(error) => {
                self.forget(id);
                let reason = match &error {
                    CarryError::Relay(AdoptError::Full(_)) => EndReason::Overloaded,
                    CarryError::Relay(AdoptError::ShuttingDown) => EndReason::Shutdown,
                    _ => EndReason::NetworkError,
                };
                // The engine keeps its own reason where it had ordered the end.
                let _ = enforcer.handle(Input::Ended { id, reason });
                Err(error)
            }
        }
    }

    fn note(&self, id: SessionId) -> u64 {
        let key = self.next_key.fetch_add(1, Ordering::Relaxed);
        let mut sessions = self.sessions.lock();
        sessions
            .by_id
            .insert(id, Carried::Opening { key, ended: false });
        sessions.by_key.insert(key, id);
        key
    }

    fn flow(
        &self,
        relay: &Relay,
        client: OwnedFd,
        upstream: OwnedFd,
        id: SessionId,
        key: u64,
    ) -> Result<(), CarryError> {
        // Under the lock: neither an order nor the end of the flow can come between the check and the table.
        let mut sessions = self.sessions.lock();
        match sessions.by_id.get_mut(&id) {
            Some(carried @ Carried::Opening { ended: false, .. }) => {
                let flow = relay.adopt(client, upstream, key)?;
                *carried = Carried::Flowing { key, flow };
                Ok(())
            }
            _ => Err(CarryError::Ended),
        }
    }

    fn forget(&self, id: SessionId) {
        let mut sessions = self.sessions.lock();
        if let Some(Carried::Opening { key, .. } | Carried::Flowing { key, .. }) =
            sessions.by_id.remove(&id)
        {
            sessions.by_key.remove(&key);
        }
    }

    /// Ends a session and takes it off the table: what is listed has sockets (I5).
    fn close(&self, id: SessionId) -> Outcome {
        let mut sessions = self.sessions.lock();
        if let Some(Carried::Opening { ended, .. }) = sessions.by_id.get_mut(&id) {
            *ended = true;
            return Outcome::Done;
        }
        let Some(Carried::Flowing { key, flow }) = sessions.by_id.remove(&id) else {
            return Outcome::Unknown;
        };
        sessions.by_key.remove(&key);
        drop(sessions);
        flow.end();
        Outcome::Done
    }
}

impl Door for GatewayDoor {
    fn caps(&self) -> Caps {
        Caps {
            decides_inline: true,
            survives_agent: false,
            warns: false,
            says_goodbye: false,
        }
    }

    fn apply(&self, orders: &[Order]) -> Vec<Outcome> {
        orders
            .iter()
            .map(|order| match *order {
                Order::Close { session, .. } => self.close(session),
                Order::Warn { .. } => Outcome::Unsupported,
                // The engine holds the truth while it lives, and this door does not outlive it.
                Order::SetLease { .. } => Outcome::Done,
            })
            .collect()
    }

    fn activity(&self, asked: &[SessionId]) -> Vec<Activity> {
        let sessions = self.sessions.lock();
        asked
            .iter()
            .filter_map(|id| match sessions.by_id.get(id)? {
                Carried::Flowing { flow, .. } => {
                    let Bytes { inbound, outbound } = flow.bytes();
                    Some(Activity {
                        session: *id,
                        last: flow.last_activity(),
                        bytes_in: inbound,
                        bytes_out: outbound,
                    })
                }
                Carried::Opening { .. } => None,
            })
            .collect()
    }

    fn snapshot(&self) -> Vec<SessionId> {
        self.sessions.lock().by_id.keys().copied().collect()
    }
}

impl Finished for GatewayDoor {
    fn finished(&self, key: u64, how: Finish, bytes: Bytes) {
        let Some(id) = ({
            let mut sessions = self.sessions.lock();
            let id = sessions.by_key.remove(&key);
            if let Some(id) = id {
                sessions.by_id.remove(&id);
            }
            id
        }) else {
            return;
        };
        let reason = match how {
            // The enforcer ordered it, was answered, and the table forgot it then.
            Finish::Ended => return,
            Finish::ClosedByClient => EndReason::ClosedByClient,
            Finish::ClosedByServer => EndReason::ClosedByServer,
            Finish::NetworkError => EndReason::NetworkError,
            Finish::ProtocolError => EndReason::ProtocolError,
            Finish::Shutdown => EndReason::Shutdown,
        };
        if let Some(enforcer) = self.enforcer.get().and_then(Weak::upgrade) {
            enforcer.finished(id, bytes.inbound, bytes.outbound, reason);
        }
    }
}
