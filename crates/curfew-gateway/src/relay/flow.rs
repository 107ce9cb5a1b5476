//! What a flow's owner and its event loop share: the sockets, the counters and the end. No relaying here.

use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use curfew_model::{BootInstant, Clock};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{SendFlags, Shutdown, connect_unspec, send, shutdown};
use socket2::SockRef;

use super::closing::end_all;
use super::mailbox::Mailbox;

/// Both sockets of a flow. The event loop holds them; an ending thread, or its helper, until it has reset
/// them, so that the descriptors are never reused under it.
pub(super) struct Sockets {
    pub(super) client: OwnedFd,
    pub(super) upstream: OwnedFd,
}

impl Sockets {
    /// Discards what the kernel has queued and resets both connections.
    pub(super) fn reset(&self) {
        reset(&self.client);
        reset(&self.upstream);
    }

    /// Sends `goodbye` to the client and then its end of stream, if nothing is queued before it; false if not.
    fn say(&self, goodbye: &[u8]) -> bool {
        if goodbye.is_empty() || !has_sent_all(&self.client) {
            return false;
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        send(&self.client, goodbye, flags) == Ok(goodbye.len())
            && shutdown(&self.client, Shutdown::Write).is_ok()
    }
}

/// Discards what the kernel has queued on one connection and resets it.
pub(super) fn reset(socket: &OwnedFd) {
    if connect_unspec(socket.as_fd()).is_err() {
        // A Unix socket cannot be disconnected; shutting it down refuses later writes. Where a connection
        // can be neither, the close that follows is a reset.
        let _ = shutdown(socket, Shutdown::Both);
        let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    }
}

/// Whether the kernel has put every byte on the wire. With TCP_NOTSENT_LOWAT at one byte, a TCP socket is writable
/// exactly then; a socket that is full for another reason counts as not.
fn has_sent_all(socket: &OwnedFd) -> bool {
    let at_once = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    SockRef::from(socket).set_tcp_notsent_lowat(1).is_ok()
        && poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&at_once)) == Ok(1)
        // Writable and failed is not sent.
        && matches!(SockRef::from(socket).take_error(), Ok(None))
}

/// What the bytes that a client was sent end with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire {
    /// A whole message, or nothing was sent yet.
    Boundary,
    /// Anything else, and always where messages are not followed.
    Inside,
}

/// No instant.
const NEVER: u64 = u64::MAX;

/// Counters and flags of one flow, readable from any thread.
pub(super) struct Shared {
    pub(super) key: u64,
    pub(super) ended: AtomicBool,
    /// Where its writes stop, in nanoseconds on the boot clock.
    until: AtomicU64,
    pub(super) bytes_in: AtomicU64,
    pub(super) bytes_out: AtomicU64,
    pub(super) last_activity: AtomicU64,
    working: AtomicBool,
    /// Whether its client takes notices by now.
    listening: AtomicBool,
    wire: Mutex<Wire>,
}

impl Shared {
    pub(super) fn new(key: u64, now: BootInstant, wire: Wire) -> Self {
        Self {
            key,
            ended: AtomicBool::new(false),
            until: AtomicU64::new(NEVER),
            bytes_in: AtomicU64::new(0),
            bytes_out: AtomicU64::new(0),
            last_activity: AtomicU64::new(now.0),
            working: AtomicBool::new(false),
            listening: AtomicBool::new(false),
            wire: Mutex::new(wire),
        }
    }

    /// Sends to the client of a framed flow, unless the flow has ended; the thread that ends it waits for this send
    /// and allows no other. `whole` says that `bytes` end at a boundary.
    pub(super) fn send_framed(
        &self,
        client: &OwnedFd,
        bytes: &[u8],
        whole: bool,
    ) -> Result<usize, Errno> {
        let mut wire = self.wire.lock();
        if self.is_ended() {
            return Err(Errno::CONNRESET);
        }
        let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
        let sent = send(client, bytes, flags)?;
        *wire = if whole && sent == bytes.len() {
            Wire::Boundary
        } else {
            Wire::Inside
        };
        Ok(sent)
    }

    /// Counts payload from the client at `now`, in nanoseconds on the boot clock.
    pub(super) fn count_in(&self, bytes: usize, now: u64) {
        self.count(&self.bytes_in, bytes, now);
    }

    /// Counts payload to the client.
    pub(super) fn count_out(&self, bytes: usize, now: u64) {
        self.count(&self.bytes_out, bytes, now);
    }

