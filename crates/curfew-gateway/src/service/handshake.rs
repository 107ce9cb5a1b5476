//! The front's part until a client is admitted or refused: what it wants, and asking the door. Accepting and upstreams
//! may not live here.

use std::sync::Arc;

use curfew_enforcer::{Open, Owner, Peer};
use curfew_model::{BootInstant, EndReason, SessionId};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};

use super::facts::{facts, session_id};
use super::front::Front;
use super::pending::{Admitted, Claim, Errand, Pending, Purpose, Stage};
use super::sockets::{is_open, reset, say};
use crate::accept::{Client, Permit};
use crate::door::{CarryError, Nudge};
use crate::peer::unlearnt;
use crate::postgres::preamble::{Outcome, Preamble, Startup};

impl Front {
    /// Moves one connection on as far as it goes.
    pub(super) fn advance(&mut self, id: u64) {
        let Some(Pending { client, stage, due }) = self.take(id) else {
            return;
        };
        match (stage, client) {
            (Stage::Preamble(preamble), Some(client)) => self.read(id, client, preamble, due),
            (Stage::Connecting(connecting, purpose), client) => {
                self.go_on(id, client, connecting, purpose);
            }
            (Stage::Cancelling(socket, claim), client) => {
                if is_open(&socket) {
                    let stage = Stage::Cancelling(socket, claim);
                    self.put(id, Pending { client, stage, due });
                }
            }
            (Stage::Leaving, Some(client)) => {
                if is_open(&client.socket) {
                    let (client, stage) = (Some(client), Stage::Leaving);
                    self.put(id, Pending { client, stage, due });
                }
            }
            // Only a cancel of ours has no client.
            (Stage::Preamble(_) | Stage::Leaving, None) => {}
        }
    }

    /// A client's socket has something to say. Of one that waits for its upstream that is its leaving.
    pub(super) fn client_ready(&mut self, id: u64) {
        if !self.pending.get(&id).is_some_and(Pending::is_connecting) {
            return self.advance(id);
        }
        if let Some(Pending {
            stage: Stage::Connecting(_, Purpose::Session(admitted)),
            ..
        }) = self.take(id)
        {
            admitted.opening.fail(EndReason::ClosedByClient, None);
        }
    }

    /// Reads a client's wish.
    fn read(&mut self, id: u64, client: Client, mut preamble: Preamble, due: BootInstant) {
        let mut buffer = [0; 4096];
        let read = match recv(&client.socket, &mut buffer[..], RecvFlags::DONTWAIT) {
            Ok((0, _)) => return,
            Ok((read, _)) => read,
            Err(Errno::AGAIN | Errno::INTR) => 0,
            Err(_) => return,
        };
        let outcome = match read {
            0 => Ok(Outcome::NeedMore),
            _ => preamble.feed(buffer.get(..read).unwrap_or_default()),
        };
        match outcome {
            Ok(Outcome::NeedMore) => {}
            Ok(Outcome::Reply(bytes)) => {
                if !say(&client.socket, bytes) {
                    return reset(client);
                }
            }
            Ok(Outcome::Startup(startup)) => {
                self.forget_client(&client);
                return self.admit(id, client, Some(startup));
            }
            Ok(Outcome::Cancel(key)) => {
                self.forget_client(&client);
                // As the server does, an unknown key is answered by the end of the connection alone.
                let holder = self.common.keys.lock().find(&key).cloned();
                // One is enough for what runs: as many as clients like to send would use up descriptors.
                if let Some(holder) = holder
                    && let Some(claim) = Claim::take(&self.common.cancelling, holder.session)
                {
                    let purpose = Purpose::Cancel(key.request(), Errand::Client { _claim: claim });
                    self.connect(id, Some(client), &[holder.upstream], purpose);
                }
                return;
            }
            Err(error) => {
                self.forget_client(&client);
                let session = session_id(self.clock().now().wall);
                let why = error.to_string();
                self.note(&client, Some(session), EndReason::ProtocolError, &why);
                return self.refuse(id, client, session, EndReason::ProtocolError);
            }
        }
        let (client, stage) = (Some(client), Stage::Preamble(preamble));
        self.put(id, Pending { client, stage, due });
    }

    /// Asks for a session.
    pub(super) fn admit(&mut self, id: u64, client: Client, startup: Option<Startup>) {
        let now = self.clock().now();
        let session = session_id(now.wall);
        let Some(place) = Permit::take(&self.common.places, self.config().max_connections) else {
            let why = "max_connections are open";
            self.note(&client, Some(session), EndReason::Overloaded, why);
            return self.refuse(id, client, session, EndReason::Overloaded);
        };
        let user = startup.as_ref().map(|startup| startup.user.as_str());
        let facts = facts(self.config(), client.address, user, now.boot);
        let peer = Peer {
            owner: self.owner(&client),
            ..Peer::default()
        };
        // It leads where it was decided that it may, though the service leads elsewhere by then.
        let upstreams = Arc::clone(&facts.target.upstreams);
        let open = Open {
            id: session,
            facts,
            peer,
            decided_at: None,
        };
        let nudge: Arc<dyn Nudge> = Arc::clone(&self.desk) as Arc<dyn Nudge>;
        match self.door().open(open, Some(nudge)) {
            Ok(opening) => {
                let admitted = Box::new(Admitted {
                    opening,
                    place,
                    startup,
                });
                let purpose = Purpose::Session(admitted);
                self.connect(id, Some(client), &upstreams, purpose);
            }
            Err(CarryError::Refused(refused)) => {
                // Before the client hears of it: it may come again at once.
                drop(place);
                let wait = refused.retry_at.map(|at| at.since(now.boot));
                let protocol = self.config().protocol;
                let refusal = protocol.refusal(session, refused.reason, wait);
                self.dismiss(id, Some(client), refusal);
            }
            Err(error) => {
                let why = error.to_string();
                self.note(&client, Some(session), EndReason::EnforcerLost, &why);
                self.refuse(id, client, session, EndReason::EnforcerLost);
            }
        }
    }

    /// Whose a client's socket is, where that matters.
    fn owner(&mut self, client: &Client) -> Owner {
        if !self.door().needs_owners() {
            return Owner::Unasked;
        }
        let peers = self.peers.as_mut();
        let learnt = peers.and_then(|peers| peers.of_client(client).ok());
        learnt.unwrap_or_else(|| unlearnt(client.address))
    }

    pub(super) fn refuse(
        &mut self,
        id: u64,
        client: Client,
        session: SessionId,
        reason: EndReason,
    ) {
        let refusal = self.config().protocol.refusal(session, reason, None);
        self.dismiss(id, Some(client), refusal);
    }
}
