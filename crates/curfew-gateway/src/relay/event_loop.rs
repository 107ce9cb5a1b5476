//! One thread's event loop: edge-triggered epoll over the flows it owns. How bytes move is in `pump`.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use curfew_model::{BootInstant, Clock};
use parking_lot::Mutex;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;

use super::closing::{Ended, Helper};
use super::entry::{Entry, Tools};
use super::flow::{Ending, Shared, Sockets};
use super::framed::{FRAMED_BUFFER_BYTES, Framed};
use super::pipes::Pipes;
use super::pump::{BUFFER_BYTES, Step};
use super::{Finish, Finished, Population};

/// Events taken from the kernel in one turn.
const EVENTS: usize = 256;
/// How long a client may take to read its goodbye before it is reset.
const LEAVING: Duration = Duration::from_secs(1);
/// How long flows that were ended wait to be cleared away. They are reset already; whatever ends at about the same
/// time, and the clients that learn of it, need the processor more.
const CLEAR_AFTER: Duration = Duration::from_millis(20);
/// Ended flows cleared away in one turn.
const CLEARED: usize = 64;
/// The epoll token of the mailbox; flows count from one.
const MAILBOX: u64 = 0;

/// What other threads ask of a loop.
enum Letter {
    Adopt(Arc<Sockets>, Arc<Shared>, Option<Box<Framed>>),
    Notice(u64, Vec<u8>),
    Ended(Vec<Ended>),
    Stop,
}

/// The way into a loop from any thread.
pub(super) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    bell: OwnedFd,
    helper: Helper,
}

