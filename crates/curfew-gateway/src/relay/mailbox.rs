//! The way into an event loop from any thread, and what is known of the loop outside it. What is done with a letter is
//! the loop's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;

use parking_lot::Mutex;
use rustix::event::epoll::{self, CreateFlags};
use rustix::event::{EventfdFlags, eventfd};

use super::closing::{Ended, Helper};
use super::flow::{Shared, Sockets};
use super::framed::Framed;
use super::guest::{Guest, Seat};

/// What is asked of a loop.
pub(super) enum Letter {
    Adopt(Arc<Sockets>, Arc<Shared>, Option<Box<Framed>>),
    Notice(u64, Vec<u8>),
    Wake(u64),
    Ended(Vec<Ended>),
    Host(u64, Box<dyn Guest>),
    Stop,
}

/// The mailbox of one loop.
pub(super) struct Mailbox {
    letters: Mutex<Vec<Letter>>,
    bell: OwnedFd,
    epoll: Arc<OwnedFd>,
    helper: Helper,
    /// The loop's, which needs no bell.
    thread: OnceLock<ThreadId>,
    /// Flows that the loop has or is about to get.
    flows: AtomicUsize,
    guests: AtomicU64,
}

impl Mailbox {
    pub(super) fn new(helper: Helper) -> io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            letters: Mutex::new(Vec::new()),
            bell: eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?,
            epoll: Arc::new(epoll::create(CreateFlags::CLOEXEC)?),
            helper,
            thread: OnceLock::new(),
            flows: AtomicUsize::new(0),
            guests: AtomicU64::new(0),
        }))
    }

    /// The calling thread is the loop's.
    pub(super) fn is_read_here(&self) {
        // The first word counts; there is one loop.
        let _ = self.thread.set(std::thread::current().id());
    }

    /// Readable when another thread has written.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn silence(&self) {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
    }

    /// What the loop waits on.
    pub(super) fn epoll(&self) -> &Arc<OwnedFd> {
        &self.epoll
    }

    /// Who helps to end flows of this loop.
    pub(super) fn helper(&self) -> &Helper {
        &self.helper
    }

    /// How many flows the loop has, about.
    pub(super) fn flows(&self) -> usize {
        self.flows.load(Ordering::Relaxed)
    }

    /// A flow is on its way here.
    pub(super) fn expect(&self) {
        self.flows.fetch_add(1, Ordering::Relaxed);
    }

    /// A flow has left.
    pub(super) fn forget(&self) {
        self.flows.fetch_sub(1, Ordering::Relaxed);
    }

    /// A place for a guest at this loop, and its number.
    pub(super) fn seat(&self) -> (u64, Seat) {
        let number = self.guests.fetch_add(1, Ordering::Relaxed);
        (number, Seat::new(Arc::clone(&self.epoll), number))
    }

    /// Has the guest with this number live at the loop.
    pub(super) fn host(&self, number: u64, guest: Box<dyn Guest>) {
        self.post(Letter::Host(number, guest));
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

    /// The flow of this key may go on.
    pub(super) fn wake(&self, key: u64) {
        self.post(Letter::Wake(key));
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
        if self.thread.get() != Some(&std::thread::current().id()) {
            // A full counter has rung already.
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    /// Whether there is nothing to read. The loop writes to itself too, and then no bell rings.
    pub(super) fn is_empty(&self) -> bool {
        self.letters.lock().is_empty()
    }

    pub(super) fn take(&self) -> Vec<Letter> {
        std::mem::take(&mut self.letters.lock())
    }
}
