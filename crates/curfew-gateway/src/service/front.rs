//! The front of a service: one thread that takes clients from arrival to the relay, without ever waiting for one of
//! them. It reads what they want, asks the door, and connects; it relays nothing and decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use curfew_model::{BootInstant, EndReason, SessionId};
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};

use super::desk::{Desk, Letter};
use super::facts::{facts, session_id};
use super::pending::{Admitted, Pending, Purpose, Stage};
use super::reach::Cancels;
use super::sockets::{is_open, reset, say};
use super::talk::Keys;
use super::{Gateway, Places, ServiceConfig};
use crate::accept::{Client, Permit};
use crate::door::{CarryError, Nudge};
use crate::peer::Peers;
use crate::postgres::cancel::CancelRegistry;
use crate::postgres::preamble::{Outcome, Preamble, Startup};
use crate::protocol::Protocol;

/// Events taken from the kernel in one turn.
const EVENTS: usize = 256;
/// The epoll token of the desk; connections count from one.
const DESK: u64 = 0;
/// How long a client may take to read why it gets nothing.
const LEAVING: Duration = Duration::from_secs(1);
/// How long cancels may still take when the service stops.
const STOPPING: Duration = Duration::from_secs(1);

/// The state of one front.
pub(super) struct Front {
    pub(super) config: Arc<ServiceConfig>,
    pub(super) gateway: Gateway,
    pub(super) desk: Arc<Desk>,
    pub(super) epoll: OwnedFd,
    /// By number of arrival: the oldest first.
    pub(super) pending: BTreeMap<u64, Pending>,
    due: BTreeSet<(BootInstant, u64)>,
    next: u64,
    places: Places,
    pub(super) keys: Arc<Keys>,
    pub(super) cancels: Cancels,
    peers: Option<Peers>,
    stop_by: Option<BootInstant>,
}