impl Mailbox {
    pub(super) fn new(helper: Helper) -> io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self {
            letters: Mutex::new(Vec::new()),
            bell,
            helper,
        }))
    }

    /// Who helps to end flows of this loop.
    pub(super) fn helper(&self) -> &Helper {
        &self.helper
    }

    pub(super) fn adopt(
        &self,
        sockets: Arc<Sockets>,
        shared: Arc<Shared>,
        framed: Option<Box<Framed>>,
    ) {
        self.post(Letter::Adopt(sockets, shared, framed));
    }

    /// The client of the flow of this key is to be told something.
    pub(super) fn notice(&self, key: u64, bytes: Vec<u8>) {
        self.post(Letter::Notice(key, bytes));
    }

    /// These flows were ended by their owner and can be cleared away.
    pub(super) fn ended(&self, flows: Vec<Ended>) {
        self.post(Letter::Ended(flows));
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

pub(super) struct EventLoop {
    epoll: OwnedFd,
    mailbox: Arc<Mailbox>,
    clock: Arc<dyn Clock>,
    finished: Arc<dyn Finished>,
    population: Arc<Population>,
    entries: HashMap<u64, Entry>,
    by_key: HashMap<u64, u64>,
    next: u64,
    tools: Tools,
    /// Flows whose clients are leaving, by when they are reset; the soonest first.
    leaving: VecDeque<(BootInstant, u64)>,
    /// Flows that were reset by their owner and wait to be cleared away.
    ended: VecDeque<Ended>,
    /// When to begin with them, if there are any.
    clear_at: BootInstant,
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
            tools: Tools {
                buffer: vec![0; BUFFER_BYTES],
                framed_buffer: vec![0; FRAMED_BUFFER_BYTES],
                pipes: Pipes::default(),
            },
            leaving: VecDeque::new(),
            ended: VecDeque::new(),
            clear_at: BootInstant(0),
        })
    }

    /// Runs until told to stop; then every flow left is reset with `Finish::Shutdown`.
    pub(super) fn run(mut self) {
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        let mut again: Vec<u64> = Vec::new();
        loop {
            events.clear();
            let timeout = self.timeout(!again.is_empty());
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
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
            let now = self.clock.now().boot;
            self.reset_overdue(now);
            for id in turn {
                if self.turn(id, now) {
                    again.push(id);
                }
            }
            if letters && self.read_letters() {
                break;
            }
            if events.is_empty() || self.clear_at <= now {
                self.clear();
            }
        }
        let left: Vec<u64> = self.entries.keys().copied().collect();
        for id in left {
            self.remove(id, Finish::Shutdown);
        }
    }

    /// How long to wait for events: not at all with more to do, else until the next leaving client is overdue or
    /// ended flows are to be cleared away.
    fn timeout(&self, more: bool) -> Option<Timespec> {
        let overdue = self.leaving.front().map(|(overdue, _)| *overdue);
        let clear_at = (!self.ended.is_empty()).then_some(self.clear_at);
        let wait = match overdue.into_iter().chain(clear_at).min() {
            _ if more => Duration::ZERO,
            Some(next) => next.since(self.clock.now().boot),
            None => return None,
        };
        Some(Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        })
    }

    /// Clears some of the ended flows away.
    fn clear(&mut self) {
        for _ in 0..CLEARED {
            let Some(flow) = self.ended.pop_front() else {
                return;
            };
            if let Some(id) = self.by_key.get(&flow.key).copied() {
                self.remove(id, Finish::Ended);
            }
        }
    }

    fn reset_overdue(&mut self, now: BootInstant) {
        while let Some(&(overdue, id)) = self.leaving.front()
            && overdue <= now
        {
            self.leaving.pop_front();
            if let Some(entry) = self.entries.get(&id) {
                let finish = entry.finish();
                self.remove(id, finish);
            }
        }
    }

    /// One flow's share of the turn; true if it has more to do at once.
    fn turn(&mut self, id: u64, now: BootInstant) -> bool {
        let Some(entry) = self.entries.get_mut(&id) else {
            return false;
        };
        let step = entry.advance(&mut self.tools, now.0);
        if entry.shared.is_ended() && !entry.is_leaving() {
            // Its owner ended it; the letter that says how is on its way.
            return false;
        }
        match step {
            Step::Again => return true,
            Step::Blocked => {}
            Step::UpstreamDone => {
                let finish = entry.finish();
                self.leave(id, finish, now);
            }
            Step::Broken => self.remove(id, Finish::ProtocolError),
            Step::Done | Step::Failed => {
                let finish = entry.finish();
                self.remove(id, finish);
            }
        }
        false
    }

    /// Lets go of the upstream and gives the client a moment.
    fn leave(&mut self, id: u64, how: Finish, now: BootInstant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.leave(how);
            self.leaving.push_back((now.after(LEAVING), id));
            // The client may have closed already: no further event would say so.
            self.turn(id, now);
        }
    }

    /// True when told to stop.
    fn read_letters(&mut self) -> bool {
        let mut stop = false;
        let now = self.clock.now().boot;
        for letter in self.mailbox.take() {
            match letter {
                Letter::Adopt(sockets, shared, framed) => self.adopt(sockets, shared, framed, now),
                Letter::Notice(key, bytes) => {
                    if let Some(id) = self.by_key.get(&key).copied()
                        && let Some(entry) = self.entries.get_mut(&id)
                    {
                        entry.notice(&bytes);
                        self.turn(id, now);
                    }
                }
                Letter::Ended(flows) => flows.into_iter().for_each(|flow| self.ended(flow, now)),
                Letter::Stop => stop = true,
            }
        }
        stop
    }

    fn ended(&mut self, flow: Ended, now: BootInstant) {
        if flow.how == Ending::SaidGoodbye
            && let Some(id) = self.by_key.get(&flow.key).copied()
        {
            self.leave(id, Finish::Ended, now);
        } else {
            self.clear_later(flow, now);
        }
    }

    fn clear_later(&mut self, flow: Ended, now: BootInstant) {
        if self.ended.is_empty() {
            self.clear_at = now.after(CLEAR_AFTER);
        }
        self.ended.push_back(flow);
    }

    fn adopt(
        &mut self,
        sockets: Arc<Sockets>,
        shared: Arc<Shared>,
        framed: Option<Box<Framed>>,
        now: BootInstant,
    ) {
        let id = self.next;
        self.next += 1;
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = [(&sockets.client, id << 1), (&sockets.upstream, id << 1 | 1)]
            .into_iter()
            .try_for_each(|(fd, token)| {
                epoll::add(&self.epoll, fd, EventData::new_u64(token), flags)
            });
        self.by_key.insert(shared.key, id);
        if shared.is_ended() {
            // Before it came here: the letter that said so may be read already.
            let ended = Ended::new(shared.key, Ending::Reset, Arc::clone(&sockets));
            self.clear_later(ended, now);
        }
        self.entries.insert(id, Entry::new(sockets, shared, framed));
        if added.is_err() {
            self.remove(id, Finish::NetworkError);
        }
    }

    fn remove(&mut self, id: u64, finish: Finish) {
        let Some(mut entry) = self.entries.remove(&id) else {
            return;
        };
        self.by_key.remove(&entry.shared.key);
        let finish = if entry.shared.is_ended() {
            Finish::Ended
        } else {
            finish
        };
        entry.over(finish);
        // Whoever ended it has reset the sockets, or is about to and holds them until then; only of a client that
        // was sent its goodbye is the reset still to come.
        if !entry.is_clean() && (finish != Finish::Ended || entry.is_leaving()) {
            entry.sockets.reset();
        }
        let Entry {
            sockets, shared, ..
        } = entry;
        // An ending thread may keep the sockets open a moment longer; their events find no entry. The kernel takes
        // them off the list when they close.
        drop(sockets);
        self.finished.finished(shared.key, finish, shared.bytes());
        self.population.leave();
    }
}
