//! Guests of the event loops: whoever else waits for descriptors on a loop's thread, so that a connection goes from
//! arrival to relay without changing threads. What a guest does may not live here.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use curfew_model::BootInstant;
use rustix::event::epoll::{self, EventData, EventFlags};

/// Set in the tokens of guests; flows have it clear.
const GUEST: u64 = 1 << 63;
/// Bits of a token that are the guest's own; the rest says which guest.
const OWN_BITS: u32 = 40;
const OWN: u64 = (1 << OWN_BITS) - 1;

/// Someone who lives on an event loop's thread, and must not block it.
pub(crate) trait Guest: Send {
    /// One of its descriptors, by its token, is ready.
    fn event(&mut self, token: u64);

    /// Called after its events of a turn, and when something is due. False when it leaves: it is dropped then.
    fn turn(&mut self) -> bool;

    /// When it is to be called if nothing happens before.
    fn due(&self) -> Option<BootInstant>;
}

/// A guest's place at a loop: what it watches descriptors with.
pub(crate) struct Seat {
    epoll: Arc<OwnedFd>,
    number: u64,
}

impl Seat {
    pub(super) fn new(epoll: Arc<OwnedFd>, number: u64) -> Self {
        Self { epoll, number }
    }

    /// Watches a descriptor under a token of up to 40 bits.
    ///
    /// # Errors
    /// The kernel's: it is watched already, or memory or watches have run out.
    pub(crate) fn watch(&self, fd: impl AsFd, token: u64, flags: EventFlags) -> io::Result<()> {
        let token = GUEST | self.number << OWN_BITS | (token & OWN);
        Ok(epoll::add(
            &self.epoll,
            fd,
            EventData::new_u64(token),
            flags,
        )?)
    }

    /// Watches a descriptor no more; one that was not watched stays so.
    pub(crate) fn forget(&self, fd: impl AsFd) {
        let _ = epoll::delete(&self.epoll, fd);
    }
}

/// Which guest a token belongs to, and the guest's own part of it; none for a flow's.
pub(super) fn split(token: u64) -> Option<(u64, u64)> {
    (token & GUEST != 0).then_some(((token & !GUEST) >> OWN_BITS, token & OWN))
}
