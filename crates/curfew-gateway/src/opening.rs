//! The way of a session from its admission to its flow. Who is admitted, and what becomes of the flow, may not live here.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use curfew_enforcer::{Admitted, Input, Owner};
use curfew_model::{EndReason, SessionId};

use crate::accept::Permit;
use crate::carry::{CarryError, Uncarried};
use crate::door::{Carriage, Carried, GatewayDoor, hold};
use crate::peer::owners;
use crate::protocol::Protocol;
use crate::relay::{Flow, Home, Prepared};

/// A session that was admitted and has no flow yet. One that is dropped ends as `shutdown`.
pub struct Opening {
    door: Arc<GatewayDoor>,
    id: SessionId,
    key: u64,
    admitted: Admitted,
    /// Whose the client's socket is was not asked.
    unasked: bool,
    settled: bool,
}

impl Opening {
    pub(crate) fn new(
        door: Arc<GatewayDoor>,
        (id, key): (SessionId, u64),
        admitted: Admitted,
        owner: Owner,
    ) -> Self {
        Self {
            door,
            id,
            key,
            admitted,
            unasked: owner == Owner::Unasked,
            settled: false,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> SessionId {
        self.id
    }

    /// Why it was ended meanwhile, if it was.
    #[must_use]
    pub fn ended(&self) -> Option<EndReason> {
        self.door
            .carried(self.id, |carried| match carried {
                Carried::Opening { ended, .. } => *ended,
                Carried::Flowing { .. } => None,
            })
            .flatten()
    }

    /// Relays between the two sockets from now on; `place` is given back when the session ends.
    ///
    /// # Errors
    /// [`Uncarried`]: nothing was relayed, the upstream is closed, and the session has ended.
    pub(crate) fn carry(
        mut self,
        home: &Home,
        client: OwnedFd,
        upstream: OwnedFd,
        carriage: Carriage,
        place: Option<Permit>,
    ) -> Result<Admitted, Uncarried> {
        match self.flow(home, client, upstream, carriage, place) {
            Ok(()) => {
                self.settled = true;
                Ok(self.admitted.clone())
            }
            Err(uncarried) => {
                // The engine keeps its own reason where it had ordered the end.
                self.settle(uncarried.why.reason(), None);
                Err(uncarried)
            }
        }
    }

    /// Ends it before it was carried; `cause` is what is known beyond the reason, in words for operators.
    pub fn fail(mut self, reason: EndReason, cause: Option<String>) {
        self.settle(reason, cause);
    }

    fn flow(
        &self,
        home: &Home,
        client: OwnedFd,
        upstream: OwnedFd,
        carriage: Carriage,
        place: Option<Permit>,
    ) -> Result<(), Uncarried> {
        let (protocol, opened) = match carriage {
            Carriage::Tcp => (Protocol::Tcp, None),
            Carriage::Postgres(opened) => (Protocol::Postgres, Some(opened)),
        };
        let prepared = home.prepare(client, upstream, self.key, opened)?;
        // On the table before its first byte, so that an order finds it.
        match self.note(&prepared, protocol, place) {
            Ok(()) => {
                self.say_whose(prepared.flow());
                prepared.start();
                Ok(())
            }
            Err(why) => Err(Uncarried {
                why,
                client: prepared.withdraw(),
            }),
        }
    }

    /// Says whose the client's socket is, if that was not asked and has come to matter since. Whoever binds the first uid
    /// later finds the flow on the table.
    fn say_whose(&self, flow: &Flow) {
        if self.unasked
            && let Some(enforcer) = self.door.enforcer()
            && enforcer.needs_owners()
        {
            let owners = owners([(self.id, flow.clone())]);
            // Nothing of it can be refused.
            let _ = enforcer.handle(Input::Owners(owners));
        }
    }

    /// Puts the flow on the table, unless the session was ended meanwhile.
    fn note(
        &self,
        prepared: &Prepared,
        protocol: Protocol,
        place: Option<Permit>,
    ) -> Result<(), CarryError> {
        self.door
            .carried(self.id, |carried| match carried {
                Carried::Opening {
                    ended: Some(reason),
                    ..
                } => Some(Err(CarryError::Ended(*reason))),
                Carried::Opening {
                    lease,
                    owes_warning,
                    ..
                } => {
                    hold(lease, self.admitted.for_door);
                    let flow = prepared.flow().clone();
                    flow.hold_until(lease.until);
                    *carried = Carried::Flowing {
                        key: self.key,
                        flow,
                        leased: lease.number,
                        protocol,
                        owes_warning: *owes_warning,
                        _place: place,
                    };
                    Some(Ok(()))
                }
                Carried::Flowing { .. } => None,
            })
            .flatten()
            // It is on the table until this, and carried once.
            .unwrap_or(Err(CarryError::Ended(EndReason::NetworkError)))
    }

    fn settle(&mut self, reason: EndReason, cause: Option<String>) {
        self.settled = true;
        self.door.forget(self.id);
        if let Some(enforcer) = self.door.enforcer() {
            let _ = enforcer.handle(Input::Ended {
                id: self.id,
                reason,
                cause,
                moved: None,
                late: None,
            });
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        if !self.settled {
            self.settle(EndReason::Shutdown, None);
        }
    }
}
