//! Who owns the client's end of a connection, where that end is on this host. What follows from the answer may not
//! live here.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use curfew_enforcer::Owner;
use curfew_model::SessionId;
use rustix::net::{getpeername, getsockname};

use crate::accept::Client;
use crate::diag::Diag;
use crate::relay::Flow;

/// Whose a socket is of which the kernel did not say it.
pub fn unlearnt(client: SocketAddr) -> Owner {
    if is_here(client) {
        Owner::Unknown
    } else {
        Owner::Elsewhere
    }
}

/// Whether an address may be of this host: what is not cannot be bound to, which the kernel says in a word of its own.
/// Whatever else it says, somebody here may have brought about.
fn is_here(mut client: SocketAddr) -> bool {
    client.set_port(0);
    let bound = UdpSocket::bind(client);
    !matches!(bound, Err(error) if error.kind() == io::ErrorKind::AddrNotAvailable)
}

/// Whose the clients' sockets of these flows are.
pub(crate) fn owners(
    flows: impl IntoIterator<Item = (SessionId, Flow)>,
) -> Vec<(SessionId, Owner)> {
    let mut peers = Peers::open().ok();
    let mut owner = |flow: &Flow| {
        // A client whose socket has no addresses any more may have been anybody.
        let Some((client, local)) = flow.client_ends() else {
            return Owner::Unknown;
        };
        let still = || flow.client_ends().is_some();
        let learnt = peers
            .as_mut()
            .and_then(|peers| peers.of(client, local, still).ok());
        learnt.unwrap_or_else(|| unlearnt(client))
    };
    let flows = flows.into_iter();
    flows.map(|(id, flow)| (id, owner(&flow))).collect()
}

/// Asks the kernel who owns sockets of this network namespace.
pub struct Peers(Diag);

impl Peers {
    /// A way to ask, which knows a socket that is certainly there: a kernel without its module for TCP says of each that
    /// there is none.
    ///
    /// # Errors
    /// The kernel's: without netlink or descriptors, or where it does not answer questions about TCP sockets.
    pub fn open() -> io::Result<Self> {
        let mut peers = Self(Diag::open()?);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let local = listener.local_addr()?;
        let client = TcpStream::connect(local)?;
        match peers.of(client.local_addr()?, local, || true)? {
            Owner::Uid(_) => Ok(peers),
            _ => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it does not know the sockets of this process: it lacks `tcp_diag`",
            )),
        }
    }

    /// Whose the socket of an accepted client is.
    ///
    /// # Errors
    /// As [`Peers::of`].
    pub fn of_client(&mut self, client: &Client) -> io::Result<Owner> {
        let local = getsockname(&client.socket)?;
        let still = || getpeername(&client.socket).is_ok();
        self.of(client.address, SocketAddr::try_from(local)?, still)
    }

    /// Whose the socket is that is bound to `client` and connected to `local`. Of one that belongs to no process any more it
    /// cannot be learnt whose its bytes are; nor of one that was reset, as the addresses may be another's by now: `still` says
    /// afterwards whether ours is connected to it.
    ///
    /// # Errors
    /// The kernel's, where it does not answer questions about TCP sockets.
    pub fn of(
        &mut self,
        client: SocketAddr,
        local: SocketAddr,
        still: impl FnOnce() -> bool,
    ) -> io::Result<Owner> {
        Ok(match self.0.find(client, local)? {
            // Without an inode no process has it, and the uid says 0, which is nobody's word that it is root's.
            Some(found) if found.inode != 0 && still() => Owner::Uid(found.uid),
            _ => unlearnt(client),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;
    use std::time::Duration;

    use socket2::{Domain, Socket, Type};

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
            let owner = peers
                .of(from, accepted.local_addr().unwrap(), || true)
                .unwrap();
            assert_eq!(owner, Owner::Uid(uid()), "{address}");
            drop(client);
        }
    }

    #[test]
    fn who_was_not_learnt_may_be_anybody_only_on_this_host() {
        for (client, owner) in [
            ("127.0.0.7:4711", Owner::Unknown),
            ("[::1]:4711", Owner::Unknown),
            ("192.0.2.1:4711", Owner::Elsewhere),
            ("[2001:db8::1]:4711", Owner::Elsewhere),
            // Without its interface the kernel does not say whose it is.
            ("[fe80::1]:4711", Owner::Unknown),
        ] {
            assert_eq!(unlearnt(client.parse().unwrap()), owner, "{client}");
        }
    }

    #[test]
    fn an_ipv4_client_of_an_ipv6_listener_is_found() {
        let listener = TcpListener::bind("[::]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let _client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        let owner = Peers::open()
            .unwrap()
            .of(from, accepted.local_addr().unwrap(), || true);
        assert_eq!(owner.unwrap(), Owner::Uid(uid()));
    }

    #[test]
    fn a_client_that_is_not_here_is_nobody_and_one_that_is_no_process_s_may_be_anybody() {
        let mut peers = Peers::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        // The listener itself is what the kernel's lookup falls back to here.
        let none = peers
            .of(local, "127.0.0.1:1".parse().unwrap(), || true)
            .unwrap();
        assert_eq!(none, Owner::Unknown);
        let afar = peers
            .of("192.0.2.1:40000".parse().unwrap(), local, || true)
            .unwrap();
        assert_eq!(afar, Owner::Elsewhere);
        let client = TcpStream::connect(local).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        // Closed, the client's socket goes on without a process.
        drop(client);
        let left = peers.of(from, local, || true).unwrap();
        assert_eq!(left, Owner::Unknown);
        drop(accepted);
    }

    /// Connects from a port that others may use as soon as this one is gone.
    fn connect_from(port: u16, to: SocketAddr) -> Socket {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        let from: SocketAddr = ([127, 0, 0, 1], port).into();
        socket.bind(&from.into()).unwrap();
        socket.connect(&to.into()).unwrap();
        socket
    }

    #[test]
    fn a_client_that_was_reset_is_not_whoever_took_its_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        let first = connect_from(0, local);
        let port = first.local_addr().unwrap().as_socket().unwrap().port();
        first.send(b"who is it").unwrap();
        first.set_linger(Some(Duration::ZERO)).unwrap();
        drop(first);
        let second = connect_from(port, local);
        let mut peers = Peers::open().unwrap();
        let mut owner = || {
            let (socket, address) = listener.accept().unwrap();
            assert_eq!(address.port(), port);
            let socket = socket.into();
            let client = Client { socket, address };
            peers.of_client(&client).unwrap()
        };
        assert_eq!([owner(), owner()], [Owner::Unknown, Owner::Uid(uid())]);
        drop(second);
    }
}
