//! The other process: the clients, which note what they see on CLOCK_BOOTTIME, and the service behind the gateway.

use std::{
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    os::fd::AsFd,
};

use curfew_enforcer::ask_for_real_time;
use curfew_model::{BootInstant, Clock};
use curfew_testkit::BootClock;
use rustix::{
    buffer::spare_capacity,
    event::{
        Timespec,
        epoll::{self, CreateFlags, Event, EventData, EventFlags},
    },
};

use crate::{BULK, SESSIONS};

/// The service sends to every session this often, a message of 64 bytes.
const PERIOD: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 200_000_000,
};

/// What one client saw.
pub(crate) struct Seen {
    pub(crate) client: SocketAddr,
    /// When the last byte was read; 0 for never.
    pub(crate) last_byte: BootInstant,
    /// When the end was read.
    pub(crate) end: BootInstant,
    /// `reset` or `fin`.
    pub(crate) how: String,
}

impl Seen {
    /// Reads a line that `run` has printed.
    pub(crate) fn parse(line: &str) -> Self {
        let mut words = line.split(' ');
        let mut word = || words.next().expect("a line of four words");
        Self {
            client: word().parse().unwrap(),
            last_byte: BootInstant(word().parse().unwrap()),
            end: BootInstant(word().parse().unwrap()),
            how: word().to_owned(),
        }
    }
}

/// Prints the service's address, reads the gateway's, opens the sessions, and prints how each ended.
pub(crate) fn run(busy: bool) {
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    println!("{}", service.local_addr().unwrap());
    std::thread::spawn(move || serve(&service));
    let mut gateway = String::new();
    std::io::stdin().read_line(&mut gateway).unwrap();
    let gateway: SocketAddr = gateway.trim().parse().unwrap();
    let open = |first: &[u8]| {
        let mut client = TcpStream::connect(gateway).unwrap();
        client.write_all(first).unwrap();
        client
    };
    let clients: Vec<TcpStream> = (0..SESSIONS).map(|_| open(b"s")).collect();
    if busy {
        for mut client in (0..BULK).map(|_| open(b"b")) {
            std::thread::spawn(
                move || while client.read(&mut [0; 262_144]).is_ok_and(|read| read > 0) {},
            );
        }
    }
    for seen in watch(&clients) {
        let (client, last, end) = (seen.client, seen.last_byte.0, seen.end.0);
        println!("{client} {last} {end} {}", seen.how);
    }
}

/// Sends small messages on sessions that began with `s`, without pause on those that began with `b`.
fn serve(service: &TcpListener) {
    let mut sessions = Vec::new();
    while sessions.len() < SESSIONS {
        let mut session = service.accept().unwrap().0;
        session.read_exact(&mut [0]).unwrap();
        sessions.push(session);
    }
    std::thread::spawn(move || {
        let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
        loop {
            for session in &mut sessions {
                // One that has ended stays ended.
                let _ = session.write_all(&[7; 64]);
            }
            epoll::wait(
                &epoll,
                spare_capacity(&mut Vec::with_capacity(1)),
                Some(&PERIOD),
            )
            .unwrap();
        }
    });
    while let Ok((mut bulk, _)) = service.accept() {
        std::thread::spawn(move || while bulk.write_all(&[7; 262_144]).is_ok() {});
    }
}

fn watch(clients: &[TcpStream]) -> Vec<Seen> {
    // A watch that waits for the processor would tell of the scheduler.
    eprintln!("the clients' thread: {}", ask_for_real_time());
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    for (number, client) in (0u64..).zip(clients) {
        client.set_nonblocking(true).unwrap();
        epoll::add(
            &epoll,
            client.as_fd(),
            EventData::new_u64(number),
            EventFlags::IN | EventFlags::ET,
        )
        .unwrap();
    }
    let mut watched: Vec<_> = clients.iter().map(|c| (Some(c), BootInstant(0))).collect();
    let mut ended = Vec::new();
    let mut events: Vec<Event> = Vec::with_capacity(256);
    while ended.len() < clients.len() {
        events.clear();
        epoll::wait(&epoll, spare_capacity(&mut events), None).unwrap();
        for event in &events {
            let number = usize::try_from(event.data.u64()).unwrap();
            if let Some((watching, last)) = watched.get_mut(number)
                && let Some(client) = watching
                && let Some(seen) = drain(client, last)
            {
                // The kernel may have more to say of it; the first word counts.
                *watching = None;
                ended.push(seen);
            }
        }
    }
    ended
}

/// Reads what is there; how it ended, if it did.
fn drain(mut client: &TcpStream, last: &mut BootInstant) -> Option<Seen> {
    let how = loop {
        match client.read(&mut [0; 4096]) {
            Ok(0) => break "fin",
            Ok(_) => *last = BootClock.now().boot,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(_) => break "reset",
        }
    };
    Some(Seen {
        client: client.local_addr().unwrap(),
        last_byte: *last,
        end: BootClock.now().boot,
        how: how.to_owned(),
    })
}
