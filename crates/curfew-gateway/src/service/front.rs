//! The front of a service at one event loop: it takes clients from arrival to the relay without ever waiting for one
//! of them. What a client wants is read in `handshake`, upstreams are reached in `reach`; nothing is decided here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::os::fd::AsFd;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use curfew_model::{BootInstant, Clock, EndReason, SessionId};
use rustix::event::epoll::EventFlags;
use rustix::net::{Shutdown, shutdown};
use socket2::Socket;

use super::cancels::Cancels;
use super::desk::Desk;
use super::facts::session_id;
use super::pending::{Pending, Purpose, Stage};
use super::sockets::{reset, say};
use super::{Away, Common, ServiceConfig};
use crate::accept::{self, Client, Next};
use crate::descriptors::is_kept;
use crate::door::GatewayDoor;
use crate::peer::Peers;
use crate::postgres::preamble::Preamble;
use crate::protocol::Protocol;
use crate::relay::{Guest, Home, Seat};

/// The tokens of the desk and of the listening socket; connections count from one, two tokens each.
const DESK: u64 = 0;
const LISTENER: u64 = 1;
/// What is watched of a client that is read.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP);
/// Clients who came too late that are told in one turn, so that they starve no flow.
const TOLD: usize = 16;
/// How long to leave the queue alone when descriptors or memory have run out.
const EXHAUSTED_PAUSE: Duration = Duration::from_millis(50);
/// How long a client may take to read why it gets nothing.
const LEAVING: Duration = Duration::from_secs(1);
/// How long cancels and last words may still take when the front is to leave.
const STOPPING: Duration = Duration::from_secs(1);

/// The state of one front.
pub(super) struct Front {
    pub(super) common: Arc<Common>,
    pub(super) home: Home,
    pub(super) desk: Arc<Desk>,
    pub(super) seat: Seat,
    /// None once nobody is accepted any more.
    listener: Option<Arc<Socket>>,
    /// When to look at the queue again.
    resume: Option<BootInstant>,
    /// By number of arrival: the oldest first.
    pub(super) pending: BTreeMap<u64, Pending>,
    due: BTreeSet<(BootInstant, u64)>,
    /// Of the pending those that can be given up for a newcomer.
    waiting: BTreeSet<u64>,
    next: u64,
    /// Those who came too late and are still to be told.
    late: VecDeque<Client>,
    pub(super) cancels: Cancels,
    pub(super) peers: Option<Peers>,
    stop_by: Option<BootInstant>,
    /// Dropped with the front, which tells the service.
    _leave: mpsc::Sender<()>,
}

impl Front {
    pub(super) fn new(
        common: Arc<Common>,
        listener: Arc<Socket>,
        desk: Arc<Desk>,
        seat: Seat,
        home: Home,
        leave: mpsc::Sender<()>,
    ) -> io::Result<Self> {
        seat.watch(desk.bell(), DESK, EventFlags::IN)?;
        let front = Self {
            common,
            home,
            desk,
            seat,
            listener: Some(listener),
            resume: None,
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            next: 1,
            waiting: BTreeSet::new(),
            late: VecDeque::new(),
            cancels: Cancels::default(),
            peers: Peers::open().ok(),
            stop_by: None,
            _leave: leave,
        };
        front.watch_queue()?;
        Ok(front)
    }

    pub(super) fn config(&self) -> &ServiceConfig {
        &self.common.config
    }

    pub(super) fn clock(&self) -> &dyn Clock {
        &*self.common.clock
    }

    pub(super) fn door(&self) -> &Arc<GatewayDoor> {
        &self.common.door
    }

    pub(super) fn now(&self) -> BootInstant {
        self.clock().now().boot
    }

