//! What the kernel knows of one TCP socket of this network namespace: asked by inet_diag (`linux/inet_diag.h`,
//! sock_diag(7)). What follows from the answer may not live here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, netlink, recv, send, socket_with,
};

use crate::accept::canonical;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `NLMSG_ERROR`, with an errno behind the header.
const ERROR: u16 = 2;
/// `SOCK_DIAG_BY_FAMILY`, both of the question and of the answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`. Without `NLM_F_DUMP` the kernel looks up one socket, and answers before `send` returns.
const REQUEST: u16 = 1;
/// The states of a connection that was made and that both ends may still know: `TCP_ESTABLISHED`, `TCP_FIN_WAIT1`,
/// `TCP_FIN_WAIT2`, `TCP_CLOSE_WAIT`, `TCP_LAST_ACK`, `TCP_CLOSING`. The lookup falls back to a listening socket, and finds
/// one that is only on its way to these addresses too.
const CONNECTED: [u8; 6] = [1, 4, 5, 8, 9, 11];
/// `nlmsghdr` and `inet_diag_req_v2`, in bytes.
const QUESTION: usize = 16 + 56;
/// `nlmsghdr` and `inet_diag_msg`, in bytes.
const ANSWER: usize = 16 + 72;
/// Where `inet_diag_sockid` begins, after the header of a question and of an answer.
const QUESTION_ID: usize = 16 + 8;
const ANSWER_ID: usize = 16 + 4;
/// Where `idiag_wqueue`, `idiag_uid` and `idiag_inode` stand in an answer.
const ANSWER_QUEUE: usize = ANSWER_ID + 48 + 8;
const ANSWER_UID: usize = ANSWER_QUEUE + 4;
const ANSWER_INODE: usize = ANSWER_UID + 4;
/// An answer has attributes behind it; they are not read.
const BUFFER: usize = 1024;
/// Answers to earlier questions that are passed over.
const STALE: usize = 16;

/// What the kernel knows of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    /// The timer that runs (`idiag_timer`).
    pub(crate) timer: u8,
    /// How often that timer has run out since the peer last answered (`idiag_retrans`).
    pub(crate) unanswered: u8,
    /// Bytes that the peer has not acknowledged, unsent ones included.
    pub(crate) pending: u32,
    pub(crate) uid: u32,
    /// Zero for a socket that belongs to no process any more.
    pub(crate) inode: u32,
}

/// A way to ask.
pub(crate) struct Diag {
    netlink: OwnedFd,
    sequence: u32,
}

impl Diag {
    /// # Errors
    /// The kernel's: without netlink, or without descriptors.
    pub(crate) fn open() -> io::Result<Self> {
        let netlink = socket_with(
            AddressFamily::NETLINK,
            SocketType::DGRAM,
            SocketFlags::CLOEXEC,
            Some(netlink::SOCK_DIAG),
        )?;
        Ok(Self {
            netlink,
            sequence: 0,
        })
    }

    /// The socket that is bound to `local` and connected to `peer`; none when there is none here.
    ///
    /// # Errors
    /// The kernel's, where it does not answer questions about TCP sockets.
    pub(crate) fn find(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
    ) -> io::Result<Option<Found>> {
        self.sequence = self.sequence.wrapping_add(1);
        let (local, peer) = (canonical(local), canonical(peer));
        let Some(question) = question(local, peer, self.sequence) else {
            return Ok(None);
        };
        send(&self.netlink, &question, SendFlags::DONTWAIT)?;
        for _ in 0..STALE {
            let mut buffer = [0; BUFFER];
            let (length, _) = recv(&self.netlink, &mut buffer[..], RecvFlags::DONTWAIT)?;
            let answer = buffer.get(..length).unwrap_or_default();
            match read(answer, self.sequence, local, peer) {
                Answer::Another => {}
                Answer::None => return Ok(None),
                Answer::Refused(errno) => return Err(errno.into()),
                Answer::Found(found) => return Ok(Some(found)),
            }
        }
        Err(io::ErrorKind::InvalidData.into())
    }
}

/// What the kernel said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// To an earlier question.
    Another,
    /// There is no such connection.
    None,
    Refused(Errno),
    Found(Found),
}

/// The request for the one socket that is bound to `local` and connected to `peer`; none for addresses of two
/// families, which no connection has.
fn question(local: SocketAddr, peer: SocketAddr, sequence: u32) -> Option<[u8; QUESTION]> {
    let family = match (local, peer) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => AF_INET,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => AF_INET6,
        _ => return None,
    };
    let interface = match local {
        SocketAddr::V6(local) => local.scope_id(),
        SocketAddr::V4(_) => 0,
    };
    let mut bytes = [0; QUESTION];
    put(&mut bytes, 0, &(QUESTION as u32).to_ne_bytes());
    put(&mut bytes, 4, &BY_FAMILY.to_ne_bytes());
    put(&mut bytes, 6, &REQUEST.to_ne_bytes());
    put(&mut bytes, 8, &sequence.to_ne_bytes());
    put(&mut bytes, 16, &[family, IPPROTO_TCP]);
    // Any state.
    put(&mut bytes, 20, &u32::MAX.to_ne_bytes());
    put(&mut bytes, QUESTION_ID, &local.port().to_be_bytes());
    put(&mut bytes, QUESTION_ID + 2, &peer.port().to_be_bytes());
    put(&mut bytes, QUESTION_ID + 4, &octets(local.ip()));
    put(&mut bytes, QUESTION_ID + 20, &octets(peer.ip()));
    put(&mut bytes, QUESTION_ID + 36, &interface.to_ne_bytes());
    // INET_DIAG_NOCOOKIE.
    put(&mut bytes, QUESTION_ID + 40, &[0xff; 8]);
    Some(bytes)
}

