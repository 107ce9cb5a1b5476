//! The sessions' clients, and the watch over those that are about to be reset.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, SocketAddrV4, TcpStream},
    os::fd::{AsFd, OwnedFd},
    sync::mpsc,
};

use curfew_enforcer::{Scheduling, ask_for_real_time};
use curfew_model::{BootInstant, Clock};
use curfew_testkit::BootClock;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
    net::{AddressFamily, SocketType, bind, connect, socket},
};

use crate::{EACH, USERS, site};

/// The clients of each user.
pub(crate) struct Clients {
    of: Vec<Vec<TcpStream>>,
    scheduling: Option<Scheduling>,
}

impl Clients {
    pub(crate) fn connect(service: SocketAddr) -> Self {
        Self {
            of: (0..USERS).map(|user| sessions(user, service)).collect(),
            scheduling: None,
        }
    }

    /// Gives a user new sessions.
    pub(crate) fn reconnect(&mut self, user: usize, service: SocketAddr) {
        *self.of.get_mut(user).unwrap() = sessions(user, service);
    }

    /// How the watch is scheduled.
    pub(crate) fn scheduling(&self) -> String {
        self.scheduling
            .as_ref()
            .map_or_else(|| "nothing".to_owned(), ToString::to_string)
    }

    /// Has every session move a byte there and back.
    pub(crate) fn all_answer(&mut self) {
        self.of.iter_mut().flatten().for_each(answers);
    }

    /// Calls, while the sessions of one user are watched until the last is reset: the answer, when the call began and
    /// ended, and when each reset was read. The watch waits for the processor under SCHED_FIFO where that is allowed.
    pub(crate) fn watch<T>(
        &mut self,
        user: usize,
        call: impl FnOnce() -> T,
    ) -> (T, BootInstant, BootInstant, Vec<BootInstant>) {
        let clients = self.of.get(user).unwrap();
        let (tell, told) = mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let watching = scope.spawn(|| resets(clients, &tell));
            self.scheduling = Some(told.recv().unwrap());
            let started = BootClock.now().boot;
            let answer = call();
            let ended = BootClock.now().boot;
            (answer, started, ended, watching.join().unwrap())
        })
    }
}

fn sessions(user: usize, service: SocketAddr) -> Vec<TcpStream> {
    let mut sessions: Vec<TcpStream> = (0..EACH).map(|_| session(user, service)).collect();
    sessions.iter_mut().for_each(answers);
    sessions
}

/// A connection from the user's address.
fn session(user: usize, service: SocketAddr) -> TcpStream {
    let socket: OwnedFd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(site::home(user), 0)).unwrap();
    connect(&socket, &service).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true).unwrap();
    stream
}

fn answers(client: &mut TcpStream) {
    client.write_all(&[1]).unwrap();
    client.read_exact(&mut [0]).unwrap();
}

fn resets(clients: &[TcpStream], ready: &mpsc::SyncSender<Scheduling>) -> Vec<BootInstant> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    for (number, client) in (0u64..).zip(clients) {
        client.set_nonblocking(true).unwrap();
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, client.as_fd(), EventData::new_u64(number), flags).unwrap();
    }
    ready.send(ask_for_real_time()).unwrap();
    let mut waiting: Vec<Option<&TcpStream>> = clients.iter().map(Some).collect();
    let mut ends = Vec::with_capacity(clients.len());
    let mut events: Vec<Event> = Vec::with_capacity(clients.len());
    while ends.len() < clients.len() {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            let slot = usize::try_from(event.data.u64()).unwrap();
            let watched = waiting.get_mut(slot).unwrap();
            let Some(mut client) = *watched else { continue };
            match client.read(&mut [0; 16]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => {
                    ends.push(BootClock.now().boot);
                    *watched = None;
                }
                other => panic!("a session of a revoked user ends by a reset, not {other:?}"),
            }
        }
    }
    ends
}
