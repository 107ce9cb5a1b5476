//! Both directions of a flow whose messages are kept whole toward the client: what reaches the wire ends at a
//! boundary whenever it can, so that a notice or a goodbye fits in. No event loop, clock or protocol here.

use curfew_model::Clock;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};

use super::Side;
use super::flow::{Shared, Sockets};
use super::framing::{Broken, Cut, Framing};
use super::pump::{Readiness, Step};

/// Size of the buffer that a thread's framed flows share, in bytes.
pub(super) const FRAMED_BUFFER_BYTES: usize = 128 * 1024;
/// The longest message that is held back until it is whole, in bytes; longer ones are streamed.
const MAX_HELD: usize = 16 * 1024;
/// Notices that may wait for a boundary, in bytes; more are dropped.
const MAX_NOTICES: usize = 8 * 1024;
/// Reads or writes of one direction in one turn, so that one flow starves nobody.
const BUDGET: u32 = 4;

/// Which way bytes go.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// From the client to the upstream.
    In,
    /// From the upstream to the client.
    Out,
}

impl Way {
    fn source(self) -> Side {
        match self {
            Self::In => Side::Client,
            Self::Out => Side::Upstream,
        }
    }
}

/// One direction. At rest it holds no memory.
#[derive(Default)]
struct Course {
    /// Bytes that may go and met a full socket.
    unsent: Vec<u8>,
    sent: usize,
    /// The beginning of a message, kept until the rest has come.
    held: Vec<u8>,
    /// What may go ends inside a message.
    inside: bool,
    eof: bool,
    done: bool,
}

impl Course {
    /// How many of `total` bytes may go now: those held before and, from `held` on, the new ones that were `cut`.
    /// With `stop`, nothing goes past the last boundary among them.
    fn divide(&mut self, held: usize, total: usize, cut: Cut, stop: bool) -> usize {
        let start = match cut.complete {
            0 if self.inside => return total,
            0 => 0,
            complete => held + complete,
        };
        let tail = total - start;
        let long = tail > 0 && tail.saturating_add(cut.remaining) > MAX_HELD;
        self.inside = long && !(stop && start > 0);
        if self.inside { total } else { start }
    }

    /// Keeps of `bytes` what could go and was not `sent`, and what may not go yet.
    fn keep(&mut self, bytes: &[u8], go: usize, sent: usize) {
        let unsent = bytes.get(sent..go).unwrap_or_default();
        self.unsent.extend_from_slice(unsent);
        let held = bytes.get(go..).unwrap_or_default();
        self.held.extend_from_slice(held);
    }

    /// What may go.
    fn pending(&self) -> &[u8] {
        self.unsent.get(self.sent..).unwrap_or_default()
    }

    /// Notes that `sent` more of what may go has gone.
    fn went(&mut self, sent: usize) {
        self.sent += sent;
        if self.sent >= self.unsent.len() {
            // Frees the memory too: an idle flow holds none.
            self.unsent = Vec::new();
            self.sent = 0;
        }
    }

    /// The end of the stream came: a message cut short goes as it is.
    fn end(&mut self) {
        self.eof = true;
        let held = std::mem::take(&mut self.held);
        self.inside |= !held.is_empty();
        self.unsent.extend(held);
    }
}

/// Why bytes cannot move on.
enum Fault {
    Socket(Errno),
    Broken,
}

impl From<Errno> for Fault {
    fn from(error: Errno) -> Self {
        Self::Socket(error)
    }
}

impl From<Broken> for Fault {
    fn from(_: Broken) -> Self {
        Self::Broken
    }
}

/// What came from a socket.
enum Received {
    Nothing,
    End,
    /// The buffer holds so many bytes.
    UpTo(usize),
}

/// What a flow has at hand in its turn.
pub(super) struct Hand<'a> {
    pub(super) sockets: &'a Sockets,
    pub(super) shared: &'a Shared,
    pub(super) client: &'a mut Readiness,
    pub(super) upstream: &'a mut Readiness,
    pub(super) buffer: &'a mut [u8],
    pub(super) clock: &'a dyn Clock,
    /// The time of this turn, in nanoseconds on the boot clock.
    pub(super) now: u64,
}

