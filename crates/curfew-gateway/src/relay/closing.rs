//! Ending many flows at once: a helper resets sockets beside the caller. Which flows end, and why, may not
//! live here.
//!
//! A reset costs the kernel 5 to 10 µs, so a thousand flows whose deadlines fall within 10 ms are more than one
//! thread can end in time. Clients come first: where many end, their upstreams are left to the helper, which turns to them
//! when no client waits. It runs ahead of ordinary threads where it may, and takes whatever clients the caller has not got
//! to: an order that comes by the API is as quick as a deadline. It is never waited for to begin.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;

use curfew_enforcer::{Fatal, Scheduling, ask_for_real_time};
use curfew_model::BootInstant;
use parking_lot::{Condvar, Mutex};

use super::flow::{Bytes, Ending, Flow, Shared, Sockets, reset};
use super::mailbox::Mailbox;

/// From so many flows on, waking the helper costs less than it saves.
const WORTH_A_HELPER: usize = 4;
/// Flows that are ended together; the next ones wait for them, so that a deadline gets its turn on one processor.
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
/// its client has been told, in order. Their loops are told once. Of few, the upstreams have been reset too when this
/// returns; of many, the helper is about to.
///
/// Every flow is flagged before the first is reset: from here on the relay begins no write of theirs. One to the
/// upstream that raced past the flag meets a disconnected socket, or goes out with what the kernel had queued before the
/// helper came; one to the client of a framed flow holds the wire, and none follows it.
pub(crate) fn end_all(flows: Vec<(Flow, Vec<u8>)>, mut done: impl FnMut(usize, Over)) {
    let mailbox = |(flow, _): &(Flow, Vec<u8>)| Arc::clone(&flow.mailbox);
    let mailboxes: Vec<Arc<Mailbox>> = flows.iter().map(mailbox).collect();
    let mut lasts: Vec<Last> = flows.into_iter().map(Last::new).collect();
    let mut letters: Vec<(Arc<Mailbox>, Vec<Ended>)> = Vec::new();
    let mut from = 0;
    for mailboxes in mailboxes.chunks(TOGETHER) {
        let later = lasts.split_off(mailboxes.len().min(lasts.len()));
        let job = Arc::new(Job::new(std::mem::replace(&mut lasts, later)));
        let helper = mailboxes.first().map(|mailbox| mailbox.helper());
        let helper = helper.filter(|_| mailboxes.len() >= WORTH_A_HELPER);
        if let Some(helper) = helper {
            helper.share(Arc::clone(&job));
        }
        job.run(|index, over| done(from + index, over));
        match helper {
            Some(helper) => helper.leave(job.sockets().cloned().collect()),
            None => job.sockets().for_each(|sockets| reset(&sockets.upstream)),
        }
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
    if from >= WORTH_A_HELPER {
        // A caller ahead of ordinary threads gives way to its equals: while many end it never sleeps.
        std::thread::yield_now();
    }
}

/// The end of one flow of a job.
struct Last {
    shared: Arc<Shared>,
    /// None if the flow had ended before.
    sockets: Option<Arc<Sockets>>,
    goodbye: Vec<u8>,
    said_goodbye: AtomicBool,
    /// Its client has been told.
    told: AtomicBool,
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
            told: AtomicBool::new(false),
        }
    }

    fn tell_client(&self) {
        if let Some(sockets) = &self.sockets {
            let said = self.shared.end_client(sockets, &self.goodbye);
            self.said_goodbye.store(said, Ordering::Relaxed);
        }
        self.told.store(true, Ordering::Release);
    }

    /// How it ended, once its client has been told.
    fn ending(&self) -> Option<Ending> {
        if !self.told.load(Ordering::Acquire) {
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

/// Flows that are being ended together, by whoever has time.
struct Job {
    lasts: Vec<Last>,
    /// The next whose client nobody has taken.
    next: AtomicUsize,
    /// Clients that have been told.
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

    /// The sockets of those that end by this job.
    fn sockets(&self) -> impl Iterator<Item = &Arc<Sockets>> {
        self.lasts.iter().filter_map(|last| last.sockets.as_ref())
    }

    /// The caller's part: every client has been told when it returns.
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
        while self.told.load(Ordering::Acquire) < self.lasts.len() {
            self.all_told.wait(&mut all);
        }
        report();
    }

    /// Tells one client that nobody has taken; false if none is left.
    fn tell_one(&self) -> bool {
        let next = self.next.fetch_add(1, Ordering::AcqRel);
        let Some(last) = self.lasts.get(next) else {
            return false;
        };
        last.tell_client();
        if self.told.fetch_add(1, Ordering::AcqRel) + 1 == self.lasts.len() {
            // Under the lock: the caller either sees the count or waits already.
            drop(self.all.lock());
            self.all_told.notify_one();
        }
        true
    }
}

/// What the helper has to do.
#[derive(Default)]
struct Queue {
    /// Jobs whose callers wait.
    jobs: VecDeque<Arc<Job>>,
    /// Flows whose upstreams are to be reset; nobody waits for these.
    upstreams: VecDeque<Arc<Sockets>>,
    stopping: bool,
}

/// What it does next.
enum Work {
    Clients(Arc<Job>),
    Upstream(Arc<Sockets>),
}

#[derive(Default)]
struct Desk {
    queue: Mutex<Queue>,
    come: Condvar,
}

/// The way to the helper.
#[derive(Clone, Default)]
pub(super) struct Helper(Arc<Desk>);

impl Helper {
    /// Has it take clients of a job too.
    fn share(&self, job: Arc<Job>) {
        self.0.queue.lock().jobs.push_back(job);
        self.0.come.notify_one();
    }

    /// Leaves it the upstreams of flows whose clients have been told.
    fn leave(&self, sockets: Vec<Arc<Sockets>>) {
        self.0.queue.lock().upstreams.extend(sockets);
        self.0.come.notify_one();
    }

    /// Starts the thread. It asks for SCHED_FIFO; without it the callers find more left to do themselves.
    ///
    /// # Errors
    /// The kernel's, when it has no thread left.
    pub(super) fn start(&self) -> io::Result<JoinHandle<()>> {
        let desk = Arc::clone(&self.0);
        std::thread::Builder::new()
            .name("close".to_owned())
            .spawn(move || {
                let _fatal = Fatal;
                let is_ahead = ask_for_real_time() == Scheduling::RealTime;
                while let Some(work) = desk.next() {
                    match work {
                        Work::Clients(job) => while job.tell_one() {},
                        Work::Upstream(sockets) => {
                            reset(&sockets.upstream);
                            if is_ahead {
                                // A deadline that has come meanwhile gets its turn on one processor.
                                std::thread::yield_now();
                            }
                        }
                    }
                }
            })
    }

    /// Tells the thread to stop after what it has to do.
    pub(super) fn stop(&self) {
        self.0.queue.lock().stopping = true;
        self.0.come.notify_one();
    }
}

impl Desk {
    /// What comes next, clients first; none when the thread is to stop.
    fn next(&self) -> Option<Work> {
        let mut queue = self.queue.lock();
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(Work::Clients(job));
            }
            if let Some(sockets) = queue.upstreams.pop_front() {
                return Some(Work::Upstream(sockets));
            }
            if queue.stopping {
                return None;
            }
            self.come.wait(&mut queue);
        }
    }
}
