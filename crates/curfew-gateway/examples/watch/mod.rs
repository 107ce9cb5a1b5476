//! Clients that wait for their connections to end, and note when on CLOCK_BOOTTIME.

use std::{
    io::{ErrorKind, Read},
    net::TcpStream,
    os::fd::AsFd,
};

use curfew_enforcer::ask_for_real_time;
use curfew_model::{BootInstant, Clock};
use curfew_testkit::BootClock;
use rustix::{
    buffer::spare_capacity,
    event::epoll::{self, CreateFlags, Event, EventData, EventFlags},
    io::Errno,
};

/// What one client saw.
pub(crate) struct Seen {
    /// Which of them, counted from 0.
    pub(crate) number: usize,
    /// When the last byte was read; 0 for never.
    pub(crate) last_byte: BootInstant,
    /// When the end was read.
    pub(crate) end: BootInstant,
    /// `reset` or `fin`.
    pub(crate) how: &'static str,
}

/// Watches until the last has ended, on a thread of its own under SCHED_FIFO where that is allowed: a watch that waits
/// for the processor would tell of the scheduler.
pub(crate) fn watch(clients: &[TcpStream]) -> Vec<Seen> {
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| {
            eprintln!("the clients are watched under {}", ask_for_real_time());
            run(clients)
        });
        watching.join().unwrap()
    })
}

fn run(clients: &[TcpStream]) -> Vec<Seen> {
    let epoll = epoll::create(CreateFlags::CLOEXEC).unwrap();
    for (number, client) in (0u64..).zip(clients) {
        client.set_nonblocking(true).unwrap();
        let flags = EventFlags::IN | EventFlags::ET;
        epoll::add(&epoll, client.as_fd(), EventData::new_u64(number), flags).unwrap();
    }
    let mut watched: Vec<_> = clients
        .iter()
        .map(|client| (Some(client), BootInstant(0)))
        .collect();
    let mut ended = Vec::new();
    let mut events: Vec<Event> = Vec::with_capacity(256);
    while ended.len() < clients.len() {
        events.clear();
        match epoll::wait(&epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => panic!("epoll: {error}"),
        }
        for event in &events {
            let number = usize::try_from(event.data.u64()).unwrap();
            if let Some((watching, last)) = watched.get_mut(number)
                && let Some(client) = watching
                && let Some(how) = drain(client, last)
            {
                let end = BootClock.now().boot;
                // The kernel may have more to say of it; the first word counts.
                *watching = None;
                ended.push(Seen {
                    number,
                    last_byte: *last,
                    end,
                    how,
                });
            }
        }
    }
    ended
}

/// Reads what is there; how it ended, if it did.
fn drain(mut client: &TcpStream, last: &mut BootInstant) -> Option<&'static str> {
    loop {
        match client.read(&mut [0; 4096]) {
            Ok(0) => return Some("fin"),
            Ok(_) => *last = BootClock.now().boot,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return None,
            Err(_) => return Some("reset"),
        }
    }
}
