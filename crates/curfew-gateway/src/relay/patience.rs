//! Peers that take nothing for a while, told from peers that are gone. No event loop and no clock here.
//!
//! The user timeout of a socket (tcp(7), TCP_USER_TIMEOUT) ends both: a connection whose peer answers nothing, and one
//! whose peer answers that it has no room. The latter is to be kept for as long as it answers (RFC 9293, 3.8.6.1): a
//! reader that was paused, or a server that waits for a lock inside a COPY, takes nothing for longer than that. So the
//! option is taken off a socket whose peer answers and leaves bytes waiting, and set again once it answers no more, or
//! takes everything.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::SockRef;

use crate::diag::{Diag, Found};
use crate::tuning::Tuning;

/// Values of `idiag_timer`: what was sent is sent again, and the peer is asked for room.
const SENDS_AGAIN: u8 = 1;
const ASKS_FOR_ROOM: u8 = 4;
/// Questions for room in a row without an answer from which on the peer counts as gone. One may be under way.
const UNANSWERED: u8 = 3;
/// How often sockets are looked at, in parts of the user timeout.
const LOOKS: u32 = 3;

/// How a peer stands to the bytes that it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It has acknowledged all.
    TookAll,
    /// Bytes wait, and it answers.
    Answers,
    /// Bytes wait, and it does not answer.
    Silent,
}

impl From<Found> for Standing {
    fn from(found: Found) -> Self {
        match (found.timer, found.unanswered) {
            _ if found.pending == 0 => Self::TookAll,
            (SENDS_AGAIN, 1..) | (ASKS_FOR_ROOM, UNANSWERED..) => Self::Silent,
            _ => Self::Answers,
        }
    }
}

/// How sockets are looked at.
pub(super) struct Patience {
    diag: Option<Diag>,
    tuning: Tuning,
}

impl Patience {
    pub(super) fn new(tuning: Tuning) -> Self {
        Self {
            diag: Diag::open().ok(),
            tuning,
        }
    }

    /// Sets on the upstream's socket of a flow that lasts what it was not given at once. A Unix socket takes none of it, and
    /// one that refuses has failed.
    pub(super) fn settle(&self, upstream: &OwnedFd) {
        let _ = self.tuning.settle(&SockRef::from(upstream));
    }

    /// The time between two looks at a socket.
    pub(super) fn interval(&self) -> Duration {
        self.tuning.user_timeout / LOOKS
    }

    fn standing(&mut self, socket: &OwnedFd) -> io::Result<Standing> {
        let socket = SockRef::from(socket);
        let (local, peer) = (socket.local_addr()?, socket.peer_addr()?);
        let (Some(local), Some(peer)) = (local.as_socket(), peer.as_socket()) else {
            // A Unix socket has no such timeout.
            return Ok(Standing::TookAll);
        };
        let diag = self.diag.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        let found = diag.find(local, peer)?;
        // It is there: a kernel that does not find it does not look.
        Ok(found.ok_or(io::ErrorKind::NotFound)?.into())
    }
}

/// What is remembered of a socket between two looks.
#[derive(Default)]
pub(super) struct Sink {
    /// Bytes that it was given by the last look.
    given: u64,
    /// Some of them may wait for the peer.
    waits: bool,
    /// It has no user timeout.
    patient: bool,
}

impl Sink {
    /// Looks at a socket that was `given` so many bytes in all; true if the kernel was asked.
    pub(super) fn look(&mut self, socket: &OwnedFd, given: u64, patience: &mut Patience) -> bool {
        self.waits |= std::mem::replace(&mut self.given, given) != given;
        if !self.waits {
            return false;
        }
        // Where the kernel does not say, nobody is given up on before it does so by itself.
        let standing = patience.standing(socket).unwrap_or(Standing::Answers);
        self.waits = standing != Standing::TookAll;
        let patient = standing == Standing::Answers;
        if patient != self.patient {
            let timeout = (!patient).then_some(patience.tuning.user_timeout);
            // A socket that refuses has failed.
            let _ = SockRef::from(socket).set_tcp_user_timeout(timeout);
            self.patient = patient;
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use curfew_testkit::connected;

    use super::*;

    #[test]
    fn where_the_kernel_does_not_say_a_peer_is_waited_for() {
        let (socket, _peer) = connected();
        let limit = |socket: &OwnedFd| SockRef::from(socket).tcp_user_timeout().unwrap();
        let mut patience = Patience {
            diag: None,
            tuning: Tuning::default(),
        };
        SockRef::from(&socket)
            .set_tcp_user_timeout(Some(patience.tuning.user_timeout))
            .unwrap();
        let (socket, mut sink) = (OwnedFd::from(socket), Sink::default());
        assert!(!sink.look(&socket, 0, &mut patience));
        assert_eq!(limit(&socket), Some(patience.tuning.user_timeout));
        assert!(sink.look(&socket, 1, &mut patience));
        assert_eq!(limit(&socket), None);
        // Nothing waits after all: it is limited again.
        patience.diag = Diag::open().ok();
        assert!(sink.look(&socket, 1, &mut patience));
        assert_eq!(limit(&socket), Some(patience.tuning.user_timeout));
    }

    #[test]
    fn only_a_peer_that_answers_nothing_is_silent() {
        let standing = |timer, unanswered, pending| {
            Standing::from(Found {
                timer,
                unanswered,
                pending,
                uid: 0,
                inode: 1,
            })
        };
        for timer in 0..=4 {
            assert_eq!(standing(timer, 9, 0), Standing::TookAll);
            assert_eq!(standing(timer, 0, 1), Standing::Answers);
        }
        assert_eq!(standing(SENDS_AGAIN, 1, 1), Standing::Silent);
        assert_eq!(standing(ASKS_FOR_ROOM, 2, 1), Standing::Answers);
        assert_eq!(standing(ASKS_FOR_ROOM, 3, 1), Standing::Silent);
    }
}
