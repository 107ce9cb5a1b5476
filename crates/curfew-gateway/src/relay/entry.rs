//! A flow as its event loop sees it: readiness, both directions and how they end. No epoll here.

use std::sync::Arc;

use curfew_model::Clock;
use rustix::event::epoll::EventFlags;
use rustix::net::{RecvFlags, recv};

use super::Finish;
use super::flow::{Shared, Sockets, reset};
use super::framed::{FRAMED_BUFFER_BYTES, Framed, Hand};
use super::patience::{Patience, Sink};
use super::pipes::Pipes;
use super::pump::{BUFFER_BYTES, Direction, Lane, Readiness, Step};

/// System calls of one direction in one turn, so that one flow starves nobody.
const BUDGET: u32 = 16;

/// How the bytes of a flow move.
enum Mode {
    /// As they come.
    Plain(Plain),
    /// Message by message.
    Framed(Box<Framed>),
    /// Not at all: the client has its end of stream and is given a moment to read it.
    Leaving,
}

#[derive(Default)]
struct Plain {
    inbound: Direction,
    outbound: Direction,
}

/// One flow.
pub(super) struct Entry {
    pub(super) sockets: Arc<Sockets>,
    pub(super) shared: Arc<Shared>,
    client: Readiness,
    upstream: Readiness,
    mode: Mode,
    first_end: Option<Finish>,
    failed: bool,
    /// Its client takes notices, and that was told.
    hears: bool,
    to_client: Sink,
    to_upstream: Sink,
    /// It lasts: its upstream has all of its options.
    settled: bool,
}

/// What one thread's flows share.
pub(super) struct Tools {
    pub(super) buffer: Vec<u8>,
    pub(super) framed_buffer: Vec<u8>,
    pub(super) pipes: Pipes,
    pub(super) clock: Arc<dyn Clock>,
}

impl Tools {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            buffer: vec![0; BUFFER_BYTES],
            framed_buffer: vec![0; FRAMED_BUFFER_BYTES],
            pipes: Pipes::default(),
            clock,
        }
    }
}

impl Entry {
    pub(super) fn new(
        sockets: Arc<Sockets>,
        shared: Arc<Shared>,
        framed: Option<Box<Framed>>,
    ) -> Self {
        // Nothing is known of them yet: what does not hold, the first call says.
        let fresh = Readiness {
            writable: true,
            ..Readiness::default()
        };
        Self {
            sockets,
            shared,
            client: Readiness {
                readable: true,
                ..fresh
            },
            upstream: fresh,
            mode: framed.map_or_else(|| Mode::Plain(Plain::default()), Mode::Framed),
            first_end: None,
            failed: false,
            hears: false,
            to_client: Sink::default(),
            to_upstream: Sink::default(),
            settled: false,
        }
    }

    /// Looks whether its peers take what they are sent; how often the kernel was asked.
    pub(super) fn look(&mut self, patience: &mut Patience) -> usize {
        if self.is_leaving() || self.shared.is_ended() {
            return 0;
        }
        let (bytes, sockets) = (self.shared.bytes(), &*self.sockets);
        if !std::mem::replace(&mut self.settled, true) {
            patience.settle(&sockets.upstream);
        }
        let client = self
            .to_client
            .look(&sockets.client, bytes.outbound, patience);
        let upstream = self
            .to_upstream
            .look(&sockets.upstream, bytes.inbound, patience);
        usize::from(client) + usize::from(upstream)
    }

    /// Takes in what epoll said of one of the sockets.
    pub(super) fn note(&mut self, flags: EventFlags, of_client: bool) {
        let leaving = matches!(self.mode, Mode::Leaving);
        let side = if of_client {
            &mut self.client
        } else if leaving {
            return;
        } else {
            &mut self.upstream
        };
        // What came before a reset can still be read, and then the reset.
        let over = EventFlags::RDHUP | EventFlags::HUP | EventFlags::ERR;
        side.readable |= flags.intersects(EventFlags::IN | over);
        side.writable |= flags.contains(EventFlags::OUT);
        side.has_more |= flags.intersects(EventFlags::PRI | over);
        side.hung_up |= flags.intersects(EventFlags::RDHUP | EventFlags::HUP);
        self.failed |= flags.contains(EventFlags::ERR);
    }

