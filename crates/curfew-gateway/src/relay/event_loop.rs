//! One thread's event loop: edge-triggered epoll over the flows it owns. How bytes move is in `pump`.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use curfew_model::{BootInstant, Clock};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event, EventData, EventFlags};
use rustix::io::Errno;

use super::closing::Ended;
use super::entry::{Entry, Tools};
use super::flow::{Ending, Shared, Sockets, reset};
use super::framed::Framed;
use super::guest::{self, Guest};
use super::mailbox::{Letter, Mailbox};
use super::patience::Patience;
use super::pump::Step;
use super::{Finish, Finished, Population};
use crate::tuning::Tuning;

/// Events taken from the kernel in one turn.
const EVENTS: usize = 256;
/// How long a client may take to read its goodbye before it is reset.
const LEAVING: Duration = Duration::from_secs(1);
/// How long flows that were ended wait to be cleared away. Their clients are reset already; whatever ends at about
/// the same time, and the clients that learn of it, need the processor more.
const CLEAR_AFTER: Duration = Duration::from_millis(20);
/// Ended flows cleared away in one turn.
const CLEARED: usize = 64;
/// Flows whose peers are looked at in one turn, questions to the kernel for it, and how long the rest waits then.
const LOOKED_AT: usize = 512;
const ASKED: usize = 32;
const LOOK_ON: Duration = Duration::from_millis(2);
/// The epoll token of the mailbox; flows count from one.
const MAILBOX: u64 = 0;

pub(super) struct EventLoop {
    mailbox: Arc<Mailbox>,
    clock: Arc<dyn Clock>,
    finished: Arc<dyn Finished>,
    population: Arc<Population>,
    entries: HashMap<u64, Entry>,
    guests: BTreeMap<u64, Box<dyn Guest>>,
    by_key: HashMap<u64, u64>,
    next: u64,
    tools: Tools,
    /// Flows that have used up their turn and have more to do.
    again: Vec<u64>,
    /// Flows whose clients are leaving, by when they are reset; the soonest first.
    leaving: VecDeque<(BootInstant, u64)>,
    /// Flows that were reset by their owner and wait to be cleared away.
    ended: VecDeque<Ended>,
    /// When to begin with them, if there are any.
    clear_at: BootInstant,
    patience: Patience,
    /// Flows whose peers are still to be looked at in this round, when that goes on, and when the next round begins.
    to_look: Vec<u64>,
    look_at: BootInstant,
    next_round: BootInstant,
    stopping: bool,
}

impl EventLoop {
    pub(super) fn new(
        mailbox: Arc<Mailbox>,
        clock: Arc<dyn Clock>,
        finished: Arc<dyn Finished>,
        population: Arc<Population>,
        tuning: Tuning,
    ) -> io::Result<Self> {
        epoll::add(
            mailbox.epoll(),
            mailbox.bell(),
            EventData::new_u64(MAILBOX),
            EventFlags::IN,
        )?;
        let tools = Tools::new(Arc::clone(&clock));
        Ok(Self {
            mailbox,
            clock,
            finished,
            population,
            entries: HashMap::new(),
            guests: BTreeMap::new(),
            by_key: HashMap::new(),
            next: 1,
            tools,
            again: Vec::new(),
            leaving: VecDeque::new(),
            ended: VecDeque::new(),
            clear_at: BootInstant(0),
            patience: Patience::new(tuning),
            to_look: Vec::new(),
            look_at: BootInstant(0),
            next_round: BootInstant(0),
            stopping: false,
        })
    }

    /// Runs until told to stop, and the last guest has left; every flow is reset with `Finish::Shutdown` when told.
    pub(super) fn run(mut self) {
        self.mailbox.is_read_here();
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
        while !(self.stopping && self.guests.is_empty()) {
            events.clear();
            let timeout = self.timeout();
            match wait(self.mailbox.epoll(), &mut events, timeout) {
                Ok(()) | Err(Errno::INTR) => {}
                // The epoll descriptor itself is broken: nothing can be relayed any more.
                Err(_) => break,
            }
            let mut turn = std::mem::take(&mut self.again);
            self.read_events(&events, &mut turn);
            turn.sort_unstable();
            turn.dedup();
            let now = self.clock.boot();
            self.reset_overdue(now);
            for id in turn {
                self.turn(id, now);
            }
            self.turn_guests(&events, now);
            self.read_letters();
            if self.look_at <= now {
                self.look_at_peers(now);
            }
            if events.is_empty() || self.clear_at <= now {
                self.clear();
            }
        }
        self.reset_all();
    }

    /// Notes what is ready, and which flows have a turn.
    fn read_events(&mut self, events: &[Event], turn: &mut Vec<u64>) {
        for event in events {
            let (flags, token) = (event.flags, event.data.u64());
            if token == MAILBOX {
                self.mailbox.silence();
            } else if guest::split(token).is_none()
                && let Some(entry) = self.entries.get_mut(&(token >> 1))
            {
                entry.note(flags, token & 1 == 0);
                turn.push(token >> 1);
            }
        }
    }

    /// Gives guests their events and their turn.
    fn turn_guests(&mut self, events: &[Event], now: BootInstant) {
        let mut called = BTreeSet::new();
        for event in events {
            if let Some((number, token)) = guest::split(event.data.u64())
                && let Some(guest) = self.guests.get_mut(&number)
            {
                guest.event(token);
                called.insert(number);
            }
        }
        self.guests.retain(|number, guest| {
            let has_turn = called.contains(number) || guest.due().is_some_and(|due| due <= now);
            !has_turn || guest.turn()
        });
    }

