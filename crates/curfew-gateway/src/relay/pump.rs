//! One direction of one flow: read from one socket, write to the other, copying small messages and
//! splicing bulk. No event loop and no clock here.

use std::os::fd::OwnedFd;

use curfew_model::Clock;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, Shutdown, recv, send, shutdown};
use rustix::pipe::{SpliceFlags, splice};

use super::Side;
use super::flow::Shared;
use super::pipes::{PIPE_BYTES, Pipe, Pipes};
use crate::tuning::bound_near;

/// Size of the buffer that a thread's flows share, in bytes; a read that fills it is bulk.
pub(super) const BUFFER_BYTES: usize = 16 * 1024;
/// A splice below this many bytes counts as small.
const SMALL_SPLICE: usize = 8 * 1024;
/// So many small splices in a row turn a direction back to copying.
const SMALL_SPLICES: u8 = 4;

/// What epoll last said of one socket; cleared by EAGAIN.
#[derive(Clone, Copy, Default)]
pub(super) struct Readiness {
    pub(super) readable: bool,
    pub(super) writable: bool,
    /// The peer has sent its end.
    pub(super) hung_up: bool,
    /// A short read does not mean that all was read: the end follows, or what is behind an urgent mark, where the kernel
    /// stops.
    pub(super) has_more: bool,
}

/// Why a direction stopped for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Waits for readiness of either socket.
    Blocked,
    /// Has used its share of the turn and has more to do.
    Again,
    /// The end of the stream was passed on.
    Done,
    /// Either socket failed.
    Failed,
    /// The upstream's end was passed on, and the session is over with it.
    UpstreamDone,
    /// This peer broke the protocol.
    Broken(Side),
}

/// The state of one direction. At rest it holds no pipe and no buffer.
#[derive(Default)]
pub(super) struct Direction {
    tail: Vec<u8>,
    tail_sent: usize,
    pipe: Option<Pipe>,
    piped: usize,
    bulk: bool,
    /// What its sockets may hold is settled, once it was bulk.
    bounded: bool,
    small: u8,
    pub(super) eof: bool,
    done: bool,
}

impl Direction {
    /// Moves bytes until a socket blocks, the stream ends or `budget` calls are used up.
    /// `moved` is told of each write, in bytes.
    pub(super) fn pump(
        &mut self,
        source: (&OwnedFd, &mut Readiness),
        sink: (&OwnedFd, &mut Readiness),
        lane: &mut Lane<'_>,
        mut moved: impl FnMut(usize),
    ) -> Step {
        let (source, from) = source;
        let (sink, to) = sink;
        for _ in 0..lane.budget {
            if lane.shared.is_ended() {
                return Step::Failed;
            }
            let outcome = if self.done {
                return Step::Done;
            } else if self.piped > 0 || !self.tail.is_empty() {
                if !to.writable || lane.shared.is_overdue(lane.clock) {
                    return Step::Blocked;
                }
                self.write(sink, to).map(&mut moved)
            } else if self.eof {
                if lane.shared.is_overdue(lane.clock) {
                    return Step::Blocked;
                }
                self.release(lane.pipes);
                self.done = true;
                if !lane.is_last {
                    // A peer that is gone already needs no end of stream.
                    let _ = shutdown(sink, Shutdown::Write);
                }
                Ok(())
            } else if from.readable {
                self.read(source, from, (sink, to), lane).map(&mut moved)
            } else {
                self.release(lane.pipes);
                return Step::Blocked;
            };
            match outcome {
                Ok(()) | Err(Errno::INTR) => {}
                Err(_) => return Step::Failed,
            }
        }
        Step::Again
    }

    fn write(&mut self, sink: &OwnedFd, to: &mut Readiness) -> Result<usize, Errno> {
        let result = match &self.pipe {
            Some(pipe) if self.piped > 0 => {
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                splice(&pipe.read, None, sink, None, self.piped, flags)
            }
            _ => send(
                sink,
                self.tail.get(self.tail_sent..).unwrap_or_default(),
                SendFlags::NOSIGNAL | SendFlags::DONTWAIT,
            ),
        };
        match result {
            Err(Errno::AGAIN) => {
                to.writable = false;
                Ok(0)
            }
            Ok(sent) if self.piped > 0 => {
                self.piped = self.piped.saturating_sub(sent);
                Ok(sent)
            }
            Ok(sent) => {
                self.tail_sent += sent;
                if self.tail_sent >= self.tail.len() {
                    // Frees the memory too: an idle flow holds none.
                    self.tail = Vec::new();
                    self.tail_sent = 0;
                }
                Ok(sent)
            }
            Err(error) => Err(error),
        }
    }

