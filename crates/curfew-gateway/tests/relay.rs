//! The relay over real sockets. Nothing here sleeps; reads are bounded by a timeout that only a failure meets.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test helper that cannot go on fails its test"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use curfew_gateway::relay::{AdoptError, Bytes, Finish, Finished, Flow, Relay, RelayConfig};
use curfew_model::BootInstant;
use curfew_testkit::{StillClock, connected};

const PATIENCE: Duration = Duration::from_secs(60);

struct Report(Sender<(u64, Finish, Bytes)>);

impl Finished for Report {
    fn finished(&self, key: u64, how: Finish, bytes: Bytes) {
        let _ = self.0.send((key, how, bytes));
    }
}

struct Lab {
    relay: Relay,
    clock: Arc<StillClock>,
    reports: Receiver<(u64, Finish, Bytes)>,
}

impl Lab {
    fn new(max_flows: usize) -> Self {
        let (sender, reports) = channel();
        let clock = Arc::new(StillClock::default());
        let config = RelayConfig {
            threads: 2,
            max_flows,
            ..RelayConfig::default()
        };
        let relay = Relay::start(config, clock.clone(), Arc::new(Report(sender))).unwrap();
        Self {
            relay,
            clock,
            reports,
        }
    }

    /// A client and a server with the relay between them.
    fn pair(&self, key: u64) -> (TcpStream, TcpStream, Flow) {
        let (client, near) = connected();
        let (far, server) = connected();
        let flow = self
            .relay
            .adopt(OwnedFd::from(near), OwnedFd::from(far), key)
            .unwrap();
        (client, server, flow)
    }

    fn report(&self) -> (u64, Finish, Bytes) {
        self.reports.recv_timeout(PATIENCE).unwrap()
    }
}

fn next(state: &mut u64) -> u64 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// Sends `total` bytes of a seeded stream in random chunks, then the end; returns their checksum.
fn send_stream(mut socket: &TcpStream, seed: u64, total: usize) -> u64 {
    let (mut state, mut left, mut sum) = (seed, total, 0_u64);
    let mut chunk = vec![0_u8; 200_000];
    while left > 0 {
        let limit = if next(&mut state).is_multiple_of(4) {
            200_000
        } else {
            9_000
        };
        let size = (1 + next(&mut state) as usize % limit).min(left);
        let fill = next(&mut state);
        for (at, byte) in chunk[..size].iter_mut().enumerate() {
            *byte = (fill as usize ^ at) as u8;
        }
        sum = checksum(sum, &chunk[..size]);
        socket.write_all(&chunk[..size]).unwrap();
        left -= size;
    }
    socket.shutdown(Shutdown::Write).unwrap();
    sum
}

fn receive_stream(mut socket: &TcpStream) -> (u64, usize) {
    let (mut sum, mut total) = (0, 0);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = socket.read(&mut buffer).unwrap();
        if read == 0 {
            return (sum, total);
        }
        sum = checksum(sum, &buffer[..read]);
        total += read;
    }
}

fn checksum(sum: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(sum, |sum, byte| {
        sum.wrapping_mul(0x0100_0000_01b3) ^ u64::from(*byte)
    })
}

#[test]
fn a_hundred_megabytes_both_ways_are_exact() {
    const TOTAL: usize = 100 << 20;
    let lab = Lab::new(10);
    let (client, server, flow) = lab.pair(1);
    std::thread::scope(|scope| {
        let up = scope.spawn(|| send_stream(&client, 1, TOTAL));
        let down = scope.spawn(|| send_stream(&server, 2, TOTAL));
        let at_client = scope.spawn(|| receive_stream(&client));
        let at_server = receive_stream(&server);
        assert_eq!(at_server, (up.join().unwrap(), TOTAL));
        assert_eq!(at_client.join().unwrap(), (down.join().unwrap(), TOTAL));
    });
    let all = Bytes {
        inbound: TOTAL as u64,
        outbound: TOTAL as u64,
    };
    let (key, how, bytes) = lab.report();
    assert_eq!((key, bytes, flow.bytes()), (1, all, all));
    assert!(matches!(
        how,
        Finish::ClosedByClient | Finish::ClosedByServer
    ));
    assert!(!flow.end(), "a finished flow cannot be ended again");
}

#[test]
fn a_half_closed_client_still_receives() {
    let lab = Lab::new(10);
    let (mut client, mut server, _flow) = lab.pair(1);
    client.write_all(b"question").unwrap();
    client.shutdown(Shutdown::Write).unwrap();
    let mut question = String::new();
    server.read_to_string(&mut question).unwrap();
    server.write_all(b"answer").unwrap();
    drop(server);
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert_eq!((question.as_str(), answer.as_str()), ("question", "answer"));
    let bytes = Bytes {
        inbound: 8,
        outbound: 6,
    };
    assert_eq!(lab.report(), (1, Finish::ClosedByClient, bytes));
}