impl Hand<'_> {
    fn source_is_readable(&self, way: Way) -> bool {
        match way {
            Way::In => self.client.readable,
            Way::Out => self.upstream.readable,
        }
    }

    fn sink_is_writable(&self, way: Way) -> bool {
        match way {
            Way::In => self.upstream.writable,
            Way::Out => self.client.writable,
        }
    }

    /// Whether bytes may go this way now.
    fn may_send(&self, way: Way) -> bool {
        self.sink_is_writable(way) && !self.shared.is_overdue(self.clock)
    }

    /// Reads behind the first `held` bytes of the buffer.
    fn receive(&mut self, way: Way, held: usize) -> Result<Received, Errno> {
        let (source, from) = match way {
            Way::In => (&self.sockets.client, &mut *self.client),
            Way::Out => (&self.sockets.upstream, &mut *self.upstream),
        };
        let room = self.buffer.get_mut(held..).unwrap_or_default();
        let size = room.len();
        match recv(source, room, RecvFlags::DONTWAIT) {
            Ok((0, _)) => Ok(Received::End),
            Ok((read, _)) => {
                if read < size && !from.has_more {
                    from.readable = false;
                }
                Ok(Received::UpTo(held + read))
            }
            Err(Errno::AGAIN) => {
                from.readable = false;
                Ok(Received::Nothing)
            }
            Err(error) => Err(error),
        }
    }

    /// Sends what the sink takes. Toward the client, `whole` says that `bytes` end at a boundary.
    fn send(&mut self, way: Way, bytes: &[u8], whole: bool) -> Result<usize, Errno> {
        let (result, to) = match way {
            Way::In => {
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                (
                    send(&self.sockets.upstream, bytes, flags),
                    &mut *self.upstream,
                )
            }
            Way::Out => {
                let result = self.shared.send_framed(&self.sockets.client, bytes, whole);
                (result, &mut *self.client)
            }
        };
        match result {
            Err(Errno::AGAIN) => {
                to.writable = false;
                Ok(0)
            }
            Err(Errno::INTR) => Ok(0),
            other => other,
        }
    }

    fn count(&self, way: Way, bytes: usize) {
        match way {
            Way::In => self.shared.count_in(bytes, self.now),
            Way::Out => self.shared.count_out(bytes, self.now),
        }
    }

    fn pass_end(&self, way: Way) {
        let sink = match way {
            Way::In => &self.sockets.upstream,
            Way::Out => &self.sockets.client,
        };
        // A peer that is gone already needs no end of stream.
        let _ = shutdown(sink, Shutdown::Write);
    }
}

/// A flow in framed mode.
pub(super) struct Framed {
    framing: Box<dyn Framing>,
    inbound: Course,
    outbound: Course,
    notices: Vec<u8>,
    noticed: usize,
}

impl Framed {
    /// `opening` is sent to the upstream first and is no message; `rest` is what the client sent behind it.
    ///
    /// # Errors
    /// [`Broken`] when `rest` is none of the protocol.
    pub(super) fn new(
        mut framing: Box<dyn Framing>,
        opening: Vec<u8>,
        rest: &[u8],
    ) -> Result<Self, Broken> {
        let mut inbound = Course {
            unsent: opening,
            ..Course::default()
        };
        if !rest.is_empty() {
            let cut = framing.inbound(rest)?;
            let go = inbound.divide(0, rest.len(), cut, false);
            inbound.keep(rest, go, 0);
        }
        Ok(Self {
            framing,
            inbound,
            outbound: Course::default(),
            notices: Vec::new(),
            noticed: 0,
        })
    }

    /// Queues a notice for the next boundary.
    pub(super) fn notice(&mut self, bytes: &[u8]) {
        if self.notices.len() + bytes.len() <= MAX_NOTICES {
            self.notices.extend_from_slice(bytes);
        }
    }

    pub(super) fn framing(&mut self) -> &mut dyn Framing {
        &mut *self.framing
    }

    /// Whether both ends of stream were passed on.
    pub(super) fn is_done(&self) -> bool {
        self.inbound.done && self.outbound.done
    }

    /// Whether the client has ended the conversation: in its protocol, or by the end of its stream.
    pub(super) fn client_ended(&self) -> bool {
        self.inbound.eof || self.framing.took_leave()
    }

    pub(super) fn upstream_ended(&self) -> bool {
        self.outbound.eof
    }