    /// One read, and one write of what it brought; returns the bytes written.
    fn read(
        &mut self,
        source: &OwnedFd,
        from: &mut Readiness,
        (sink, to): (&OwnedFd, &mut Readiness),
        lane: &mut Lane<'_>,
    ) -> Result<usize, Errno> {
        if self.bulk {
            if !self.bounded {
                bound_near(source, sink);
                self.bounded = true;
            }
            if self.pipe.is_none() {
                self.pipe = lane.pipes.take();
            }
            if let Some(pipe) = &self.pipe {
                let flags = SpliceFlags::MOVE | SpliceFlags::NONBLOCK;
                let result = splice(source, None, &pipe.write, None, PIPE_BYTES, flags);
                return self.after_splice(result, from).map(|()| 0);
            }
        }
        let (read, _) = match recv(source, &mut *lane.buffer, RecvFlags::DONTWAIT) {
            Ok(read) => read,
            Err(Errno::AGAIN) => {
                from.readable = false;
                return Ok(0);
            }
            Err(error) => return Err(error),
        };
        self.eof = read == 0;
        self.bulk = read == BUFFER_BYTES;
        if read < BUFFER_BYTES && !from.has_more {
            from.readable = false;
        }
        let bytes = lane.buffer.get(..read).unwrap_or_default();
        let stops = || lane.shared.is_ended() || lane.shared.is_overdue(lane.clock);
        let sent = if bytes.is_empty() || stops() {
            0
        } else {
            // The sink's readiness is not asked first: a send that finds it full says so.
            match send(sink, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
                Ok(sent) => sent,
                Err(Errno::AGAIN) => {
                    to.writable = false;
                    0
                }
                // What was read must not be lost: it is sent in the next step.
                Err(Errno::INTR) => 0,
                Err(error) => return Err(error),
            }
        };
        // Only what the sink did not take is kept.
        self.tail
            .extend_from_slice(bytes.get(sent..).unwrap_or_default());
        Ok(sent)
    }

    fn after_splice(
        &mut self,
        result: Result<usize, Errno>,
        from: &mut Readiness,
    ) -> Result<(), Errno> {
        match result {
            // A splice takes nothing across an urgent mark, and calls that drained, or the end: a read says what it is.
            Err(Errno::AGAIN) if from.has_more => self.bulk = false,
            Ok(0) => self.bulk = false,
            Err(Errno::AGAIN) => from.readable = false,
            Err(error) => return Err(error),
            Ok(read) => {
                self.piped = read;
                self.small = if read < SMALL_SPLICE {
                    self.small + 1
                } else {
                    0
                };
                if self.small >= SMALL_SPLICES {
                    self.small = 0;
                    self.bulk = false;
                }
            }
        }
        Ok(())
    }

    /// Whether the end of the stream was passed on: nothing is left to move.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Gives the pipe back once it is empty; one that holds bytes is closed with the direction.
    fn release(&mut self, pipes: &mut Pipes) {
        if self.piped == 0
            && let Some(pipe) = self.pipe.take()
        {
            pipes.give_back(pipe);
        }
    }

    /// Whether this direction holds a pipe.
    #[cfg(test)]
    pub(super) fn holds_pipe(&self) -> bool {
        self.pipe.is_some()
    }
}

