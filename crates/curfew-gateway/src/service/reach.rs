//! The front's way to the upstreams: for sessions that were admitted, and for cancels. Handshakes may not live here.

use std::error::Error as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use curfew_model::{BootInstant, EndReason, UpstreamAddress};
use rustix::event::epoll::EventFlags;

use super::Away;
use super::front::Front;
use super::pending::{Admitted, Errand, Pending, Purpose, Stage};
use super::sockets::say;
use super::talk::Talk;
use crate::accept::{Client, Permit};
use crate::connect::{Connecting, Progress};
use crate::door::Carriage;
use crate::relay::Opened;

/// Cancels of our own, of all fronts together, that may hold a descriptor that is kept back: a part of those.
const URGENT: usize = 16;

impl Front {
    /// Sends what cancels it may.
    pub(super) fn start_cancels(&mut self, now: BootInstant) {
        let pending = &self.pending;
        self.cancels.keep(|id| pending.contains_key(&id));
        while let Some(cancel) = self.cancels.next(now) {
            let (id, request) = (self.number(), cancel.request.clone());
            let place = Permit::take(&self.common.urgent, URGENT);
            let purpose = Purpose::Cancel(request, Errand::Own(place));
            self.connect(id, None, std::slice::from_ref(&cancel.upstream), purpose);
            self.cancels.sent(cancel, id, now);
            let pending = &self.pending;
            self.cancels.keep(|id| pending.contains_key(&id));
        }
    }

    /// Begins to connect to the first of these that answers.
    pub(super) fn connect(
        &mut self,
        id: u64,
        client: Option<Client>,
        to: &[UpstreamAddress],
        purpose: Purpose,
    ) {
        let timeout = self.config().connect_timeout;
        let connecting = Connecting::new(to, timeout, self.now());
        let connecting = match purpose.is_urgent() {
            true => connecting.urgent(),
            false => connecting,
        };
        self.go_on(id, client, connecting, purpose);
    }

    /// Goes on connecting as far as that goes.
    pub(super) fn go_on(
        &mut self,
        id: u64,
        client: Option<Client>,
        mut connecting: Connecting,
        purpose: Purpose,
    ) {
        let attempts = connecting.attempts();
        let has_waited = attempts > 0;
        if let Some(client) = &client
            && has_waited
            && purpose.is_session()
        {
            self.forget_client(client);
        }
        if let Purpose::Session(admitted) = &purpose
            && let Some(reason) = admitted.opening.ended()
        {
            let session = admitted.opening.id();
            // Its place is free before the client hears of the end: it may come again at once.
            drop(purpose);
            return self.turn_back(id, client, session, reason);
        }
        match connecting.advance(self.now()) {
            Progress::Connected(socket, upstream) => {
                if has_waited {
                    self.seat.forget(&socket);
                }
                self.connected(id, client, socket, upstream, purpose);
            }
            Progress::Waiting(due) => {
                if let Some(socket) = connecting.socket()
                    && attempts != connecting.attempts()
                {
                    // Without a watch, for want of memory, it is looked at when its time is up.
                    let _ = self.seat.watch(socket, id << 1 | 1, EventFlags::OUT);
                }
                if let Some(client) = &client
                    && purpose.is_session()
                {
                    // Without a watch its leaving is found when it is relayed.
                    let flags = self.config().protocol.leaving();
                    self.watch_client(id, client, flags);
                }
                let stage = Stage::Connecting(connecting, purpose);
                self.put(id, Pending { client, stage, due });
            }
            Progress::Failed(error) => {
                let Purpose::Session(admitted) = purpose else {
                    return;
                };
                let Admitted { opening, place, .. } = *admitted;
                let session = opening.id();
                let reason = match error.is_exhausted() {
                    true => EndReason::Overloaded,
                    false => EndReason::UpstreamUnreachable,
                };
                let source = error.source().map(|source| format!(": {source}"));
                let detail = format!("{error}{}", source.unwrap_or_default());
                opening.fail(reason, Some(detail.clone()));
                drop(place);
                if let Some(client) = client {
                    self.common.turned_away.turned_away(Away {
                        service: self.config().name.clone(),
                        client: client.address,
                        session: Some(session),
                        reason,
                        detail,
                        was_open: true,
                    });
                    self.refuse(id, client, session, reason);
                }
            }
        }
    }

    fn connected(
        &mut self,
        id: u64,
        client: Option<Client>,
        socket: OwnedFd,
        upstream: UpstreamAddress,
        purpose: Purpose,
    ) {
        match (purpose, client) {
            (Purpose::Cancel(request, errand), client) => {
                let flags = EventFlags::IN | EventFlags::RDHUP;
                if say(&socket, &request) && self.seat.watch(&socket, id << 1 | 1, flags).is_ok() {
                    let due = self.now().after(self.config().connect_timeout);
                    let stage = Stage::Cancelling(socket, errand);
                    self.put(id, Pending { client, stage, due });
                }
            }
            (Purpose::Session(admitted), Some(client)) => {
                let Admitted {
                    opening,
                    place,
                    startup,
                } = *admitted;
                let session = opening.id();
                let carriage = match startup {
                    None => Carriage::Tcp,
                    Some(startup) => Carriage::Postgres(Opened {
                        framing: Box::new(Talk::new(
                            session,
                            upstream,
                            Arc::clone(&self.common.keys),
                            Arc::clone(&self.desk),
                            self.config().busy_is_active,
                        )),
                        opening: startup.raw,
                        rest: startup.rest,
                    }),
                };
                let Client {
                    socket: from,
                    address,
                } = client;
                // If it is not carried, its end is on record.
                if let Err(uncarried) =
                    opening.carry(&self.home, from, socket, carriage, Some(place))
                {
                    let client = uncarried.client.map(|socket| Client { socket, address });
                    self.turn_back(id, client, session, uncarried.why.reason());
                }
            }
            (Purpose::Session(_), None) => {}
        }
    }
}
