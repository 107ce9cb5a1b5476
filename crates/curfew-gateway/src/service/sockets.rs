//! Small things done to sockets that must not block.

use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use socket2::SockRef;

use crate::accept::Client;

/// Sends all of a few bytes at once; false if the peer does not take them.
pub(super) fn say(socket: &OwnedFd, bytes: &[u8]) -> bool {
    send(socket, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) == Ok(bytes.len())
}

/// Drops what a peer still sends; false once it has closed.
pub(super) fn is_open(socket: &OwnedFd) -> bool {
    let mut buffer = [0; 4096];
    match recv(socket, &mut buffer[..], RecvFlags::DONTWAIT) {
        Ok((0, _)) => false,
        Ok(_) | Err(Errno::AGAIN | Errno::INTR) => true,
        Err(_) => false,
    }
}

/// Closes with a reset.
pub(super) fn reset(client: Client) {
    // A socket that refuses this is closed in order.
    let _ = SockRef::from(&client.socket).set_linger(Some(Duration::ZERO));
}