    fn count(&self, total: &AtomicU64, bytes: usize, now: u64) {
        if bytes > 0 {
            total.fetch_add(bytes as u64, Ordering::Relaxed);
            self.last_activity.store(now, Ordering::Relaxed);
        }
    }

    /// The client's part of an end: it is sent `goodbye` and its end of stream where that is possible, else a reset.
    /// True if it was sent the goodbye.
    pub(super) fn end_client(&self, sockets: &Sockets, goodbye: &[u8]) -> bool {
        let wire = self.wire.lock();
        let said = *wire == Wire::Boundary && sockets.say(goodbye);
        drop(wire);
        if !said {
            reset(&sockets.client);
        }
        said
    }

    pub(super) fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Relaxed);
    }

    pub(super) fn takes_notices(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    pub(super) fn set_working(&self, working: bool) {
        self.working.store(working, Ordering::Relaxed);
    }

    pub(super) fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Whether its own deadline has come. Its owner ends it, or moves the deadline; until then nothing is written.
    pub(super) fn is_overdue(&self, clock: &dyn Clock) -> bool {
        let until = self.until.load(Ordering::Acquire);
        until != NEVER && until <= clock.boot().0
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

/// How an order to end a flow was carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The flow had ended before.
    WasOver,
    /// The client was reset, and told nothing.
    Reset,
    /// The client was sent the goodbye, then its end of stream, and is reset soon.
    SaidGoodbye,
}

/// The owner's handle of a flow. Dropping it does not end the flow.
#[derive(Clone)]
pub struct Flow {
    pub(super) shared: Arc<Shared>,
    pub(super) sockets: Weak<Sockets>,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) clock: Arc<dyn Clock>,
}

impl Flow {
    /// Ends the flow now: when this returns, the relay writes no further byte, bytes that were
    /// queued in the kernel are discarded, and both peers have been sent a reset (invariant I1).
    /// Callable from any thread, any number of times; false if it had ended before, or another thread is ending it.
    pub fn end(&self) -> bool {
        self.end_saying(&[]) != Ending::WasOver
    }

    /// As [`Flow::end`], but the client of a framed flow is told `goodbye` first, if the bytes that it was sent end
    /// at a boundary and none of them is still queued. Waits for no peer; no byte of the application passes after it.
    pub fn end_saying(&self, goodbye: &[u8]) -> Ending {
        let mut how = Ending::WasOver;
        end_all(vec![(self.clone(), goodbye.to_vec())], |_, over| {
            how = over.how
        });
        how
    }

    /// From `until` on the relay decides on no write, ended or not: whoever ends the flow may come late, after the process
    /// was stopped or the machine slept (invariant I1). None for never, as a flow begins. Between the look at the clock and
    /// the call that writes lies what no program can close.
    pub fn hold_until(&self, until: Option<BootInstant>) {
        let until = until.map_or(NEVER, |until| until.0);
        if self.shared.until.swap(until, Ordering::AcqRel) < until {
            // It may have stopped there already.
            self.mailbox.wake(self.shared.key);
        }
    }

    /// Tells the client of a framed flow something at its next message boundary. Other flows take no notices.
    pub fn notice(&self, bytes: Vec<u8>) {
        self.mailbox.notice(self.shared.key, bytes);
    }

    /// Whether the client takes notices: that of a framed flow does from the end of its handshake on.
    #[must_use]
    pub fn takes_notices(&self) -> bool {
        self.shared.takes_notices()
    }

    /// Between which addresses its client is connected, the client's first; none once it is not.
    pub(crate) fn client_ends(&self) -> Option<(SocketAddr, SocketAddr)> {
        let sockets = self.sockets.upgrade()?;
        let client = SockRef::from(&sockets.client);
        let ends = (client.peer_addr().ok()?, client.local_addr().ok()?);
        Some((ends.0.as_socket()?, ends.1.as_socket()?))
    }

    /// The time on the relay's clock.
    #[must_use]
    pub fn now(&self) -> BootInstant {
        self.clock.boot()
    }

    /// Payload moved so far, in bytes.
    #[must_use]
    pub fn bytes(&self) -> Bytes {
        self.shared.bytes()
    }

    /// When payload last moved, in either direction; the time of adoption if none has, and now while the upstream of
    /// a framed flow is at work.
    #[must_use]
    pub fn last_activity(&self) -> BootInstant {
        if self.shared.working.load(Ordering::Relaxed) {
            return self.now();
        }
        BootInstant(self.shared.last_activity.load(Ordering::Relaxed))
    }
}
