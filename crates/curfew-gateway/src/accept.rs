//! Listening, and taking the next client without waiting. What becomes of a client may not live here.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::net::{SocketFlags, acceptfrom_with};
use socket2::{Domain, SockRef, Socket, Type};

use crate::tuning::Tuning;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 4096;

/// An accepted client.
pub struct Client {
    /// Its non-blocking socket.
    pub socket: OwnedFd,
    /// Where it comes from; an IPv4 address is never shown as IPv6.
    pub address: SocketAddr,
}

/// What the queue of a listening socket holds.
pub enum Next {
    /// A client.
    Client(Client),
    /// A client that has left again, or an interruption: there may be more.
    Gone,
    /// Nobody.
    Nobody,
    /// Descriptors or memory have run out; the queue stays as it is.
    Exhausted,
    /// The socket listens no more.
    Closed,
}

/// Listens on `address`, without blocking. What is set on this socket, its clients inherit from the first one on.
///
/// # Errors
/// The kernel's, when the address cannot be bound, or no descriptor is left.
pub fn listen(address: SocketAddr, tuning: Tuning) -> io::Result<Socket> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = Socket::new(Domain::for_address(address), kind, None)?;
    socket.set_reuse_address(true)?;
    tuning.apply(&SockRef::from(&socket))?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Takes the next client of a listening socket.
#[must_use]
pub fn next(listener: &Socket) -> Next {
    match acceptfrom_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
        Ok((socket, from)) => match from.and_then(|from| SocketAddr::try_from(from).ok()) {
            Some(address) => Next::Client(Client {
                socket,
                address: canonical(address),
            }),
            None => Next::Gone,
        },
        Err(Errno::AGAIN) => Next::Nobody,
        Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => Next::Exhausted,
        Err(Errno::INVAL | Errno::BADF) => Next::Closed,
        Err(_) => Next::Gone,
    }
}

/// The clients that wait in the queue of a listening socket: at most as many as it holds, however many come meanwhile,
/// and as many as there are descriptors for.
pub(crate) fn queued(listener: &Socket) -> impl Iterator<Item = Client> + '_ {
    // The kernel lets one more wait than it was told.
    let taken = (0..=BACKLOG).map(|_| next(listener));
    let waiting = taken.take_while(|taken| matches!(taken, Next::Client(_) | Next::Gone));
    waiting.filter_map(|taken| match taken {
        Next::Client(client) => Some(client),
        _ => None,
    })
}

/// A place under a limit; dropping it gives it back.
pub(crate) struct Permit(Arc<AtomicUsize>);

impl Permit {
    /// A place under `limit`, counted by `taken`; none when all are taken.
    pub(crate) fn take(taken: &Arc<AtomicUsize>, limit: usize) -> Option<Self> {
        if taken.fetch_add(1, Ordering::AcqRel) >= limit {
            taken.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Self(Arc::clone(taken)))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The address with an IPv4-mapped IPv6 address as the IPv4 address that it is.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    let ip: IpAddr = address.ip().to_canonical();
    if ip == address.ip() {
        address
    } else {
        SocketAddr::new(ip, address.port())
    }
}