    /// One front is woken for a client, not all.
    fn watch_queue(&self) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::EXCLUSIVE;
        match &self.listener {
            Some(listener) => self.seat.watch(&**listener, LISTENER, flags),
            None => Ok(()),
        }
    }

    /// Takes one client. The queue is looked at again in the next turn, after what is ready elsewhere: to look until it
    /// is empty costs every client a second look.
    fn accept(&mut self) {
        let Some(listener) = &self.listener else {
            return;
        };
        match accept::next(listener) {
            Next::Client(client) => self.arrive(client),
            Next::Gone | Next::Nobody => {}
            // The queue stays readable: watched, it would be looked at without end.
            Next::Exhausted => self.pause_accepting(),
            Next::Closed => self.stop_accepting(),
        }
    }

    fn pause_accepting(&mut self) {
        if let Some(listener) = &self.listener {
            self.seat.forget(&**listener);
            self.resume = Some(self.now().after(EXHAUSTED_PAUSE));
        }
    }

    fn stop_accepting(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.seat.forget(&*listener);
        }
        self.resume = None;
    }

    fn resume_accepting(&mut self, now: BootInstant) {
        if self.resume.is_some_and(|resume| resume <= now) {
            // Without a watch, for want of memory, it is tried again.
            self.resume = match self.watch_queue() {
                Ok(()) => None,
                Err(_) => Some(now.after(EXHAUSTED_PAUSE)),
            };
        }
    }

    fn read_mail(&mut self) {
        let mail = self.desk.take();
        self.cancels.extend(mail.cancels);
        self.late.extend(mail.late);
        if mail.nudged {
            let ended: Vec<u64> = self
                .pending
                .iter()
                .filter(|(_, pending)| pending.opening().is_some_and(|o| o.ended().is_some()))
                .map(|(id, _)| *id)
                .collect();
            ended.into_iter().for_each(|id| self.advance(id));
        }
        if mail.stopped {
            self.stop_accepting();
            let wanting = self.pending.iter().filter(|(_, one)| one.wants_session());
            let wanting: Vec<u64> = wanting.map(|(id, _)| *id).collect();
            wanting.into_iter().for_each(|id| self.turn_away(id));
        }
        if mail.leaving && self.stop_by.is_none() {
            self.stop_by = Some(self.now().after(STOPPING));
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn put(&mut self, id: u64, pending: Pending) {
        self.due.insert((pending.due, id));
        if pending.can_make_room() {
            self.waiting.insert(id);
        }
        self.pending.insert(id, pending);
    }

    pub(super) fn take(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.due.remove(&(pending.due, id));
        self.waiting.remove(&id);
        Some(pending)
    }

    fn arrive(&mut self, client: Client) {
        if is_kept(&client.socket) {
            let why = "the limit of open files is reached";
            self.note(&client, None, EndReason::Overloaded, why);
            reset(client);
            return self.pause_accepting();
        }
        if self.waiting.len() >= self.config().max_waiting {
            self.make_room();
        }
        let id = self.number();
        match self.config().protocol {
            Protocol::Tcp => self.admit(id, client, None),
            Protocol::Postgres if self.watch_client(id, &client, READING) => {
                let due = self.now().after(self.config().handshake_timeout);
                let stage = Stage::Preamble(Preamble::default());
                let client = Some(client);
                self.put(id, Pending { client, stage, due });
            }
            Protocol::Postgres => reset(client),
        }
    }

    /// Resets the oldest client that says nothing.
    fn make_room(&mut self) {
        let oldest = self.waiting.first().copied();
        if let Some(client) = oldest.and_then(|id| self.take(id)?.client) {
            self.note(
                &client,
                None,
                EndReason::Overloaded,
                "given up for a newer client",
            );
            reset(client);
        }
    }

    fn look_at_due(&mut self, now: BootInstant) {
        while let Some(&(due, id)) = self.due.first()
            && due <= now
        {
            if self.pending.get(&id).is_some_and(Pending::is_connecting) {
                self.advance(id);
                continue;
            }
            let Some(pending) = self.take(id) else {
                self.due.remove(&(due, id));
                continue;
            };
            match (pending.stage, pending.client) {
                (Stage::Preamble(_), Some(client)) => {
                    self.forget_client(&client);
                    let session = session_id(self.clock().now().wall);
                    let (reason, why) = (EndReason::HandshakeTimeout, "the client said too little");
                    self.note(&client, Some(session), reason, why);
                    self.refuse(id, client, session, reason);
                }
                (_, Some(client)) => reset(client),
                (_, None) => {}
            }
        }
    }

    /// The service stops: a client that has no session yet gets none.
    fn turn_away(&mut self, id: u64) {
        let Some(Pending {
            client: Some(client),
            stage,
            ..
        }) = self.take(id)
        else {
            return;
        };
        // On its way to an upstream only its leaving is watched, if anything.
        self.forget_client(&client);
        let session = match stage {
            Stage::Connecting(_, Purpose::Session(admitted)) => {
                let session = admitted.opening.id();
                admitted.opening.fail(EndReason::Shutdown, None);
                session
            }
            _ => return self.tell_of_stop(id, client),
        };
        self.refuse(id, client, session, EndReason::Shutdown);
    }

    /// Tells those who waited to be accepted when the service stopped. They do not count as waiting for `max_waiting`:
    /// they are as many as the kernel's queue held, and nobody comes after them.
    fn turn_away_late(&mut self) {
        for _ in 0..TOLD {
            let Some(client) = self.late.pop_front() else {
                return;
            };
            let id = self.number();
            self.tell_of_stop(id, client);
        }
    }

    fn tell_of_stop(&mut self, id: u64, client: Client) {
        let session = session_id(self.clock().now().wall);
        self.note(
            &client,
            Some(session),
            EndReason::Shutdown,
            "the service stops",
        );
        self.refuse(id, client, session, EndReason::Shutdown);
    }

    /// Lets a client go whose session ended before anything was relayed: by an order, or because it could not be
    /// carried.
    pub(super) fn turn_back(
        &mut self,
        id: u64,
        client: Option<Client>,
        session: SessionId,
        reason: EndReason,
    ) {
        let protocol = self.config().protocol;
        let words = match reason {
            // It may be served elsewhere, or later.
            EndReason::Overloaded | EndReason::Shutdown | EndReason::ProtocolError => {
                protocol.refusal(session, reason, None)
            }
            _ => protocol.goodbye(session, reason),
        };
        self.dismiss(id, client, words);
    }

    /// Lets a client go: with last words, where its protocol has some, and a moment to read them.
    pub(super) fn dismiss(&mut self, id: u64, client: Option<Client>, words: Option<Vec<u8>>) {
        let Some(client) = client else {
            return;
        };
        let told = words.is_some_and(|words| {
            say(&client.socket, &words) && shutdown(&client.socket, Shutdown::Write).is_ok()
        });
        if told && self.watch_client(id, &client, READING) {
            let due = self.now().after(LEAVING);
            let (client, stage) = (Some(client), Stage::Leaving);
            self.put(id, Pending { client, stage, due });
        } else {
            reset(client);
        }
    }

    /// Watches a client; for its failure in any case.
    pub(super) fn watch_client(&self, id: u64, client: &Client, flags: EventFlags) -> bool {
        self.seat
            .watch(client.socket.as_fd(), id << 1, flags)
            .is_ok()
    }

    pub(super) fn forget_client(&self, client: &Client) {
        self.seat.forget(client.socket.as_fd());
    }

    /// A client gets no session; `session` is the id that it is told, where its protocol has words.
    pub(super) fn note(
        &self,
        client: &Client,
        session: Option<SessionId>,
        reason: EndReason,
        detail: &str,
    ) {
        self.common.turned_away.turned_away(Away {
            service: self.config().name.clone(),
            client: client.address,
            session,
            reason,
            detail: detail.to_owned(),
            was_open: false,
        });
    }
}

impl Guest for Front {
    fn event(&mut self, token: u64) {
        match token {
            DESK => self.read_mail(),
            LISTENER => self.accept(),
            // The client's token is even; while its upstream is connected, only its leaving is watched.
            token if token & 1 == 0 => self.client_ready(token >> 1),
            token => self.advance(token >> 1),
        }
    }

    fn turn(&mut self) -> bool {
        let now = self.now();
        self.look_at_due(now);
        self.turn_away_late();
        self.resume_accepting(now);
        self.start_cancels(now);
        let is_done = self.pending.is_empty() && self.late.is_empty();
        self.stop_by.is_none_or(|stop_by| {
            // A statement may have caught the first cancel.
            let cancels = self.cancels.due().is_some_and(|due| due <= stop_by);
            (!is_done || cancels) && now < stop_by
        })
    }

    fn due(&self) -> Option<BootInstant> {
        let due = self.due.first().map(|&(due, _)| due);
        let at_once = (!self.late.is_empty()).then_some(BootInstant(0));
        let due = due.into_iter().chain(at_once);
        let due = due.chain(self.cancels.due());
        due.chain(self.resume).chain(self.stop_by).min()
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.stop_accepting();
        self.seat.forget(self.desk.bell());
        self.desk.close();
    }
}
