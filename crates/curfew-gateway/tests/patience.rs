//! What becomes of a flow whose peer takes nothing: kept while the peer answers, over when it is gone.
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    reason = "a test helper that cannot go on fails its test"
)]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use curfew_gateway::relay::{Bytes, Finish, Finished, Relay, RelayConfig};
use curfew_gateway::tuning::Tuning;
use curfew_model::Clock;
use curfew_testkit::{BootClock, connected};
use socket2::{SockFilter, SockRef};

/// How long bytes may wait for a peer that does not answer.
const USER_TIMEOUT: Duration = Duration::from_secs(1);
/// By then the kernel has ended whatever has that timeout.
const LONG_AFTER: Duration = Duration::from_secs(5);
/// More flows than a loop asks about in one turn.
const MANY: u64 = 100;
const PATIENCE: Duration = Duration::from_secs(180);
/// `BPF_RET | BPF_K`: of every packet, so many bytes are taken.
const TAKE: u16 = 0x06;

struct Report(Sender<Finish>);

impl Finished for Report {
    fn finished(&self, _key: u64, how: Finish, _bytes: Bytes) {
        let _ = self.0.send(how);
    }
}

struct Lab {
    client: TcpStream,
    server: TcpStream,
    reports: Receiver<Finish>,
    relay: Relay,
}

impl Lab {
    fn new() -> Self {
        let config = RelayConfig {
            threads: 1,
            tuning: Tuning {
                user_timeout: USER_TIMEOUT,
                ..Tuning::default()
            },
            ..RelayConfig::default()
        };
        let (sender, reports) = channel();
        let relay = Relay::start(config, Arc::new(BootClock), Arc::new(Report(sender))).unwrap();
        let (client, server) = carried(&relay, 1);
        Self {
            client,
            server,
            reports,
            relay,
        }
    }
}

/// The outer ends of a new flow. The kernel takes little for its client.
fn carried(relay: &Relay, key: u64) -> (TcpStream, TcpStream) {
    let ((client, near), (far, server)) = (connected(), connected());
    let little = SockRef::from(&client).set_recv_buffer_size(32 * 1024);
    little.unwrap();
    relay
        .adopt(OwnedFd::from(near), OwnedFd::from(far), key)
        .unwrap();
    (client, server)
}

/// Writes until nobody takes any more; what was written.
fn fill(mut socket: &TcpStream) -> usize {
    socket.set_nonblocking(true).unwrap();
    let (mut written, mut full) = (0, 0);
    while full < 1_000 {
        match socket.write(&[7; 100_000]) {
            Ok(bytes) => (written, full) = (written + bytes, 0),
            Err(_) => full += 1,
        }
        std::thread::yield_now();
    }
    socket.set_nonblocking(false).unwrap();
    written
}

/// A peer that takes nothing for long gets everything when it goes on, and the flow goes on with it.
fn waits(mut from: &TcpStream, mut to: &TcpStream, reports: &Receiver<Finish>) {
    let written = fill(from);
    // The other way goes on meanwhile.
    to.write_all(b"alive").unwrap();
    let over = reports.recv_timeout(LONG_AFTER);
    assert_eq!(over, Err(RecvTimeoutError::Timeout));
    let mut taken = vec![0; written];
    to.read_exact(&mut taken).unwrap();
    assert!(taken.iter().all(|byte| *byte == 7));
    from.write_all(b"more").unwrap();
    to.read_exact(&mut [0; 4]).unwrap();
}

#[test]
fn a_client_that_pauses_is_waited_for() {
    let lab = Lab::new();
    waits(&lab.server, &lab.client, &lab.reports);
}

#[test]
fn a_server_that_pauses_is_waited_for() {
    let lab = Lab::new();
    waits(&lab.client, &lab.server, &lab.reports);
}

#[test]
fn a_client_that_pauses_while_a_little_comes_is_waited_for() {
    let lab = Lab::new();
    // More than the client's kernel takes, and less than makes the relay wait.
    let mut written = 150_000;
    (&lab.server).write_all(&vec![7; written]).unwrap();
    let began = BootClock.now().boot;
    while BootClock.now().boot.since(began) < LONG_AFTER {
        (&lab.server).write_all(&[7; 100]).unwrap();
        written += 100;
        let over = lab.reports.recv_timeout(Duration::from_millis(20));
        assert_eq!(over, Err(RecvTimeoutError::Timeout));
    }
    (&lab.client).read_exact(&mut vec![0; written]).unwrap();
}

#[test]
fn many_clients_that_pause_are_waited_for() {
    let lab = Lab::new();
    let flows: Vec<_> = (2..=MANY).map(|key| carried(&lab.relay, key)).collect();
    for (_, server) in &flows {
        (&*server).write_all(&[7; 150_000]).unwrap();
    }
    let over = lab.reports.recv_timeout(LONG_AFTER);
    assert_eq!(over, Err(RecvTimeoutError::Timeout));
}

/// From here on `socket` takes no packet, not even to answer it: for its peer it is gone.
fn vanish(socket: &TcpStream) {
    let nothing = [SockFilter::new(TAKE, 0, 0, 0)];
    SockRef::from(socket).attach_filter(&nothing).unwrap();
}

#[test]
fn a_client_that_is_gone_ends_its_flow() {
    let lab = Lab::new();
    vanish(&lab.client);
    (&lab.server).write_all(b"x").unwrap();
    let how = lab.reports.recv_timeout(PATIENCE).unwrap();
    assert_eq!(how, Finish::NetworkError);
}

#[test]
fn a_client_that_is_gone_after_a_pause_ends_its_flow() {
    let lab = Lab::new();
    fill(&lab.server);
    // The kernel asks for room at twice the distance each time: after a longer pause it notices later.
    let over = lab.reports.recv_timeout(USER_TIMEOUT * 2);
    assert_eq!(over, Err(RecvTimeoutError::Timeout));
    vanish(&lab.client);
    let how = lab.reports.recv_timeout(PATIENCE).unwrap();
    assert_eq!(how, Finish::NetworkError);
}