#[test]
fn a_server_that_closes_first_is_named() {
    let lab = Lab::new(10);
    let (mut client, server, _flow) = lab.pair(1);
    drop(server);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    drop(client);
    assert_eq!(lab.report().1, Finish::ClosedByServer);
}

#[test]
fn a_peer_reset_is_passed_on() {
    let lab = Lab::new(10);
    let (mut client, server, _flow) = lab.pair(1);
    socket2::SockRef::from(&server)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(server);
    assert_eq!(
        client.read(&mut [0; 8]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(lab.report().1, Finish::NetworkError);
}

#[test]
fn activity_is_payload_and_its_time_is_the_clock_s() {
    let lab = Lab::new(10);
    let (mut client, mut server, flow) = lab.pair(1);
    assert_eq!(flow.last_activity(), BootInstant(0));
    lab.clock.set(77);
    client.write_all(b"x").unwrap();
    server.read_exact(&mut [0]).unwrap();
    drop((client, server));
    lab.report();
    assert_eq!(flow.last_activity(), BootInstant(77));
}

#[test]
fn i1_after_the_end_nothing_is_written_and_the_client_is_reset() {
    let lab = Lab::new(10);
    let (mut client, server, flow) = lab.pair(1);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let chunk = vec![1; 256 * 1024];
            while (&server).write_all(&chunk).is_ok() {}
        });
        let mut buffer = vec![0; 1 << 20];
        let mut received = 0;
        while received < 32 << 20 {
            received += client.read(&mut buffer).unwrap() as u64;
        }
        assert!(flow.end());
        let written = flow.bytes().outbound;
        let error = loop {
            match client.read(&mut buffer) {
                Ok(read) => received += read as u64,
                Err(error) => break error,
            }
            assert!(
                received <= written + (1 << 20),
                "bytes kept coming after the end"
            );
        };
        assert_eq!(error.kind(), ErrorKind::ConnectionReset);
        let (_, how, bytes) = lab.report();
        assert_eq!(how, Finish::Ended);
        assert!(
            received <= bytes.outbound,
            "the client got what was never counted"
        );
        assert!(!flow.end());
    });
}

#[test]
fn a_stalled_reader_stops_the_sender() {
    let lab = Lab::new(10);
    let (client, server, flow) = lab.pair(1);
    server
        .set_write_timeout(Some(Duration::from_secs(1)))
        .unwrap();
    let chunk = vec![1; 64 * 1024];
    let mut sent = 0_usize;
    while sent < 512 << 20 {
        match (&server).write(&chunk) {
            Ok(written) => sent += written,
            Err(_) => break,
        }
    }
    assert!(
        sent < 64 << 20,
        "{sent} bytes were taken from a sender whose reader stalls"
    );
    assert!(flow.end());
    assert_eq!(lab.report().1, Finish::Ended);
    drop(client);
}

#[test]
fn a_thousand_flows_carry_and_end_independently() {
    let lab = Lab::new(1_000);
    let mut flows: Vec<_> = (0..1_000).map(|key| lab.pair(key)).collect();
    for (client, server, _) in &mut flows {
        client.write_all(b"ping").unwrap();
        server.write_all(b"pong").unwrap();
    }
    for (client, server, _) in &mut flows {
        client.read_exact(&mut [0; 4]).unwrap();
        server.read_exact(&mut [0; 4]).unwrap();
    }
    let (near, far) = (connected().0, connected().0);
    let refused = lab.relay.adopt(near.into(), far.into(), 5_000);
    assert!(matches!(refused, Err(AdoptError::Full(1_000))));
    for (_, _, flow) in flows.iter().step_by(2) {
        assert!(flow.end());
    }
    for _ in 0..500 {
        let (key, how, _) = lab.report();
        assert_eq!((key % 2, how), (0, Finish::Ended));
    }
    for (client, server, _) in flows.iter_mut().skip(1).step_by(2) {
        client.write_all(b"still").unwrap();
        server.read_exact(&mut [0; 5]).unwrap();
    }
}

#[test]
fn shutdown_resets_what_the_drain_leaves() {
    let lab = Lab::new(10);
    let (mut client, _server, _flow) = lab.pair(1);
    lab.relay.shutdown(Duration::ZERO);
    assert_eq!(
        client.read(&mut [0; 8]).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(
        lab.reports.recv_timeout(PATIENCE).unwrap().1,
        Finish::Shutdown
    );
}