    /// Both directions' share of a turn.
    pub(super) fn advance(&mut self, hand: &mut Hand<'_>) -> Step {
        let there = self.pump(Way::In, hand);
        let back = self.pump(Way::Out, hand);
        // An upstream that waits for a client that does not read is not at work.
        let working = self.framing.working() && self.outbound.unsent.is_empty();
        hand.shared.set_working(working);
        hand.shared.set_listening(self.framing.takes_notices());
        match (there, back) {
            (step @ Step::Broken(_), _) | (_, step @ Step::Broken(_)) => step,
            (Step::Failed, _) | (_, Step::Failed) => Step::Failed,
            (Step::Done, Step::Done) => Step::Done,
            // A protocol with messages has no half-open session: without its upstream it is over,
            (_, Step::Done) => Step::UpstreamDone,
            // and so it is when the client vanished without a word.
            (Step::Done, _) if !self.framing.took_leave() => Step::Failed,
            (Step::Again, _) | (_, Step::Again) => Step::Again,
            _ => Step::Blocked,
        }
    }

    fn pump(&mut self, way: Way, hand: &mut Hand<'_>) -> Step {
        for _ in 0..BUDGET {
            if hand.shared.is_ended() {
                return Step::Failed;
            }
            let noticing = way == Way::Out && self.has_notice();
            let course = self.course(way);
            let outcome = if course.done {
                return Step::Done;
            } else if !course.unsent.is_empty() {
                if !hand.may_send(way) {
                    return Step::Blocked;
                }
                self.send_unsent(way, hand)
            } else if noticing {
                if !hand.may_send(way) {
                    return Step::Blocked;
                }
                self.send_notice(hand)
            } else if course.eof {
                if hand.shared.is_overdue(hand.clock) {
                    return Step::Blocked;
                }
                course.done = true;
                hand.pass_end(way);
                Ok(())
            } else if hand.source_is_readable(way) {
                self.forward(way, hand)
            } else {
                return Step::Blocked;
            };
            match outcome {
                Ok(()) | Err(Fault::Socket(Errno::INTR)) => {}
                Err(Fault::Socket(_)) => return Step::Failed,
                Err(Fault::Broken) => return Step::Broken(way.source()),
            }
        }
        Step::Again
    }

    fn course(&mut self, way: Way) -> &mut Course {
        match way {
            Way::In => &mut self.inbound,
            Way::Out => &mut self.outbound,
        }
    }

    /// Whether a notice can go now: at a boundary, or because its beginning has gone.
    fn has_notice(&self) -> bool {
        !self.notices.is_empty()
            && (self.noticed > 0 || (!self.outbound.inside && self.framing.takes_notices()))
    }

    fn send_notice(&mut self, hand: &mut Hand<'_>) -> Result<(), Fault> {
        let bytes = self.notices.get(self.noticed..).unwrap_or_default();
        self.noticed += hand.send(Way::Out, bytes, true)?;
        if self.noticed >= self.notices.len() {
            self.notices = Vec::new();
            self.noticed = 0;
        }
        Ok(())
    }

    fn send_unsent(&mut self, way: Way, hand: &mut Hand<'_>) -> Result<(), Fault> {
        let course = self.course(way);
        let sent = hand.send(way, course.pending(), !course.inside)?;
        hand.count(way, sent);
        course.went(sent);
        Ok(())
    }

    /// One read, and one send of what may go of it.
    fn forward(&mut self, way: Way, hand: &mut Hand<'_>) -> Result<(), Fault> {
        let stop = way == Way::Out && !self.notices.is_empty();
        let held = self.course(way).held.len();
        if let (Some(to), held) = (hand.buffer.get_mut(..held), &self.course(way).held) {
            to.copy_from_slice(held);
        }
        let total = match hand.receive(way, held)? {
            Received::Nothing => return Ok(()),
            Received::End => {
                self.course(way).end();
                return Ok(());
            }
            Received::UpTo(total) => total,
        };
        let fresh = hand.buffer.get(held..total).unwrap_or_default();
        let cut = match way {
            Way::In => self.framing.inbound(fresh)?,
            Way::Out => self.framing.outbound(fresh)?,
        };
        let course = self.course(way);
        course.held = Vec::new();
        let go = course.divide(held, total, cut, stop);
        let mut sent = 0;
        if go > 0 && !hand.shared.is_overdue(hand.clock) {
            // The sink's readiness is not asked first: a send that finds it full says so.
            let buffer = std::mem::take(&mut hand.buffer);
            let result = hand.send(way, buffer.get(..go).unwrap_or_default(), !course.inside);
            hand.buffer = buffer;
            sent = result?;
            hand.count(way, sent);
        }
        course.keep(hand.buffer.get(..total).unwrap_or_default(), go, sent);
        Ok(())
    }
}