fn read(bytes: &[u8], sequence: u32, local: SocketAddr, peer: SocketAddr) -> Answer {
    let invalid = Answer::Refused(Errno::BADMSG);
    let (Some(kind), Some(answered)) = (u16_at(bytes, 4), u32_at(bytes, 8)) else {
        return invalid;
    };
    if answered != sequence {
        return Answer::Another;
    }
    if kind == ERROR {
        let errno = u32_at(bytes, 16).map_or(0, |code| 0i32.wrapping_sub(code.cast_signed()));
        return match Errno::from_raw_os_error(errno) {
            Errno::NOENT => Answer::None,
            errno => Answer::Refused(errno),
        };
    }
    if kind != BY_FAMILY || bytes.len() < ANSWER {
        return invalid;
    }
    let (Some(&[family, state, timer, unanswered]), Some(pending), Some(uid), Some(inode)) = (
        bytes.get(16..).and_then(|rest| rest.first_chunk()),
        u32_at(bytes, ANSWER_QUEUE),
        u32_at(bytes, ANSWER_UID),
        u32_at(bytes, ANSWER_INODE),
    ) else {
        return invalid;
    };
    let is =
        |port, at, end: SocketAddr| end_at(bytes, family, port, at) == Some((end.ip(), end.port()));
    let same = is(ANSWER_ID, ANSWER_ID + 4, local) && is(ANSWER_ID + 2, ANSWER_ID + 20, peer);
    if !same || !CONNECTED.contains(&state) {
        return Answer::None;
    }
    Answer::Found(Found {
        timer,
        unanswered,
        pending,
        uid,
        inode,
    })
}

/// Sixteen bytes, as `inet_diag_sockid` has them: an IPv4 address fills the first four.
fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V6(address) => address.octets(),
        IpAddr::V4(address) => {
            let mut bytes = [0; 16];
            put(&mut bytes, 0, &address.octets());
            bytes
        }
    }
}

/// The address and port that stand at these places. There is no scope of a link-local address among them: the question
/// has named it.
fn end_at(bytes: &[u8], family: u8, port: usize, at: usize) -> Option<(IpAddr, u16)> {
    let port = u16::from_be_bytes(*bytes.get(port..)?.first_chunk()?);
    let ip = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from_octets(*bytes.get(at..)?.first_chunk()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from_octets(*bytes.get(at..)?.first_chunk()?)),
        _ => return None,
    };
    Some((ip.to_canonical(), port))
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes
        .get_mut(at..)
        .and_then(|rest| rest.get_mut(..value.len()))
    {
        place.copy_from_slice(value);
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer of the kernel, for tests: established, of uid 1000, inode 7.
    fn answer(local: SocketAddr, peer: SocketAddr, sequence: u32) -> Vec<u8> {
        let question = question(local, peer, sequence).unwrap();
        let mut bytes = vec![0; ANSWER];
        put(&mut bytes, 4, &BY_FAMILY.to_ne_bytes());
        put(&mut bytes, 8, &sequence.to_ne_bytes());
        put(&mut bytes, 16, &[question[16], 1, 4, 2]);
        put(&mut bytes, ANSWER_ID, &question[QUESTION_ID..]);
        put(&mut bytes, ANSWER_QUEUE, &9u32.to_ne_bytes());
        put(&mut bytes, ANSWER_UID, &1000u32.to_ne_bytes());
        put(&mut bytes, ANSWER_INODE, &7u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let local: SocketAddr = "10.0.0.1:40000".parse().unwrap();
        let peer: SocketAddr = "10.0.0.2:5432".parse().unwrap();
        let good = answer(local, peer, 5);
        let found = Found {
            timer: 4,
            unanswered: 2,
            pending: 9,
            uid: 1000,
            inode: 7,
        };
        assert_eq!(read(&good, 5, local, peer), Answer::Found(found));
        assert_eq!(read(&good, 6, local, peer), Answer::Another);
        assert_eq!(read(&good, 5, peer, local), Answer::None);
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            put(&mut bytes, at, value);
            read(&bytes, 5, local, peer)
        };
        // Listening, and on its way (`TCP_SYN_SENT`).
        assert_eq!(with(17, &[10]), Answer::None);
        assert_eq!(with(17, &[2]), Answer::None);
        assert_eq!(with(4, &[9, 9]), Answer::Refused(Errno::BADMSG));
        for length in 0..good.len() {
            let cut = read(&good[..length], 5, local, peer);
            assert_eq!(cut, Answer::Refused(Errno::BADMSG), "{length}");
        }
        let near = |text: &str| SocketAddr::V6(text.parse().unwrap());
        let (local, peer) = (near("[fe80::1%2]:40000"), near("[fe80::2%2]:5432"));
        let scoped = answer(local, peer, 5);
        assert_eq!(read(&scoped, 5, local, peer), Answer::Found(found));
    }
}
