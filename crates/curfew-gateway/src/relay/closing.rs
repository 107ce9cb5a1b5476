//! Ending many flows at once: a helper resets sockets beside the caller. Which flows end, and why, may not
//! live here.
//!
//! A reset costs the kernel about 5 µs, so a thousand flows whose deadlines fall within 10 ms are more than one
//! thread can end in time. The helper runs ahead of ordinary threads where it may, and takes whatever the caller has
//! not got to: an order that comes by the API is as quick as a deadline. It is never waited for to begin.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use curfew_enforcer::ask_for_real_time;
use curfew_model::BootInstant;
use parking_lot::{Condvar, Mutex};

use super::flow::{Bytes, Ending, Flow, Shared, Sockets, reset};
use super::mailbox::Mailbox;

/// From so many flows on, waking the helper costs less than it saves.
const WORTH_A_HELPER: usize = 4;
/// Flows that are reset together; the next ones wait for them, so that a deadline gets its turn on one processor.
const TOGETHER: usize = 256;

/// A flow that was ended by its owner, on its way to its loop.
pub(super) struct Ended {
    pub(super) key: u64,
    pub(super) how: Ending,
    /// Held until the loop has cleared the flow away, so that closing the descriptors is its work.
    _sockets: Arc<Sockets>,
}

impl Ended {
    pub(super) fn new(key: u64, how: Ending, sockets: Arc<Sockets>) -> Self {
        Self {
            key,
            how,
            _sockets: sockets,
        }
    }
}

/// How an order to end a flow was carried out, and what it had moved by then.
pub(crate) struct Over {
    pub(crate) how: Ending,
    pub(crate) bytes: Bytes,
    pub(crate) last: BootInstant,
}

/// Ends flows as [`Flow::end_saying`] does, each with its goodbye, and calls `done` with the index of each as soon as
/// both its peers have been told, in order. Their loops are told once.
///
/// Every flow is flagged before the first is reset: from here on the relay begins no write of theirs. One to the
/// upstream that raced past the flag meets a disconnected socket; one to the client of a framed flow holds the wire, and
/// none follows it.
pub(crate) fn end_all(flows: Vec<(Flow, Vec<u8>)>, mut done: impl FnMut(usize, Over)) {
    let mailbox = |(flow, _): &(Flow, Vec<u8>)| Arc::clone(&flow.mailbox);
    let mailboxes: Vec<Arc<Mailbox>> = flows.iter().map(mailbox).collect();
    let mut lasts: Vec<Last> = flows.into_iter().map(Last::new).collect();
    let mut letters: Vec<(Arc<Mailbox>, Vec<Ended>)> = Vec::new();
    let mut from = 0;
    for mailboxes in mailboxes.chunks(TOGETHER) {
        let later = lasts.split_off(mailboxes.len().min(lasts.len()));
        let job = Arc::new(Job::new(std::mem::replace(&mut lasts, later)));
        if let Some(mailbox) = mailboxes.first()
            && mailboxes.len() >= WORTH_A_HELPER
        {
            mailbox.helper().hand(Arc::clone(&job));
        }
        job.run(|index, over| done(from + index, over));
        from += mailboxes.len();
        for (mailbox, last) in mailboxes.iter().zip(&job.lasts) {
            let Some(ended) = last.letter() else { continue };
            match letters
                .iter_mut()
                .find(|(known, _)| Arc::ptr_eq(known, mailbox))
            {
                Some((_, letter)) => letter.push(ended),
                None => letters.push((Arc::clone(mailbox), vec![ended])),
            }
        }
    }
    for (mailbox, ended) in letters {
        mailbox.ended(ended);
    }
}

/// The end of one flow of a job.
struct Last {
    shared: Arc<Shared>,
    /// None if the flow had ended before.
    sockets: Option<Arc<Sockets>>,
    goodbye: Vec<u8>,
    said_goodbye: AtomicBool,
    /// Peers that are still to be told.
    untold: AtomicU8,
}

impl Last {
    /// Flags the flow.
    fn new((flow, goodbye): (Flow, Vec<u8>)) -> Self {
        let sockets = flow.sockets.upgrade();
        let was_over = flow.shared.ended.swap(true, Ordering::AcqRel);
        Self {
            shared: flow.shared,
            sockets: sockets.filter(|_| !was_over),
            goodbye,
            said_goodbye: AtomicBool::new(false),
            untold: AtomicU8::new(2),
        }
    }

    fn tell(&self, peer: Peer) {
        if let Some(sockets) = &self.sockets {
            match peer {
                Peer::Client => {
                    let said = self.shared.end_client(sockets, &self.goodbye);
                    self.said_goodbye.store(said, Ordering::Relaxed);
                }
                Peer::Upstream => reset(&sockets.upstream),
            }
        }
        self.untold.fetch_sub(1, Ordering::AcqRel);
    }

