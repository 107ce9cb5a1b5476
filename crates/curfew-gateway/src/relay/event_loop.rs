//! One thread's event loop: edge-triggered epoll over the flows it owns. How bytes move is in `pump`.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use curfew_model::Clock;
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::flow::{Shared, Sockets};
use super::pipes::Pipes;
use super::pump::{BUFFER_BYTES, Direction, Lane, Readiness, Step};
use super::{Finish, Finished, Population};

/// Events taken from the kernel in one turn.
const EVENTS: usize = 256;
/// System calls of one direction in one turn, so that one flow starves nobody.
const BUDGET: u32 = 16;
/// The epoll token of the mailbox; flows count from one.
const MAILBOX: u64 = 0;

/// What other threads ask of a loop.
enum Letter {
    Adopt(Arc<Sockets>, Arc<Shared>),
    Ended(u64),
    Stop,
}

/// The way into a loop from any thread.
pub(super) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    bell: OwnedFd,
}

impl Mailbox {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self {
            letters: Mutex::new(Vec::new()),
            bell,
        }))
    }

    pub(super) fn adopt(&self, sockets: Arc<Sockets>, shared: Arc<Shared>) {
        self.post(Letter::Adopt(sockets, shared));
    }

    /// The flow of this key was ended by its owner and can be cleared away.
    pub(super) fn ended(&self, key: u64) {
        self.post(Letter::Ended(key));
    }

    pub(super) fn stop(&self) {
        self.post(Letter::Stop);
    }

    fn post(&self, letter: Letter) {
        self.letters.lock().push(letter);
        // A full counter has rung already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }

    fn take(&self) -> Vec<Letter> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        std::mem::take(&mut self.letters.lock())
    }
}

/// A flow as its loop sees it.
struct Entry {
    sockets: Arc<Sockets>,
    shared: Arc<Shared>,
    client: Readiness,
    upstream: Readiness,
    inbound: Direction,
    outbound: Direction,
    first_end: Option<Finish>,
    failed: bool,
}

pub(super) struct EventLoop {
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    clock: Arc<dyn Clock>,
    finished: Arc<dyn Finished>,
    population: Arc<Population>,
    entries: HashMap<u64, Entry>,
    by_key: HashMap<u64, u64>,
    next: u64,
    pipes: Pipes,
    buffer: Vec<u8>,
}

