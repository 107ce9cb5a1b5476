//! What is set on every TCP socket that the gateway relays. When a socket is made may not live here.

use std::io;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockAddr, SockRef, TcpKeepalive};

/// What may stay unsent in a socket, in bytes: bounds what is in flight at a deadline.
const NOTSENT_BYTES: u32 = 128 * 1024;

/// What is asked for of a socket of a bulk flow, in either direction, when its peer is on this host, in bytes; the kernel
/// holds twice that (socket(7), SO_SNDBUF). There is no distance to fill: what it grows to by itself, tens of megabytes,
/// only waits, and has left the processor's caches before somebody reads it.
const NEAR_BYTES: usize = 512 * 1024;

/// The options of a TCP socket. Set on a listening socket, they are those of its clients.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// How long bytes may wait for a peer that does not answer before the connection counts as broken. One that answers
    /// is waited for once the relay has the socket.
    pub user_timeout: Duration,
    /// Silence after which TCP keepalives probe a peer. They are not activity.
    pub keepalive: Duration,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            user_timeout: Duration::from_secs(30),
            keepalive: Duration::from_secs(60),
        }
    }
}

impl Tuning {
    /// Sets the options on a TCP socket.
    ///
    /// # Errors
    /// The kernel's.
    pub fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        begin(socket)?;
        self.settle(socket)
    }

    /// Sets those that only a connection feels which lasts: a short one is spared the system calls, a fortieth of what it
    /// costs.
    pub(crate) fn settle(&self, socket: &SockRef<'_>) -> io::Result<()> {
        socket.set_tcp_notsent_lowat(NOTSENT_BYTES)?;
        socket.set_tcp_user_timeout(Some(self.user_timeout))?;
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(self.keepalive))
    }
}

/// Sets the options of a TCP socket that count from its first byte on.
pub(crate) fn begin(socket: &SockRef<'_>) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    // An urgent byte is one like others to the relay, which passes on no marks.
    socket.set_out_of_band_inline(true)
}

/// Bounds what waits in `source` to be read and in `sink` to be sent, each if its peer is on this host. For bulk only:
/// it costs system calls that a short connection would feel.
pub(crate) fn bound_near(source: &impl AsFd, sink: &impl AsFd) {
    let (source, sink) = (SockRef::from(source), SockRef::from(sink));
    // A socket that refuses is one that has failed, or keeps the kernel's own bound: both work.
    if is_near(&source) {
        let _ = source.set_recv_buffer_size(NEAR_BYTES);
    }
    if is_near(&sink) {
        let _ = sink.set_send_buffer_size(NEAR_BYTES);
    }
}

/// Whether both ends of a TCP connection are on this host.
fn is_near(socket: &SockRef<'_>) -> bool {
    let ip = |address: io::Result<SockAddr>| Some(address.ok()?.as_socket()?.ip().to_canonical());
    match (ip(socket.local_addr()), ip(socket.peer_addr())) {
        (Some(local), Some(peer)) => is_same_host(local, peer),
        _ => false,
    }
}

/// Whether a connection between these addresses stays on its host.
fn is_same_host(local: IpAddr, peer: IpAddr) -> bool {
    local == peer || (local.is_loopback() && peer.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_tell_whether_a_connection_stays_on_its_host() {
        for (local, peer, expected) in [
            ("10.0.0.1", "10.0.0.1", true),
            ("10.0.0.1", "10.0.0.2", false),
            ("127.0.0.1", "127.0.0.2", true),
            ("127.0.0.1", "10.0.0.1", false),
            ("fd00::1", "fd00::1", true),
            ("::1", "fd00::1", false),
        ] {
            let (near, far) = (local.parse().unwrap(), peer.parse().unwrap());
            assert_eq!(is_same_host(near, far), expected, "{local} {peer}");
        }
    }
}