    /// How it ended, once both peers have been told.
    fn ending(&self) -> Option<Ending> {
        if self.untold.load(Ordering::Acquire) > 0 {
            return None;
        }
        Some(match &self.sockets {
            None => Ending::WasOver,
            Some(_) if self.said_goodbye.load(Ordering::Relaxed) => Ending::SaidGoodbye,
            Some(_) => Ending::Reset,
        })
    }

    fn over(&self) -> Option<Over> {
        Some(Over {
            how: self.ending()?,
            bytes: self.shared.bytes(),
            last: BootInstant(self.shared.last_activity.load(Ordering::Relaxed)),
        })
    }

    /// What its loop is told.
    fn letter(&self) -> Option<Ended> {
        let sockets = self.sockets.as_ref()?;
        Some(Ended::new(
            self.shared.key,
            self.ending()?,
            Arc::clone(sockets),
        ))
    }
}

/// One end of a flow.
#[derive(Clone, Copy)]
enum Peer {
    Client,
    Upstream,
}

/// Flows that are being ended together, by whoever has time.
struct Job {
    lasts: Vec<Last>,
    /// The next peer that nobody has taken: first the clients, then the upstreams.
    next: AtomicUsize,
    /// Peers that have been told.
    told: AtomicUsize,
    all: Mutex<()>,
    all_told: Condvar,
}

impl Job {
    fn new(lasts: Vec<Last>) -> Self {
        Self {
            lasts,
            next: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            all: Mutex::new(()),
            all_told: Condvar::new(),
        }
    }

    /// The caller's part.
    fn run(&self, mut done: impl FnMut(usize, Over)) {
        let mut lasts = self.lasts.iter().enumerate().peekable();
        let mut report = || {
            while let Some((index, over)) = lasts
                .next_if(|(_, last)| last.ending().is_some())
                .and_then(|(index, last)| Some((index, last.over()?)))
            {
                done(index, over);
            }
        };
        while self.tell_one() {
            report();
        }
        let mut all = self.all.lock();
        while self.told.load(Ordering::Acquire) < 2 * self.lasts.len() {
            self.all_told.wait(&mut all);
        }
        report();
    }

    /// Tells one peer that nobody has taken, a client before any upstream; false if none is left.
    fn tell_one(&self) -> bool {
        let next = self.next.fetch_add(1, Ordering::AcqRel);
        let client = self.lasts.get(next).map(|last| (last, Peer::Client));
        let upstream = || {
            let last = self.lasts.get(next.checked_sub(self.lasts.len())?)?;
            Some((last, Peer::Upstream))
        };
        let Some((last, peer)) = client.or_else(upstream) else {
            return false;
        };
        last.tell(peer);
        if self.told.fetch_add(1, Ordering::AcqRel) + 1 == 2 * self.lasts.len() {
            // Under the lock: the caller either sees the count or waits already.
            drop(self.all.lock());
            self.all_told.notify_one();
        }
        true
    }
}

/// Jobs for the helper; none to tell it to stop.
#[derive(Default)]
struct Jobs {
    waiting: Mutex<VecDeque<Option<Arc<Job>>>>,
    come: Condvar,
}

/// The way to the helper.
#[derive(Clone, Default)]
pub(super) struct Helper(Arc<Jobs>);

impl Helper {
    fn hand(&self, job: Arc<Job>) {
        self.0.waiting.lock().push_back(Some(job));
        self.0.come.notify_one();
    }

    /// Starts the thread. It asks for SCHED_FIFO; without it the callers find more left to do themselves.
    ///
    /// # Errors
    /// The kernel's, when it has no thread left.
    pub(super) fn start(&self) -> io::Result<JoinHandle<()>> {
        let jobs = Arc::clone(&self.0);
        std::thread::Builder::new()
            .name("close".to_owned())
            .spawn(move || {
                // Whoever measures lateness asks the deadline thread, which has the same right.
                let _ = ask_for_real_time();
                while let Some(job) = jobs.take() {
                    while job.tell_one() {}
                }
            })
    }

    /// Tells the thread to stop after the jobs that it has.
    pub(super) fn stop(&self) {
        self.0.waiting.lock().push_back(None);
        self.0.come.notify_one();
    }
}

impl Jobs {
    fn take(&self) -> Option<Arc<Job>> {
        let mut waiting = self.waiting.lock();
        loop {
            if let Some(job) = waiting.pop_front() {
                return job;
            }
            self.come.wait(&mut waiting);
        }
    }
}
