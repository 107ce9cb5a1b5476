//! Who owns the client's end of a connection, where that end is on this host: asked of the kernel by inet_diag
//! (`linux/inet_diag.h`, sock_diag(7)). What follows from the answer may not live here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;

use curfew_enforcer::Peer;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, getsockname, netlink, recv, send,
    socket_with,
};

use crate::accept::{Client, canonical};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// `NLMSG_ERROR`, with an errno behind the header.
const ERROR: u16 = 2;
/// `SOCK_DIAG_BY_FAMILY`, both of the question and of the answer.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST`. Without `NLM_F_DUMP` the kernel looks up one socket, and answers before `send` returns.
const REQUEST: u16 = 1;
/// `TCP_LISTEN`: what the lookup falls back to where no connection has these addresses.
const LISTENING: u8 = 10;
/// `nlmsghdr` and `inet_diag_req_v2`, in bytes.
const QUESTION: usize = 16 + 56;
/// `nlmsghdr` and `inet_diag_msg`, in bytes.
const ANSWER: usize = 16 + 72;
/// Where `inet_diag_sockid` begins, after the header of a question and of an answer.
const QUESTION_ID: usize = 16 + 8;
const ANSWER_ID: usize = 16 + 4;
/// Where `idiag_uid` and `idiag_inode` stand in an answer.
const ANSWER_UID: usize = ANSWER_ID + 48 + 12;
const ANSWER_INODE: usize = ANSWER_UID + 4;
/// An answer has attributes behind it; they are not read.
const BUFFER: usize = 1024;
/// Answers to earlier questions that are passed over.
const STALE: usize = 16;

/// Asks the kernel who owns sockets of this network namespace.
pub struct Peers {
    netlink: OwnedFd,
    sequence: u32,
}