impl Front {
    pub(super) fn new(
        config: Arc<ServiceConfig>,
        gateway: Gateway,
        desk: Arc<Desk>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            desk.bell(),
            EventData::new_u64(DESK),
            EventFlags::IN,
        )?;
        let keys = CancelRegistry::new(config.max_connections);
        Ok(Self {
            config,
            gateway,
            desk,
            epoll,
            pending: BTreeMap::new(),
            due: BTreeSet::new(),
            next: 1,
            places: Places::default(),
            keys: Arc::new(Mutex::new(keys)),
            cancels: Cancels::default(),
            peers: Peers::open().ok(),
            stop_by: None,
        })
    }

    /// Serves until told to stop.
    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        loop {
            events.clear();
            let timeout = self.timeout();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // The epoll descriptor itself is broken: nothing can be served any more.
                Err(_) => break,
            }
            for event in &events {
                match event.data.u64() {
                    DESK => self.read_mail(),
                    token => self.turn(token >> 1),
                }
            }
            self.look_at_due();
            self.start_cancels();
            if let Some(stop_by) = self.stop_by
                && (self.pending.is_empty() || self.now() >= stop_by)
            {
                break;
            }
        }
        self.desk.close();
    }

    pub(super) fn now(&self) -> BootInstant {
        self.gateway.clock.now().boot
    }

    fn timeout(&self) -> Option<Timespec> {
        let due = self.due.first().map(|&(due, _)| due);
        let wait = due.into_iter().chain(self.stop_by).min()?.since(self.now());
        Some(Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    fn read_mail(&mut self) {
        let mail = self.desk.take();
        for letter in mail.letters {
            match letter {
                // Dropped, it is closed.
                Letter::Arrived(_) if mail.stopped => {}
                Letter::Arrived(client) => self.arrive(client),
                Letter::Cancel(upstream, request) => {
                    self.cancels.waiting.push_back((upstream, request))
                }
            }
        }
        if mail.nudged {
            let ended: Vec<u64> = self
                .pending
                .iter()
                .filter(|(_, pending)| pending.opening().is_some_and(|o| o.ended().is_some()))
                .map(|(id, _)| *id)
                .collect();
            ended.into_iter().for_each(|id| self.turn(id));
        }
        if mail.stopped && self.stop_by.is_none() {
            self.stop_by = Some(self.now().after(STOPPING));
            // Sessions that were being opened end as `shutdown` when they are dropped.
            self.pending.retain(|_, pending| pending.is_cancel());
            let pending = &self.pending;
            self.due.retain(|(_, id)| pending.contains_key(id));
        }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }

    pub(super) fn put(&mut self, id: u64, pending: Pending) {
        self.due.insert((pending.due, id));
        self.pending.insert(id, pending);
    }

    fn take(&mut self, id: u64) -> Option<Pending> {
        let pending = self.pending.remove(&id)?;
        self.due.remove(&(pending.due, id));
        Some(pending)
    }

    fn arrive(&mut self, client: Client) {
        let waiting = self
            .pending
            .len()
            .saturating_sub(self.cancels.started.len());
        if waiting >= self.config.max_waiting && !self.make_room() {
            self.note(
                &client,
                EndReason::Overloaded,
                "no handshake can be given up",
            );
            return reset(client);
        }
        let id = self.number();
        match self.config.protocol {
            Protocol::Tcp => self.admit(id, client, None),
            Protocol::Postgres if self.watch_client(id, &client) => {
                let due = self.now().after(self.config.handshake_timeout);
                let stage = Stage::Preamble(Preamble::default());
                let client = Some(client);
                self.put(id, Pending { client, stage, due });
            }
            Protocol::Postgres => reset(client),
        }
    }

    /// Resets the oldest client that says nothing.
    fn make_room(&mut self) -> bool {
        let oldest = self
            .pending
            .iter()
            .find(|(_, pending)| pending.can_make_room())
            .map(|(id, _)| *id);
        let Some(pending) = oldest.and_then(|id| self.take(id)) else {
            return false;
        };
        if let Some(client) = pending.client {
            self.note(
                &client,
                EndReason::Overloaded,
                "given up for a newer client",
            );
            reset(client);
        }
        true
    }

    /// Moves one connection on as far as it goes.
    fn turn(&mut self, id: u64) {
        let Some(Pending { client, stage, due }) = self.take(id) else {
            return;
        };
        match (stage, client) {
            (Stage::Preamble(preamble), Some(client)) => self.read(id, client, preamble, due),
            (Stage::Connecting(connecting, purpose), client) => {
                self.go_on(id, client, connecting, purpose);
            }
            (Stage::Cancelling(socket), client) => {
                if is_open(&socket) {
                    let stage = Stage::Cancelling(socket);
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

    fn look_at_due(&mut self) {
        let now = self.now();
        while let Some(&(due, id)) = self.due.first()
            && due <= now
        {
            if self.pending.get(&id).is_some_and(Pending::is_connecting) {
                self.turn(id);
                continue;
            }
            let Some(pending) = self.take(id) else {
                self.due.remove(&(due, id));
                continue;
            };
            if let Some(client) = pending.client {
                if matches!(pending.stage, Stage::Preamble(_)) {
                    self.note(
                        &client,
                        EndReason::HandshakeTimeout,
                        "the client said too little",
                    );
                }
                reset(client);
            }
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
                let holder = self.keys.lock().find(&key).cloned();
                if let Some(holder) = holder {
                    let purpose = Purpose::Cancel(key.request());
                    self.connect(id, Some(client), &[holder.upstream], purpose);
                }
                return;
            }
            Err(error) => {
                self.forget_client(&client);
                let session = session_id(self.gateway.clock.now().wall);
                self.note(&client, EndReason::ProtocolError, &error.to_string());
                return self.refuse(id, client, session, EndReason::ProtocolError);
            }
        }
        let (client, stage) = (Some(client), Stage::Preamble(preamble));
        self.put(id, Pending { client, stage, due });
    }

    /// Asks for a session.
    fn admit(&mut self, id: u64, client: Client, startup: Option<Startup>) {
        let now = self.gateway.clock.now();
        let session = session_id(now.wall);
        let Some(place) = Permit::take(&self.places, self.config.max_connections) else {
            self.note(&client, EndReason::Overloaded, "max_connections are open");
            return self.refuse(id, client, session, EndReason::Overloaded);
        };
        let user = startup.as_ref().map(|startup| startup.user.as_str());
        let open = curfew_enforcer::Open {
            id: session,
            facts: facts(&self.config, client.address, user, now.boot),
            // Without inet_diag bindings by uid match nobody, and their clients are refused as unknown.
            peer: self
                .peers
                .as_mut()
                .and_then(|peers| peers.of_client(&client).ok())
                .unwrap_or_default(),
            decided_at: None,
        };
        let nudge: Arc<dyn Nudge> = Arc::clone(&self.desk) as Arc<dyn Nudge>;
        match self.gateway.door.open(open, Some(nudge)) {
            Ok(opening) => {
                let admitted = Box::new(Admitted {
                    opening,
                    place,
                    startup,
                });
                let config = Arc::clone(&self.config);
                let purpose = Purpose::Session(admitted);
                self.connect(id, Some(client), &config.upstreams, purpose);
            }
            Err(CarryError::Refused(refused)) => self.refuse(id, client, session, refused.reason),
            Err(error) => {
                self.note(&client, EndReason::EnforcerLost, &error.to_string());
                self.refuse(id, client, session, EndReason::EnforcerLost);
            }
        }
    }

    pub(super) fn refuse(
        &mut self,
        id: u64,
        client: Client,
        session: SessionId,
        reason: EndReason,
    ) {
        let refusal = self.config.protocol.refusal(session, reason);
        self.dismiss(id, Some(client), refusal);
    }

    /// Lets a client go: with last words, where its protocol has some, and a moment to read them.
    pub(super) fn dismiss(&mut self, id: u64, client: Option<Client>, words: Option<Vec<u8>>) {
        let Some(client) = client else {
            return;
        };
        let told = words.is_some_and(|words| {
            say(&client.socket, &words) && shutdown(&client.socket, Shutdown::Write).is_ok()
        });
        if told && self.watch_client(id, &client) {
            let due = self.now().after(LEAVING);
            let (client, stage) = (Some(client), Stage::Leaving);
            self.put(id, Pending { client, stage, due });
        } else {
            reset(client);
        }
    }

    fn watch_client(&self, id: u64, client: &Client) -> bool {
        let flags = EventFlags::IN | EventFlags::RDHUP;
        let token = EventData::new_u64(id << 1);
        epoll::add(&self.epoll, client.socket.as_fd(), token, flags).is_ok()
    }

    fn forget_client(&self, client: &Client) {
        let _ = epoll::delete(&self.epoll, client.socket.as_fd());
    }

    pub(super) fn note(&self, client: &Client, reason: EndReason, detail: &str) {
        let Gateway { turned_away, .. } = &self.gateway;
        turned_away.turned_away(&self.config.name, client.address, reason, detail);
    }
}
