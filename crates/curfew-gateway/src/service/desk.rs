//! The way into a service's front from any thread. What becomes of a letter is the front's.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{EventfdFlags, eventfd};

use super::cancels::Cancel;
use crate::accept::Client;
use crate::door::Nudge;

/// What waits for the front. It is as long as there are sessions that end.
#[derive(Default)]
struct Tray {
    cancels: Vec<Cancel>,
    late: Vec<Client>,
    nudged: bool,
    stopped: bool,
    leaving: bool,
    gone: bool,
}

/// What the front finds when it looks.
pub(super) struct Mail {
    pub(super) cancels: Vec<Cancel>,
    /// Clients that are to be told that nobody is served any more.
    pub(super) late: Vec<Client>,
    /// Sessions that are being opened were ended.
    pub(super) nudged: bool,
    /// Nobody is served any more who is not yet.
    pub(super) stopped: bool,
    /// The front is to leave.
    pub(super) leaving: bool,
}

/// The desk of one front.
pub(super) struct Desk {
    tray: Mutex<Tray>,
    bell: OwnedFd,
}

impl Desk {
    pub(super) fn new() -> io::Result<Arc<Self>> {
        let bell = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC)?;
        Ok(Arc::new(Self {
            tray: Mutex::default(),
            bell,
        }))
    }

    pub(super) fn cancel(&self, cancel: Cancel) {
        self.change(|tray| tray.cancels.push(cancel));
    }

    pub(super) fn stop(&self) {
        self.change(|tray| tray.stopped = true);
    }

    /// Hands over clients that came too late.
    pub(super) fn turn_away(&self, late: Vec<Client>) {
        self.change(|tray| tray.late.extend(late));
    }

    pub(super) fn leave(&self) {
        self.change(|tray| tray.leaving = true);
    }

    /// Readable when there is mail.
    pub(super) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    pub(super) fn take(&self) -> Mail {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        let mut tray = self.tray.lock();
        Mail {
            cancels: std::mem::take(&mut tray.cancels),
            late: std::mem::take(&mut tray.late),
            nudged: std::mem::take(&mut tray.nudged),
            stopped: std::mem::take(&mut tray.stopped),
            leaving: tray.leaving,
        }
    }

    /// The front looks no more: what comes from now on is dropped.
    pub(super) fn close(&self) {
        let mut tray = self.tray.lock();
        tray.gone = true;
        tray.cancels = Vec::new();
        tray.late = Vec::new();
    }

    fn change(&self, change: impl FnOnce(&mut Tray)) {
        let mut tray = self.tray.lock();
        if tray.gone {
            return;
        }
        change(&mut tray);
        drop(tray);
        // A full counter has rung already.
        let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
    }
}

impl Nudge for Desk {
    fn nudge(&self) {
        self.change(|tray| tray.nudged = true);
    }
}