    /// How the flow finished, as far as its bytes tell.
    pub(super) fn finish(&self) -> Finish {
        self.first_end.unwrap_or(Finish::NetworkError)
    }

    /// Whether both ends of stream were passed on, so that nothing has to be reset.
    pub(super) fn is_clean(&self) -> bool {
        match &self.mode {
            Mode::Plain(plain) => plain.inbound.is_done() && plain.outbound.is_done(),
            Mode::Framed(framed) => framed.is_done(),
            // The client closed its end after it was sent ours.
            Mode::Leaving => self.client.hung_up && !self.failed,
        }
    }

    /// Whether its client takes notices, and did not when this was asked before.
    pub(super) fn begins_to_hear(&mut self) -> bool {
        let begins = !self.hears && self.shared.takes_notices();
        self.hears |= begins;
        begins
    }

    /// Queues a notice for the client of a framed flow.
    pub(super) fn notice(&mut self, bytes: &[u8]) {
        if let Mode::Framed(framed) = &mut self.mode {
            framed.notice(bytes);
        }
    }

    /// Whether the client is only given time to read.
    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.mode, Mode::Leaving)
    }

    /// Moves nothing any more and waits for the client to leave.
    pub(super) fn leave(&mut self, how: Finish) {
        self.over(how);
        self.first_end = Some(how);
        // From here on only the client counts, and its own failure shows when it is read.
        self.failed = false;
        self.mode = Mode::Leaving;
    }

    /// Tells the client that a peer broke the protocol; false where it cannot be told.
    pub(super) fn say_last_words(&mut self) -> bool {
        match &mut self.mode {
            Mode::Framed(framed) => {
                let words = framed.framing().last_words();
                self.shared.end_client(&self.sockets, &words)
            }
            Mode::Plain(_) | Mode::Leaving => false,
        }
    }

    /// Tells a framed flow, once, that it is over. One that its owner ended has lost its upstream by then: its protocol may
    /// have the server cancel what it runs, and nothing that waits behind may run instead.
    pub(super) fn over(&mut self, how: Finish) {
        if how == Finish::Ended {
            reset(&self.sockets.upstream);
        }
        if let Mode::Framed(framed) = &mut self.mode {
            framed.framing().over(how);
        }
    }

    /// Moves what can be moved in one turn that began at `now`, in nanoseconds on the boot clock.
    pub(super) fn advance(&mut self, tools: &mut Tools, now: u64) -> Step {
        if self.failed && self.is_leaving() {
            return Step::Failed;
        }
        let Self {
            failed,
            sockets,
            shared,
            client,
            upstream,
            first_end,
            ..
        } = self;
        let (step, client_ended, upstream_ended) = match &mut self.mode {
            Mode::Leaving => return discard(sockets, client, &mut tools.buffer),
            Mode::Framed(framed) => {
                let mut hand = Hand {
                    sockets,
                    shared,
                    client,
                    upstream,
                    buffer: &mut tools.framed_buffer,
                    clock: &*tools.clock,
                    now,
                };
                let step = framed.advance(&mut hand);
                let upstream_ended = step != Step::Failed && framed.upstream_ended();
                (step, framed.client_ended(), upstream_ended)
            }
            Mode::Plain(plain) => {
                let step = plain.advance(sockets, shared, (client, upstream), tools, now);
                let whole = step != Step::Failed;
                (
                    step,
                    whole && plain.inbound.eof,
                    whole && plain.outbound.eof,
                )
            }
        };
        if first_end.is_none() && client_ended {
            *first_end = Some(Finish::ClosedByClient);
        } else if first_end.is_none() && upstream_ended {
            *first_end = Some(Finish::ClosedByServer);
        }
        match step {
            // What had arrived has been moved, as far as the other side took it in this turn.
            Step::Blocked if *failed => Step::Failed,
            step => step,
        }
    }
}