    fn reset_all(&mut self) {
        let left: Vec<u64> = self.entries.keys().copied().collect();
        for id in left {
            self.remove(id, Finish::Shutdown);
        }
    }

    /// How long to wait for events: not at all with more to do, else until the next leaving client is overdue, ended
    /// flows are to be cleared away, peers are to be looked at or something is due for a guest.
    fn timeout(&self) -> Option<Duration> {
        if !self.again.is_empty() || !self.mailbox.is_empty() {
            return Some(Duration::ZERO);
        }
        let overdue = self.leaving.front().map(|(overdue, _)| *overdue);
        let clear_at = (!self.ended.is_empty()).then_some(self.clear_at);
        let due = self.guests.values().filter_map(|guest| guest.due());
        let look_at = (!self.entries.is_empty()).then_some(self.look_at);
        let times = overdue.into_iter().chain(clear_at).chain(look_at);
        let next = times.chain(due).min()?;
        Some(next.since(self.clock.boot()))
    }

    /// Clears some of the ended flows away.
    fn clear(&mut self) {
        for _ in 0..CLEARED {
            let Some(flow) = self.ended.pop_front() else {
                return;
            };
            // One that was sent its goodbye meanwhile has a moment more.
            if let Some(id) = self.by_key.get(&flow.key).copied()
                && self
                    .entries
                    .get(&id)
                    .is_some_and(|entry| !entry.is_leaving())
            {
                self.remove(id, Finish::Ended);
            }
        }
    }

    /// Goes on with a round of looks at whether peers take what they are sent.
    fn look_at_peers(&mut self, now: BootInstant) {
        if self.to_look.is_empty() {
            self.to_look.extend(self.entries.keys());
            self.next_round = now.after(self.patience.interval());
        }
        let mut asked = 0;
        for _ in 0..LOOKED_AT {
            let Some(id) = self.to_look.pop_if(|_| asked < ASKED) else {
                break;
            };
            if let Some(entry) = self.entries.get_mut(&id) {
                asked += entry.look(&mut self.patience);
            }
        }
        let on = now.after(LOOK_ON);
        self.look_at = if self.to_look.is_empty() {
            on.max(self.next_round)
        } else {
            on
        };
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

    /// One flow's share of the turn.
    fn turn(&mut self, id: u64, now: BootInstant) {
        let Some(entry) = self.entries.get_mut(&id) else {
            return;
        };
        let step = entry.advance(&mut self.tools, now.0);
        if entry.begins_to_hear() {
            self.finished.hears(entry.shared.key);
        }
        if entry.shared.is_ended() && !entry.is_leaving() {
            // Its owner ended it; the letter that says how is on its way.
            return;
        }
        match step {
            Step::Again => self.again.push(id),
            Step::Blocked => {}
            Step::UpstreamDone => {
                let finish = entry.finish();
                self.leave(id, finish, now);
            }
            Step::Broken(by) => {
                let told = entry.say_last_words();
                reset(&entry.sockets.upstream);
                let finish = Finish::ProtocolError { by, told };
                if told {
                    self.leave(id, finish, now);
                } else {
                    self.remove(id, finish);
                }
            }
            Step::Done | Step::Failed => {
                let finish = entry.finish();
                self.remove(id, finish);
            }
        }
    }

    /// Lets go of the upstream and gives the client a moment. The flow has finished: what is ordered from here on
    /// changes nothing about how.
    fn leave(&mut self, id: u64, how: Finish, now: BootInstant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.leave(how);
            let (key, bytes) = (entry.shared.key, entry.shared.bytes());
            self.finished.finished(key, how, bytes);
            self.leaving.push_back((now.after(LEAVING), id));
            // The client may have closed already: no further event would say so.
            self.turn(id, now);
        }
    }

    fn read_letters(&mut self) {
        let letters = self.mailbox.take();
        if letters.is_empty() {
            return;
        }
        let now = self.clock.boot();
        for letter in letters {
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
                Letter::Wake(key) => {
                    if let Some(id) = self.by_key.get(&key).copied() {
                        self.turn(id, now);
                    }
                }
                Letter::Ended(flows) => flows.into_iter().for_each(|flow| self.ended(flow, now)),
                Letter::Host(number, guest) => {
                    self.guests.insert(number, guest);
                }
                Letter::Stop => self.stopping = true,
            }
        }
        if self.stopping {
            self.reset_all();
        }
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
        let flags =
            EventFlags::IN | EventFlags::PRI | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        let added = [(&sockets.client, id << 1), (&sockets.upstream, id << 1 | 1)]
            .into_iter()
            .try_for_each(|(fd, token)| {
                epoll::add(self.mailbox.epoll(), fd, EventData::new_u64(token), flags)
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
        } else {
            // What the client has sent meanwhile goes on its way before the kernel is asked what is ready.
            self.turn(id, now);
        }
    }

    fn remove(&mut self, id: u64, finish: Finish) {
        let Some(mut entry) = self.entries.remove(&id) else {
            return;
        };
        self.by_key.remove(&entry.shared.key);
        self.mailbox.forget();
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
        let told = entry.is_leaving();
        let Entry {
            sockets, shared, ..
        } = entry;
        // An ending thread may keep the sockets open a moment longer; their events find no entry. The kernel takes
        // them off the list when they close.
        drop(sockets);
        if !told {
            self.finished.finished(shared.key, finish, shared.bytes());
        }
        self.population.leave();
    }
}

/// Waits until something is ready, or `timeout` from now; for ever without one.
fn wait(epoll: &OwnedFd, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    epoll::wait(epoll, spare_capacity(events), timeout.as_ref()).map(drop)
}