impl EventLoop {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        clock: Arc<dyn Clock>,
        finished: Arc<dyn Finished>,
        population: Arc<Population>,
    ) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        epoll::add(
            &epoll,
            &mailbox.bell,
            EventData::new_u64(MAILBOX),
            EventFlags::IN,
        )?;
        Ok(Self {
            epoll,
            mailbox,
            clock,
            finished,
            population,
            entries: HashMap::new(),
            by_key: HashMap::new(),
            next: 1,
            pipes: Pipes::default(),
            buffer: vec![0; BUFFER_BYTES],
        })
    }

    /// Runs until told to stop; then every flow left is reset with `Finish::Shutdown`.
    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let mut again: Vec<u64> = Vec::new();
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        loop {
            events.clear();
            let timeout = (!again.is_empty()).then_some(&at_once);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout) {
                Ok(_) | Err(Errno::INTR) => {}
                // The epoll descriptor itself is broken: nothing can be relayed any more.
                Err(_) => break,
            }
            let mut turn = std::mem::take(&mut again);
            let mut letters = false;
            for event in &events {
                let (flags, token) = (event.flags, event.data.u64());
                if token == MAILBOX {
                    letters = true;
                } else if let Some(entry) = self.entries.get_mut(&(token >> 1)) {
                    entry.note(flags, token & 1 == 0);
                    turn.push(token >> 1);
                }
            }
            turn.sort_unstable();
            turn.dedup();
            let now = self.clock.now().boot.0;
            for id in turn {
                if self.turn(id, now) {
                    again.push(id);
                }
            }
            if letters && self.read_letters() {
                break;
            }
        }
        let left: Vec<u64> = self.entries.keys().copied().collect();
        for id in left {
            self.remove(id, Finish::Shutdown);
        }
    }

    /// One flow's share of the turn; true if it has more to do at once.
    fn turn(&mut self, id: u64, now: u64) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        let step = entry.advance(&mut self.buffer, &mut self.pipes, now);
        match step {
            Step::Again => true,
            Step::Blocked => false,
            Step::Done | Step::Failed => {
                let finish = entry.first_end.unwrap_or(Finish::NetworkError);
                self.remove(id, finish);
                false
            }
        }
    }

    /// True when told to stop.
    fn read_letters(&mut self) -> bool {
        let mut stop = false;
        for letter in self.mailbox.take() {
            match letter {
                Letter::Adopt(sockets, shared) => self.adopt(sockets, shared),
                Letter::Ended(key) => {
                    if let Some(id) = self.by_key.get(&key).copied() {
                        self.remove(id, Finish::Ended);
                    }
                }
                Letter::Stop => stop = true,
            }
        }
        stop
    }

    fn adopt(&mut self, sockets: Arc<Sockets>, shared: Arc<Shared>) {
        let id = self.next;
        self.next += 1;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = [(&sockets.client, id << 1), (&sockets.upstream, id << 1 | 1)]
            .into_iter()
            .try_for_each(|(fd, token)| {
                epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)
            });
        self.by_key.insert(shared.key, id);
        self.entries.insert(id, Entry::new(sockets, shared));
        if added.is_err() {
            self.remove(id, Finish::NetworkError);
        }
    }

    fn remove(&mut self, id: u64, finish: Finish) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        self.by_key.remove(&entry.shared.key);
        let clean = entry.inbound.is_done() && entry.outbound.is_done();
        let finish = if entry.shared.is_ended() {
            Finish::Ended
        } else {
            finish
        };
        if !clean || finish == Finish::Ended {
            entry.sockets.reset();
        }
        let Entry {
            sockets, shared, ..
        } = entry;
        for socket in [&sockets.client, &sockets.upstream] {
            // An ending thread may keep the socket open a moment longer: no event of it counts.
            let _ = epoll::delete(&self.epoll, socket);
        }
        drop(sockets);
        self.finished.finished(shared.key, finish, shared.bytes());
        self.population.leave();
    }
}

impl Entry {
    fn new(sockets: Arc<Sockets>, shared: Arc<Shared>) -> Self {
        Self {
            sockets,
            shared,
            client: Readiness::default(),
            upstream: Readiness::default(),
            inbound: Direction::default(),
            outbound: Direction::default(),
            first_end: None,
            failed: false,
        }
    }

    fn note(&mut self, flags: EventFlags, of_client: bool) {
        let side = if of_client {
            &mut self.client
        } else {
            &mut self.upstream
        };
        side.readable |= flags.intersects(EventFlags::IN | EventFlags::RDHUP | EventFlags::HUP);
        side.writable |= flags.contains(EventFlags::OUT);
        side.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        self.failed |= flags.contains(EventFlags::ERR);
    }

    fn advance(&mut self, buffer: &mut [u8], pipes: &mut Pipes, now: u64) -> Step {
        if self.failed {
            return Step::Failed;
        }
        let Self {
            sockets,
            shared,
            client,
            upstream,
            inbound,
            outbound,
            ..
        } = self;
        let shared: &Shared = shared;
        let count = |total: &std::sync::atomic::AtomicU64, bytes: usize| {
            if bytes > 0 {
                total.fetch_add(bytes as u64, Ordering::Relaxed);
                shared.last_activity.store(now, Ordering::Relaxed);
            }
        };
        let mut lane = Lane {
            shared,
            buffer,
            pipes,
            budget: BUDGET,
        };
        let there = inbound.pump(
            (&sockets.client, client),
            (&sockets.upstream, upstream),
            &mut lane,
            |bytes| count(&shared.bytes_in, bytes),
        );
        if inbound.eof && self.first_end.is_none() {
            self.first_end = Some(Finish::ClosedByClient);
        }
        let back = outbound.pump(
            (&sockets.upstream, upstream),
            (&sockets.client, client),
            &mut lane,
            |bytes| count(&shared.bytes_out, bytes),
        );
        if outbound.eof && self.first_end.is_none() {
            self.first_end = Some(Finish::ClosedByServer);
        }
        match (there, back) {
            (Step::Failed, _) | (_, Step::Failed) => Step::Failed,
            (Step::Again, _) | (_, Step::Again) => Step::Again,
            (Step::Done, Step::Done) => Step::Done,
            _ => Step::Blocked,
        }
    }
}