impl Peers {
    /// A way to ask.
    ///
    /// # Errors
    /// The kernel's: without netlink, or without descriptors.
    pub fn open() -> io::Result<Self> {
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

    /// Who an accepted client is; an empty answer when it is not of this host.
    ///
    /// # Errors
    /// As [`Peers::of`].
    pub fn of_client(&mut self, client: &Client) -> io::Result<Peer> {
        let local = getsockname(&client.socket)?;
        self.of(client.address, SocketAddr::try_from(local)?)
    }

    /// Who owns the socket bound to `client` and connected to `local`; an empty answer when it is not of this host,
    /// or belongs to no process any more.
    ///
    /// # Errors
    /// The kernel's, where it does not answer questions about TCP sockets.
    pub fn of(&mut self, client: SocketAddr, local: SocketAddr) -> io::Result<Peer> {
        self.sequence = self.sequence.wrapping_add(1);
        let (client, local) = (canonical(client), canonical(local));
        let Some(question) = question(client, local, self.sequence) else {
            return Ok(Peer::default());
        };
        send(&self.netlink, &question, SendFlags::DONTWAIT)?;
        for _ in 0..STALE {
            let mut buffer = [0; BUFFER];
            let (length, _) = recv(&self.netlink, &mut buffer[..], RecvFlags::DONTWAIT)?;
            let answer = buffer.get(..length).unwrap_or_default();
            match read(answer, self.sequence, client, local) {
                Answer::Another => {}
                Answer::Nobody => return Ok(Peer::default()),
                Answer::Refused(errno) => return Err(errno.into()),
                Answer::Owner(uid) => {
                    return Ok(Peer {
                        uid: Some(uid),
                        cgroup: None,
                    });
                }
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
    /// No process has such a connection.
    Nobody,
    Refused(Errno),
    Owner(u32),
}

/// The request for the one socket that is bound to `client` and connected to `local`; none for addresses of two
/// families, which no connection has.
fn question(client: SocketAddr, local: SocketAddr, sequence: u32) -> Option<[u8; QUESTION]> {
    let family = match (client, local) {
        (SocketAddr::V4(_), SocketAddr::V4(_)) => AF_INET,
        (SocketAddr::V6(_), SocketAddr::V6(_)) => AF_INET6,
        _ => return None,
    };
    let interface = match client {
        SocketAddr::V6(client) => client.scope_id(),
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
    put(&mut bytes, QUESTION_ID, &client.port().to_be_bytes());
    put(&mut bytes, QUESTION_ID + 2, &local.port().to_be_bytes());
    put(&mut bytes, QUESTION_ID + 4, &octets(client.ip()));
    put(&mut bytes, QUESTION_ID + 20, &octets(local.ip()));
    put(&mut bytes, QUESTION_ID + 36, &interface.to_ne_bytes());
    // INET_DIAG_NOCOOKIE.
    put(&mut bytes, QUESTION_ID + 40, &[0xff; 8]);
    Some(bytes)
}

fn read(bytes: &[u8], sequence: u32, client: SocketAddr, local: SocketAddr) -> Answer {
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
            Errno::NOENT => Answer::Nobody,
            errno => Answer::Refused(errno),
        };
    }
    if kind != BY_FAMILY || bytes.len() < ANSWER {
        return invalid;
    }
    let (Some(&[family, state]), Some(uid), Some(inode)) = (
        bytes.get(16..18).and_then(|two| two.first_chunk()),
        u32_at(bytes, ANSWER_UID),
        u32_at(bytes, ANSWER_INODE),
    ) else {
        return invalid;
    };
    let same = address_at(bytes, family, ANSWER_ID, ANSWER_ID + 4) == Some(client)
        && address_at(bytes, family, ANSWER_ID + 2, ANSWER_ID + 20) == Some(local);
    // Without an inode no process has it, and the uid says 0, which is nobody's word that it is root's.
    if same && state != LISTENING && inode != 0 {
        Answer::Owner(uid)
    } else {
        Answer::Nobody
    }
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

/// The address whose port and bytes stand at these places. The scope of a link-local address is not compared: the
/// question has named it.
fn address_at(bytes: &[u8], family: u8, port: usize, at: usize) -> Option<SocketAddr> {
    let port = u16::from_be_bytes(*bytes.get(port..)?.first_chunk()?);
    let ip = match family {
        AF_INET => IpAddr::V4(Ipv4Addr::from_octets(*bytes.get(at..)?.first_chunk()?)),
        AF_INET6 => IpAddr::V6(Ipv6Addr::from_octets(*bytes.get(at..)?.first_chunk()?)),
        _ => return None,
    };
    Some(canonical(SocketAddr::new(ip, port)))
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
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::MetadataExt;

    use super::*;

    fn uid() -> u32 {
        std::fs::metadata("/proc/self").unwrap().uid()
    }

    #[test]
    fn the_owner_of_a_local_client_is_found() {
        let mut peers = Peers::open().unwrap();
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (accepted, from) = listener.accept().unwrap();
            let peer = peers.of(from, accepted.local_addr().unwrap()).unwrap();
            assert_eq!(peer.uid, Some(uid()), "{address}");
            drop(client);
        }
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_listener_is_found() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        let peer = Peers::open()
            .unwrap()
            .of(from, accepted.local_addr().unwrap());
        assert_eq!(peer.unwrap().uid, Some(uid()));
    }

    #[test]
    fn a_client_that_is_not_here_or_no_process_s_is_nobody() {
        let mut peers = Peers::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        // The listener itself is what the kernel's lookup falls back to here.
        let none = peers.of(local, "127.0.0.1:1".parse().unwrap()).unwrap();
        assert_eq!(none, Peer::default());
        let afar = peers.of("192.0.2.1:40000".parse().unwrap(), local).unwrap();
        assert_eq!(afar, Peer::default());
        let client = TcpStream::connect(local).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        // Closed, the client's socket goes on without a process.
        drop(client);
        let left = peers.of(from, local).unwrap();
        assert_eq!(left, Peer::default());
        drop(accepted);
    }

    /// An answer of the kernel to `question`, for tests: established, of uid 1000, inode 7.
    fn answer(client: SocketAddr, local: SocketAddr, sequence: u32) -> Vec<u8> {
        let question = question(client, local, sequence).unwrap();
        let mut bytes = vec![0; ANSWER];
        put(&mut bytes, 4, &BY_FAMILY.to_ne_bytes());
        put(&mut bytes, 8, &sequence.to_ne_bytes());
        put(&mut bytes, 16, &[question[16], 1]);
        put(&mut bytes, ANSWER_ID, &question[QUESTION_ID..]);
        put(&mut bytes, ANSWER_UID, &1000u32.to_ne_bytes());
        put(&mut bytes, ANSWER_INODE, &7u32.to_ne_bytes());
        bytes
    }

    #[test]
    fn only_the_answer_to_the_question_counts() {
        let client: SocketAddr = "10.0.0.1:40000".parse().unwrap();
        let local: SocketAddr = "10.0.0.2:5432".parse().unwrap();
        let good = answer(client, local, 5);
        assert_eq!(read(&good, 5, client, local), Answer::Owner(1000));
        assert_eq!(read(&good, 6, client, local), Answer::Another);
        assert_eq!(read(&good, 5, local, client), Answer::Nobody);
        let with = |at: usize, value: &[u8]| {
            let mut bytes = good.clone();
            put(&mut bytes, at, value);
            read(&bytes, 5, client, local)
        };
        assert_eq!(with(17, &[LISTENING]), Answer::Nobody);
        assert_eq!(with(ANSWER_INODE, &[0; 4]), Answer::Nobody);
        assert_eq!(with(4, &[9, 9]), Answer::Refused(Errno::BADMSG));
        for length in 0..good.len() {
            let cut = read(&good[..length], 5, client, local);
            assert_eq!(cut, Answer::Refused(Errno::BADMSG), "{length}");
        }
    }
}