impl Plain {
    fn advance(
        &mut self,
        sockets: &Sockets,
        shared: &Shared,
        (client, upstream): (&mut Readiness, &mut Readiness),
        tools: &mut Tools,
        now: u64,
    ) -> Step {
        let mut lane = Lane {
            shared,
            buffer: &mut tools.buffer,
            pipes: &mut tools.pipes,
            clock: &*tools.clock,
            is_last: self.outbound.is_done(),
            budget: BUDGET,
        };
        let there = self.inbound.pump(
            (&sockets.client, client),
            (&sockets.upstream, upstream),
            &mut lane,
            |bytes| shared.count_in(bytes, now),
        );
        // Behind a failure no end of stream is passed on: it may stand for a reset, which the failed write has taken.
        lane.is_last = self.inbound.is_done() || there == Step::Failed;
        let back = self.outbound.pump(
            (&sockets.upstream, upstream),
            (&sockets.client, client),
            &mut lane,
            |bytes| shared.count_out(bytes, now),
        );
        match (there, back) {
            (Step::Failed, _) | (_, Step::Failed) => Step::Failed,
            (Step::Again, _) | (_, Step::Again) => Step::Again,
            (Step::Done, Step::Done) => Step::Done,
            _ => Step::Blocked,
        }
    }
}