/// What a thread lends to the direction whose turn it is.
pub(super) struct Lane<'a> {
    pub(super) shared: &'a Shared,
    pub(super) buffer: &'a mut [u8],
    pub(super) pipes: &'a mut Pipes,
    pub(super) clock: &'a dyn Clock,
    /// The other direction is done: both sockets are closed after this one's end, which the sink learns by that.
    pub(super) is_last: bool,
    /// System calls that this direction may make in this turn.
    pub(super) budget: u32,
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use curfew_model::BootInstant;
    use curfew_testkit::{BootClock, connected};
    use socket2::SockRef;

    use super::super::flow::Wire;
    use super::*;
    use crate::tuning::begin;

    #[test]
    fn bulk_takes_a_pipe_and_bounds_its_sockets_and_an_idle_direction_holds_none() {
        let (mut client, near) = connected();
        let (far, mut server) = connected();
        let sent = vec![7; 3 * BUFFER_BYTES];
        client.write_all(&sent).unwrap();
        let mut arrived = vec![0; sent.len()];
        let whole = RecvFlags::PEEK | RecvFlags::WAITALL;
        assert_eq!(recv(&near, &mut *arrived, whole).unwrap().0, sent.len());
        for socket in [&near, &far] {
            socket.set_nonblocking(true).unwrap();
        }
        let (near, far) = (OwnedFd::from(near), OwnedFd::from(far));
        let (shared, mut pipes) = (
            Shared::new(1, BootInstant(0), Wire::Inside),
            Pipes::default(),
        );
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut direction = Direction::default();
        let mut from = Readiness {
            readable: true,
            ..Readiness::default()
        };
        let mut to = Readiness {
            writable: true,
            ..Readiness::default()
        };
        let mut spliced = false;
        let mut total = 0;
        loop {
            let mut lane = Lane {
                shared: &shared,
                buffer: &mut buffer,
                pipes: &mut pipes,
                clock: &BootClock,
                is_last: false,
                budget: 1,
            };
            let step = direction.pump((&near, &mut from), (&far, &mut to), &mut lane, |n| {
                total += n;
            });
            spliced |= direction.holds_pipe();
            if step == Step::Blocked {
                break;
            }
        }
        assert!(spliced);
        // The kernel may allow less than is asked for, and counts twice.
        let (like, _other) = connected();
        bound_near(&like, &like);
        let (like, near, far) = (
            SockRef::from(&like),
            SockRef::from(&near),
            SockRef::from(&far),
        );
        assert_eq!(
            near.recv_buffer_size().unwrap(),
            like.recv_buffer_size().unwrap()
        );
        assert_eq!(
            far.send_buffer_size().unwrap(),
            like.send_buffer_size().unwrap()
        );
        assert!(!direction.holds_pipe());
        assert_eq!(total, sent.len());
        let mut received = vec![0; sent.len()];
        server.read_exact(&mut received).unwrap();
        assert_eq!(received, sent);
    }

    #[test]
    fn an_urgent_byte_stops_no_bulk() {
        let (client, near) = connected();
        let (far, mut server) = connected();
        let sent = [vec![1; 2 * BUFFER_BYTES], vec![2], vec![3; 100]].concat();
        let from = SockRef::from(&client);
        begin(&SockRef::from(&near)).unwrap();
        from.send(&sent[..2 * BUFFER_BYTES]).unwrap();
        from.send_out_of_band(&[2]).unwrap();
        from.send(&[3; 100]).unwrap();
        drop(client);
        let whole = RecvFlags::PEEK | RecvFlags::WAITALL;
        recv(&near, &mut *vec![0; 2 * BUFFER_BYTES], whole).unwrap();
        near.set_nonblocking(true).unwrap();
        let (near, far) = (OwnedFd::from(near), OwnedFd::from(far));
        let shared = Shared::new(1, BootInstant(0), Wire::Inside);
        let mut from = Readiness {
            readable: true,
            has_more: true,
            ..Readiness::default()
        };
        let mut to = Readiness {
            writable: true,
            ..Readiness::default()
        };
        let mut lane = Lane {
            shared: &shared,
            buffer: &mut vec![0; BUFFER_BYTES],
            pipes: &mut Pipes::default(),
            clock: &BootClock,
            is_last: false,
            budget: 100,
        };
        let mut direction = Direction::default();
        let step = direction.pump((&near, &mut from), (&far, &mut to), &mut lane, |_| ());
        assert_eq!(step, Step::Done);
        let mut received = Vec::new();
        server.read_to_end(&mut received).unwrap();
        assert_eq!(received, sent);
    }
}
