//! Connecting to an upstream: its addresses in order, each within its share of one timeout.
//! Resolving names and waiting are the caller's.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use curfew_model::{BootInstant, UpstreamAddress};
use rustix::io::Errno;
use socket2::{Domain, SockAddr, SockRef, Socket, Type};

use crate::descriptors::is_kept;
use crate::tuning;

/// How often a Unix socket whose queue is full is tried again: unlike TCP, the kernel waits for no place in it.
const FULL: Duration = Duration::from_millis(10);

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

impl ConnectError {
    /// Whether it is for want of descriptors here, and not the upstream's.
    pub(crate) fn is_exhausted(&self) -> bool {
        let Self::Failed { source, .. } = self else {
            return false;
        };
        [Errno::MFILE, Errno::NFILE]
            .iter()
            .any(|error| source.raw_os_error() == Some(error.raw_os_error()))
    }
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

/// A connection that is being made: the first address that answers, all within one timeout.
#[derive(Debug)]
pub struct Connecting {
    left: VecDeque<UpstreamAddress>,
    deadline: BootInstant,
    attempt: Option<Attempt>,
    attempts: usize,
    failure: ConnectError,
    /// Whether it may take a descriptor that is kept back.
    takes_kept: bool,
}

#[derive(Debug)]
struct Attempt {
    address: UpstreamAddress,
    socket: Socket,
    /// What connect(2) said when it was begun.
    connected: bool,
    until: BootInstant,
}

impl Attempt {
    fn is_unix(&self) -> bool {
        matches!(self.address, UpstreamAddress::Unix(_))
    }

    fn look_again_at(&self, now: BootInstant) -> BootInstant {
        if self.is_unix() {
            self.until.min(now.after(FULL))
        } else {
            self.until
        }
    }
}

/// How far a connection has come.
#[derive(Debug)]
pub enum Progress {
    /// To this address, with this non-blocking socket.
    Connected(OwnedFd, UpstreamAddress),
    /// Look again when [`Connecting::socket`] is writable, or at this instant.
    Waiting(BootInstant),
    /// No address answered.
    Failed(ConnectError),
}

impl Connecting {
    /// Will connect within `timeout` from `now`.
    #[must_use]
    pub fn new(addresses: &[UpstreamAddress], timeout: Duration, now: BootInstant) -> Self {
        Self {
            left: addresses.iter().cloned().collect(),
            deadline: now.after(timeout),
            attempt: None,
            attempts: 0,
            failure: ConnectError::NoAddress,
            takes_kept: false,
        }
    }

    /// The same, which gets through when clients have taken all descriptors that they may.
    #[must_use]
    pub fn urgent(self) -> Self {
        Self {
            takes_kept: true,
            ..self
        }
    }

    /// The socket that will be writable when its peer has answered; a Unix socket never tells.
    #[must_use]
    pub fn socket(&self) -> Option<BorrowedFd<'_>> {
        let attempt = self.attempt.as_ref().filter(|attempt| !attempt.is_unix());
        attempt.map(|attempt| attempt.socket.as_fd())
    }

    /// How many addresses were tried: with each, the socket is another.
    #[must_use]
    pub fn attempts(&self) -> usize {
        self.attempts
    }

    /// Goes as far as it can at `now` without waiting. Call it no more after it is connected or failed.
    pub fn advance(&mut self, now: BootInstant) -> Progress {
        loop {
            let Some(attempt) = self.attempt.take() else {
                let Some(address) = self.left.pop_front() else {
                    let failure = std::mem::replace(&mut self.failure, ConnectError::NoAddress);
                    return Progress::Failed(failure);
                };
                self.attempts += 1;
                let others = u32::try_from(self.left.len()).unwrap_or(u32::MAX);
                let share = self.deadline.since(now) / others.saturating_add(1);
                match begin(&address, self.takes_kept) {
                    Ok((socket, connected)) => {
                        self.attempt = Some(Attempt {
                            address,
                            socket,
                            connected,
                            until: now.after(share),
                        });
                    }
                    Err(source) => self.failure = ConnectError::Failed { address, source },
                }
                continue;
            };
            let connected = match attempt.connected {
                true => Ok(true),
                false => is_connected(&attempt.socket, &attempt.address),
            };
            let source = match connected {
                Ok(true) => return Progress::Connected(attempt.socket.into(), attempt.address),
                Ok(false) if now < attempt.until => {
                    let until = attempt.look_again_at(now);
                    self.attempt = Some(attempt);
                    return Progress::Waiting(until);
                }
                Ok(false) => io::ErrorKind::TimedOut.into(),
                Err(source) => source,
            };
            self.failure = ConnectError::Failed {
                address: attempt.address,
                source,
            };
        }
    }
}

/// A socket that is on its way to this address, and whether it is there.
fn begin(address: &UpstreamAddress, takes_kept: bool) -> io::Result<(Socket, bool)> {
    let kind = Type::STREAM.nonblocking().cloexec();
    let socket = match address {
        UpstreamAddress::Tcp(address) => {
            let socket = Socket::new(Domain::for_address(*address), kind, None)?;
            tuning::begin(&SockRef::from(&socket))?;
            socket
        }
        UpstreamAddress::Unix(_) => Socket::new(Domain::UNIX, kind, None)?,
    };
    if !takes_kept && is_kept(&socket) {
        return Err(Errno::MFILE.into());
    }
    let connected = is_connected(&socket, address)?;
    Ok((socket, connected))
}

/// Connects, or asks how far that has come: connect(2) says either.
fn is_connected(socket: &Socket, address: &UpstreamAddress) -> io::Result<bool> {
    let target = match address {
        UpstreamAddress::Tcp(address) => SockAddr::from(*address),
        UpstreamAddress::Unix(path) => SockAddr::unix(path)?,
    };
    let connected = match socket.connect(&target) {
        Ok(()) => Ok(true),
        Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ISCONN) => Ok(true),
            Some(Errno::INPROGRESS | Errno::ALREADY) => Ok(false),
            Some(Errno::AGAIN) if matches!(address, UpstreamAddress::Unix(_)) => Ok(false),
            _ => Err(error),
        },
    }?;
    // Where nobody listens on a port that the kernel gives out, a socket may be given that very port, and meet itself.
    if connected && matches!(address, UpstreamAddress::Tcp(_)) && socket.local_addr()? == target {
        return Err(Errno::CONNREFUSED.into());
    }
    Ok(connected)
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    #[test]
    fn a_socket_that_meets_itself_is_no_upstream() {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        let here: SocketAddr = ([127, 0, 0, 1], 0).into();
        socket.bind(&here.into()).unwrap();
        let own = socket.local_addr().unwrap().as_socket().unwrap();
        let met = is_connected(&socket, &UpstreamAddress::Tcp(own)).unwrap_err();
        assert_eq!(met.kind(), io::ErrorKind::ConnectionRefused);
    }
}