/// Reads what the client still sends and drops it, until it closes.
fn discard(sockets: &Sockets, client: &mut Readiness, buffer: &mut [u8]) -> Step {
    for _ in 0..BUDGET {
        if !client.readable {
            return Step::Blocked;
        }
        match recv(&sockets.client, &mut *buffer, RecvFlags::DONTWAIT) {
            Ok((0, _)) => return Step::Done,
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::AGAIN) => client.readable = false,
            Err(_) => return Step::Failed,
        }
    }
    Step::Again
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::OwnedFd;
    use std::sync::mpsc::{Sender, channel};
    use std::time::Duration;

    use curfew_model::BootInstant;
    use curfew_testkit::BootClock;
    use rustix::io::ioctl_fionread;
    use socket2::SockRef;

    use super::super::flow::Wire;
    use super::super::framing::{Broken, Cut, Framing};
    use super::*;
    use crate::tuning::{Tuning, begin};

    fn connected() -> (TcpStream, OwnedFd) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (other, _) = listener.accept().unwrap();
        begin(&SockRef::from(&other)).unwrap();
        (one, other.into())
    }

    /// A flow between two sockets that copies bytes.
    fn plain(client: OwnedFd, upstream: OwnedFd) -> Entry {
        let sockets = Arc::new(Sockets { client, upstream });
        let shared = Arc::new(Shared::new(1, BootInstant(0), Wire::Inside));
        Entry::new(sockets, shared, None)
    }

    /// Closes a socket by a reset, whatever it has sent before.
    fn reset(socket: TcpStream) {
        let at_once = SockRef::from(&socket).set_linger(Some(Duration::ZERO));
        at_once.unwrap();
    }

    /// What epoll says of a socket that was reset behind bytes.
    const RESET: EventFlags = EventFlags::IN
        .union(EventFlags::RDHUP)
        .union(EventFlags::HUP)
        .union(EventFlags::ERR);

    #[test]
    fn what_follows_an_urgent_byte_is_not_left_behind() {
        let (client, near) = connected();
        let (mut server, far) = connected();
        let sent = SockRef::from(&client);
        sent.send(&[1; 100]).unwrap();
        sent.send_out_of_band(&[2]).unwrap();
        sent.send(&[3; 100]).unwrap();
        while ioctl_fionread(&near).unwrap() < 201 {
            std::thread::yield_now();
        }
        let mut entry = plain(near, far);
        entry.note(EventFlags::IN | EventFlags::PRI | EventFlags::OUT, true);
        let mut tools = Tools::new(Arc::new(BootClock));
        assert_eq!(entry.advance(&mut tools, 0), Step::Blocked);
        // The kernel stops a read at the mark, and tells no more of what is behind it.
        assert_eq!(entry.shared.bytes().inbound, 201);
        let mut received = [0; 201];
        server.read_exact(&mut received).unwrap();
        assert_eq!(received, *[&[1; 100][..], &[2], &[3; 100]].concat());
    }

    #[test]
    fn the_upstream_of_a_flow_that_lasts_is_given_all_options() {
        let ((_client, near), (_server, far)) = (connected(), connected());
        let mut entry = plain(near, far);
        let tuning = Tuning::default();
        entry.look(&mut Patience::new(tuning));
        let upstream = SockRef::from(&entry.sockets.upstream);
        assert!(upstream.keepalive().unwrap());
        assert_eq!(
            upstream.tcp_user_timeout().unwrap(),
            Some(tuning.user_timeout)
        );
        assert_eq!(upstream.tcp_notsent_lowat().unwrap(), 128 * 1024);
    }

    #[test]
    fn what_came_before_a_reset_is_passed_on() {
        let (mut client, near) = connected();
        let (mut server, far) = connected();
        client.write_all(b"last words").unwrap();
        reset(client);
        let mut entry = plain(near, far);
        entry.note(RESET, true);
        let mut tools = Tools::new(Arc::new(BootClock));
        assert_eq!(entry.advance(&mut tools, 0), Step::Failed);
        let mut received = [0; 10];
        server.set_nonblocking(true).unwrap();
        server.read_exact(&mut received).unwrap();
        assert_eq!(&received, b"last words");
    }

    #[test]
    fn a_reset_behind_last_words_is_no_end_of_stream() {
        let (mut client, near) = connected();
        let (mut server, far) = connected();
        // The server has something to say, and closes over what it has not read.
        server.write_all(b"too many").unwrap();
        reset(server);
        client.write_all(b"more").unwrap();
        let mut entry = plain(near, far);
        entry.note(EventFlags::IN | EventFlags::OUT, true);
        entry.note(RESET | EventFlags::OUT, false);
        let mut tools = Tools::new(Arc::new(BootClock));
        assert_eq!(entry.advance(&mut tools, 0), Step::Failed);
        assert_eq!(entry.finish(), Finish::NetworkError);
        client.set_nonblocking(true).unwrap();
        let mut words = [0; 8];
        client.read_exact(&mut words).unwrap();
        assert_eq!(&words, b"too many");
        let then = client.read(&mut [0]).map_err(|error| error.kind());
        assert_eq!(then, Err(ErrorKind::WouldBlock));
    }

    /// Looks, when it learns of the end, at what the server sees.
    struct Looking(TcpStream, Sender<Option<ErrorKind>>);

    impl Framing for Looking {
        fn inbound(&mut self, _: &[u8]) -> Result<Cut, Broken> {
            Err(Broken)
        }
        fn outbound(&mut self, _: &[u8]) -> Result<Cut, Broken> {
            Err(Broken)
        }
        fn working(&self) -> bool {
            true
        }
        fn takes_notices(&self) -> bool {
            false
        }
        fn took_leave(&self) -> bool {
            false
        }
        fn last_words(&self) -> Vec<u8> {
            Vec::new()
        }
        fn over(&mut self, _: Finish) {
            let seen = self.0.read(&mut [0]).map_err(|error| error.kind());
            self.1.send(seen.err()).unwrap();
        }
    }

    #[test]
    fn a_protocol_learns_of_an_ordered_end_when_the_server_has_lost_the_connection() {
        let seen = |how| {
            let ((_client, near), (server, far)) = (connected(), connected());
            server.set_nonblocking(true).unwrap();
            let (tell, told) = channel();
            let framed = Framed::new(Box::new(Looking(server, tell)), Vec::new(), &[]).unwrap();
            let sockets = Sockets {
                client: near,
                upstream: far,
            };
            let shared = Shared::new(1, BootInstant(0), Wire::Boundary);
            let (sockets, shared) = (Arc::new(sockets), Arc::new(shared));
            Entry::new(sockets, shared, Some(Box::new(framed))).over(how);
            told.recv().unwrap()
        };
        assert_eq!(seen(Finish::Ended), Some(ErrorKind::ConnectionReset));
        // What the client left behind, the server may finish.
        assert_eq!(seen(Finish::ClosedByClient), Some(ErrorKind::WouldBlock));
    }
}
