//! Who owns the client's end of a connection, where that end is on this host. What follows from the answer may not
//! live here.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

use curfew_enforcer::Peer;
use rustix::net::getsockname;

use crate::accept::Client;
use crate::diag::Diag;

/// Who a client is of whom the kernel did not say it.
pub fn unlearnt(client: SocketAddr) -> Peer {
    Peer {
        unknown: is_here(client.ip()),
        ..Peer::default()
    }
}

/// Whether an address is of this host: only those can be bound to.
fn is_here(address: IpAddr) -> bool {
    UdpSocket::bind((address, 0)).is_ok()
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
        match peers.of(client.local_addr()?, local)?.uid {
            Some(_) => Ok(peers),
            None => Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it does not know the sockets of this process: it lacks `tcp_diag`",
            )),
        }
    }

    /// Who an accepted client is; an empty answer when it is not of this host.
    ///
    /// # Errors
    /// As [`Peers::of`].
    pub fn of_client(&mut self, client: &Client) -> io::Result<Peer> {
        let local = getsockname(&client.socket)?;
        self.of(client.address, SocketAddr::try_from(local)?)
    }

    /// Who owns the socket bound to `client` and connected to `local`; an empty answer when it is not of this host. One that
    /// belongs to no process any more is nobody's: whose its bytes are cannot be learnt.
    ///
    /// # Errors
    /// The kernel's, where it does not answer questions about TCP sockets.
    pub fn of(&mut self, client: SocketAddr, local: SocketAddr) -> io::Result<Peer> {
        Ok(match self.0.find(client, local)? {
            // Without an inode no process has it, and the uid says 0, which is nobody's word that it is root's.
            Some(found) if found.inode != 0 => Peer {
                uid: Some(found.uid),
                ..Peer::default()
            },
            _ => unlearnt(client),
        })
    }
}

#[cfg(test)]
mod tests {
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
    fn who_was_not_learnt_may_be_anybody_only_on_this_host() {
        for (client, unknown) in [
            ("127.0.0.7:4711", true),
            ("[::1]:4711", true),
            ("192.0.2.1:4711", false),
            ("[2001:db8::1]:4711", false),
        ] {
            let peer = unlearnt(client.parse().unwrap());
            assert_eq!((peer.uid, peer.unknown), (None, unknown), "{client}");
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
    fn a_client_that_is_not_here_is_nobody_and_one_that_is_no_process_s_may_be_anybody() {
        let mut peers = Peers::open().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let local = listener.local_addr().unwrap();
        // The listener itself is what the kernel's lookup falls back to here.
        let none = peers.of(local, "127.0.0.1:1".parse().unwrap()).unwrap();
        assert_eq!((none.uid, none.unknown), (None, true));
        let afar = peers.of("192.0.2.1:40000".parse().unwrap(), local).unwrap();
        assert_eq!(afar, Peer::default());
        let client = TcpStream::connect(local).unwrap();
        let (accepted, from) = listener.accept().unwrap();
        // Closed, the client's socket goes on without a process.
        drop(client);
        let left = peers.of(from, local).unwrap();
        assert_eq!((left.uid, left.unknown), (None, true));
        drop(accepted);
    }
}
