//! Ending many flows at once: the caller resets the clients while a helper resets the upstreams. Which flows end,
//! and why, may not live here.
//!
//! A reset costs the kernel about 5 µs, so a thousand flows whose deadlines fall within 10 ms are more than one
//! thread can end in time. The helper takes work but is never waited for to begin: what it has not taken, the
//! caller does itself.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use curfew_enforcer::ask_for_real_time;
use parking_lot::{Condvar, Mutex};

use super::event_loop::Mailbox;
use super::flow::{Ending, Flow, Sockets, reset};

/// From so many flows on, waking the helper costs less than it saves.
const WORTH_A_HELPER: usize = 4;
/// Flows that are flagged and reset together; the next ones wait for them.
const TOGETHER: usize = 64;

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

/// Ends flows as [`Flow::end_saying`] does, each with its goodbye, and calls `done` with the index of each as soon as
/// both its peers have been told, in order. Their loops are told once.
pub(crate) fn end_all(flows: &[(&Flow, &[u8])], mut done: impl FnMut(usize, Ending)) {
    let mut letters: Vec<(Arc<Mailbox>, Vec<Ended>)> = Vec::new();
    let mut from = 0;
    for together in flows.chunks(TOGETHER) {
        let job = Arc::new(Job::new(together));
        if let Some((first, _)) = together.first()
            && together.len() >= WORTH_A_HELPER
        {
            first.mailbox.helper().hand(Arc::clone(&job));
        }
        let endings = job.run(together, |index, how| done(from + index, how));
        from += together.len();
        for (((flow, _), last), how) in together.iter().zip(&job.lasts).zip(endings) {
            let Some(sockets) = &last.sockets else {
                continue;
            };
            let ended = Ended::new(flow.shared.key, how, Arc::clone(sockets));
            match letters
                .iter_mut()
                .find(|(mailbox, _)| Arc::ptr_eq(mailbox, &flow.mailbox))
            {
                Some((_, letter)) => letter.push(ended),
                None => letters.push((Arc::clone(&flow.mailbox), vec![ended])),
            }
        }
    }
    for (mailbox, ended) in letters {
        mailbox.ended(ended);
    }
}

/// The end of one flow of a job.
struct Last {
    /// None if the flow had ended before.
    sockets: Option<Arc<Sockets>>,
    upstream_reset: AtomicBool,
}

/// Flows that are being ended together, by whoever has time.
struct Job {
    lasts: Vec<Last>,
    /// The next upstream that nobody has taken.
    next: AtomicUsize,
    /// Upstreams that are reset.
    reset: AtomicUsize,
    all: Mutex<()>,
    all_reset: Condvar,
}

impl Job {
    /// Flags every flow: from here on the relay begins no write of theirs. One to the upstream that raced past the
    /// flag meets a disconnected socket; one to the client of a framed flow holds the wire, and none follows it.
    fn new(flows: &[(&Flow, &[u8])]) -> Self {
        let last = |(flow, _): &(&Flow, &[u8])| {
            let sockets = flow.sockets.upgrade();
            let was_over = flow.shared.ended.swap(true, Ordering::AcqRel);
            Last {
                sockets: sockets.filter(|_| !was_over),
                upstream_reset: AtomicBool::new(false),
            }
        };
        Self {
            lasts: flows.iter().map(last).collect(),
            next: AtomicUsize::new(0),
            reset: AtomicUsize::new(0),
            all: Mutex::new(()),
            all_reset: Condvar::new(),
        }
    }

    /// The caller's part: every client, then what is left of the upstreams.
    fn run(&self, flows: &[(&Flow, &[u8])], mut done: impl FnMut(usize, Ending)) -> Vec<Ending> {
        let mut endings = Vec::with_capacity(flows.len());
        let mut told = 0;
        let mut tell = |endings: &[Ending]| {
            while let (Some(last), Some(how)) = (self.lasts.get(told), endings.get(told))
                && last.upstream_reset.load(Ordering::Acquire)
            {
                done(told, *how);
                told += 1;
            }
        };
        for ((flow, goodbye), last) in flows.iter().zip(&self.lasts) {
            endings.push(match &last.sockets {
                None => Ending::WasOver,
                Some(sockets) if flow.shared.end_client(sockets, goodbye) => Ending::SaidGoodbye,
                Some(_) => Ending::Reset,
            });
            tell(&endings);
        }
        while self.reset_one() {
            tell(&endings);
        }
        let mut all = self.all.lock();
        while self.reset.load(Ordering::Acquire) < self.lasts.len() {
            self.all_reset.wait(&mut all);
        }
        tell(&endings);
        endings
    }

    /// Resets one upstream that nobody has taken; false if none is left.
    fn reset_one(&self) -> bool {
        let Some(last) = self.lasts.get(self.next.fetch_add(1, Ordering::AcqRel)) else {
            return false;
        };
        if let Some(sockets) = &last.sockets {
            reset(&sockets.upstream);
        }
        last.upstream_reset.store(true, Ordering::Release);
        if self.reset.fetch_add(1, Ordering::AcqRel) + 1 == self.lasts.len() {
            // Under the lock: the caller either sees the count or waits already.
            drop(self.all.lock());
            self.all_reset.notify_one();
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
                    while job.reset_one() {}
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
