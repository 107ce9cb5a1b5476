//! What a flow's owner and its event loop share: the sockets, the counters and the end. No relaying here.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use curfew_model::BootInstant;
use rustix::net::{Shutdown, connect_unspec, shutdown};
use socket2::SockRef;

use super::event_loop::Mailbox;

/// Both sockets of a flow. The event loop holds them; an ending thread only for a moment, so that
/// the descriptors are never reused under it.
pub(super) struct Sockets {
    pub(super) client: OwnedFd,
    pub(super) upstream: OwnedFd,
}

impl Sockets {
    /// Discards what the kernel has queued and resets both connections.
    pub(super) fn reset(&self) {
        for socket in [&self.client, &self.upstream] {
            // The close that follows is then a reset too, should the disconnect fail.
            let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            if connect_unspec(socket.as_fd()).is_err() {
                // A Unix socket cannot be disconnected; shutting it down refuses later writes.
                let _ = shutdown(socket, Shutdown::Both);
            }
        }
    }
}

/// Counters and flags of one flow, readable from any thread.
pub(super) struct Shared {
    pub(super) key: u64,
    pub(super) ended: AtomicBool,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) last_activity: AtomicU64,
}

impl Shared {
    pub(super) fn new(key: u64, now: BootInstant) -> Self {
        Self {
            key,
            ended: AtomicBool::new(false),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            last_activity: AtomicU64::new(now.0),
        }
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(super) fn bytes(&self) -> Bytes {
        Bytes {
            inbound: self.bytes_in.load(Ordering::Relaxed),
            outbound: self.bytes_out.load(Ordering::Relaxed),
        }
    }
}

/// Payload bytes handed to the receiving socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bytes {
    /// From the client to the upstream.
    pub inbound: u64,
    /// From the upstream to the client.
    pub outbound: u64,
}

/// The owner's handle of a flow. Dropping it does not end the flow.
#[derive(Clone)]
pub struct Flow {
    pub(super) shared: Arc<Shared>,
    pub(super) sockets: Weak<Sockets>,
    pub(super) mailbox: Arc<Mailbox>,
}

impl Flow {
    /// Ends the flow now: when this returns, the relay writes no further byte, bytes that were
    /// queued in the kernel are discarded, and both peers have been sent a reset (invariant I1).
    /// Callable from any thread, any number of times; false if it had ended before.
    pub fn end(&self) -> bool {
        let Some(sockets) = self.sockets.upgrade() else {
            return false;
        };
        // The flag first: a write that raced past it meets a disconnected socket and fails.
        let first = !self.shared.ended.swap(true, Ordering::AcqRel);
        sockets.reset();
        drop(sockets);
        if first {
            self.mailbox.ended(self.shared.key);
        }
        first
    }

    /// Payload moved so far, in bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.shared.bytes()
    }

    /// When payload last moved, in either direction; the time of adoption if none has.
    #[must_use]
    pub fn last_activity(&self) -> BootInstant {
        BootInstant(self.shared.last_activity.load(Ordering::Relaxed))
    }
}
