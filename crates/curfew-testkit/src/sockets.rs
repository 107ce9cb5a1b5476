//! Connected sockets for tests.
#![allow(
    clippy::unwrap_used,
    reason = "a test helper that cannot go on fails its test"
)]

use std::{
    net::{TcpListener, TcpStream},
    time::Duration,
};

/// What a read or a write may take on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// Both ends of a TCP connection on loopback. Reads and writes are bounded by a timeout that only a failure meets.
///
/// # Panics
/// When the machine has no port or descriptor left.
#[must_use]
pub fn connected() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (other, _) = listener.accept().unwrap();
    for socket in [&one, &other] {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
    }
    (one, other)
}
