//! Connecting to an upstream: its addresses in order, each within its share of one timeout.
//! Resolving names is the caller's.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::Duration;
use std::{fmt, io};

use curfew_model::Clock;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, Socket, Type};

/// Where an upstream listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamAddress {
    /// An IPv4 or IPv6 address and port.
    Tcp(SocketAddr),
    /// The path of a Unix stream socket.
    Unix(PathBuf),
}

impl fmt::Display for UpstreamAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Why no connection to an upstream came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The upstream has no address.
    #[error("the upstream has no address; check its name in the service's `upstream`")]
    NoAddress,
    /// Each address was tried; this is the last one's failure.
    #[error("cannot connect to {address}; is the upstream running and reachable from here?")]
    Failed {
        /// The address tried last.
        address: UpstreamAddress,
        /// What it answered.
        source: io::Error,
    },
}

/// Addresses in the order to try them: families alternate, starting with the first one's, so that a
/// family that does not work costs one attempt.
#[must_use]
pub fn alternate_families(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_ipv6 = addresses.first().is_some_and(SocketAddr::is_ipv6);
    let (mut first, mut second): (Vec<_>, Vec<_>) = addresses
        .iter()
        .copied()
        .partition(|address| address.is_ipv6() == first_is_ipv6);
    first.reverse();
    second.reverse();
    let mut ordered = Vec::with_capacity(addresses.len());
    while !first.is_empty() || !second.is_empty() {
        ordered.extend(first.pop());
        ordered.extend(second.pop());
    }
    ordered
}

/// Connects to the first address that answers, all within `timeout`; blocks the calling thread.
/// The socket is non-blocking.
///
/// # Errors
/// [`ConnectError`] of the address tried last.
pub fn connect(
    addresses: &[UpstreamAddress],
    timeout: Duration,
    clock: &dyn Clock,
) -> Result<OwnedFd, ConnectError> {
    let deadline = clock.now().boot.after(timeout);
    let mut failure = ConnectError::NoAddress;
    for (index, address) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let share = deadline.since(clock.now().boot) / left;
        match connect_one(address, share) {
            Ok(socket) => return Ok(socket),
            Err(source) => {
                failure = ConnectError::Failed {
                    address: address.clone(),
                    source,
                }
            }
        }
    }
    Err(failure)
}

fn connect_one(address: &UpstreamAddress, timeout: Duration) -> io::Result<OwnedFd> {
    let (domain, target) = match address {
        UpstreamAddress::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
        UpstreamAddress::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
    };
    let socket = Socket::new(domain, Type::STREAM.nonblocking().cloexec(), None)?;
    match socket.connect(&target) {
        Ok(()) => return Ok(socket.into()),
        Err(error) if error.raw_os_error() == Some(Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    let timeout = Timespec::try_from(timeout).map_err(|_| io::ErrorKind::InvalidInput)?;
    match poll(&mut [PollFd::new(&socket, PollFlags::OUT)], Some(&timeout))? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => match socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(socket.into()),
        },
    }
}
