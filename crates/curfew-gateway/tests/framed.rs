//! The relay's framed mode over real sockets, with the smallest protocol: a length of four bytes, then so many bytes.
#![cfg(test)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use curfew_gateway::relay::{
    Broken, Bytes, Cut, Ending, Finish, Finished, Flow, Framing, Opened, Relay, RelayConfig, Side,
};
use curfew_model::{BootInstant, Clock};
use curfew_testkit::{BootClock, StillClock, connected};
use socket2::{Domain, Socket, Type};

const PATIENCE: Duration = Duration::from_secs(60);
/// A counter that does not move for so long stands still.
const STILL: Duration = Duration::from_millis(500);
/// Longer than what the relay holds back, and than what sockets take.
const LONG: usize = 16 << 20;

struct Report(Sender<(Finish, Bytes)>);

impl Finished for Report {
    fn finished(&self, _key: u64, how: Finish, bytes: Bytes) {
        let _ = self.0.send((how, bytes));
    }
}

#[derive(Default)]
struct Walker {
    header: Vec<u8>,
    left: usize,
}

impl Walker {
    fn walk(&mut self, bytes: &[u8]) -> Result<Cut, Broken> {
        let mut complete = 0;
        let mut at = 0;
        while at < bytes.len() {
            if self.header.len() < 4 {
                self.header.push(bytes[at]);
                at += 1;
                if self.header.len() == 4 {
                    self.left = u32::from_be_bytes(self.header[..].try_into().unwrap()) as usize;
                    if self.left > 1 << 30 {
                        return Err(Broken);
                    }
                }
            } else {
                let take = self.left.min(bytes.len() - at);
                at += take;
                self.left -= take;
            }
            if self.header.len() == 4 && self.left == 0 {
                self.header.clear();
                complete = at;
            }
        }
        let remaining = match self.header.len() {
            0 => 0,
            4 => self.left,
            cut => 4 - cut,
        };
        Ok(Cut {
            complete,
            remaining,
        })
    }
}

struct Lengths {
    inbound: Walker,
    outbound: Walker,
    working: Arc<AtomicBool>,
    over: Sender<Finish>,
}

impl Framing for Lengths {
    fn inbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken> {
        self.inbound.walk(bytes)
    }
    fn outbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken> {
        self.outbound.walk(bytes)
    }
    fn working(&self) -> bool {
        self.working.load(Ordering::Relaxed)
    }
    fn takes_notices(&self) -> bool {
        true
    }
    fn took_leave(&self) -> bool {
        false
    }
    fn last_words(&self) -> Vec<u8> {
        message(b"broken")
    }
    fn over(&mut self, how: Finish) {
        // The test may be over.
        let _ = self.over.send(how);
    }
}

struct Lab {
    client: TcpStream,
    server: TcpStream,
    flow: Flow,
    clock: Arc<StillClock>,
    working: Arc<AtomicBool>,
    over: Receiver<Finish>,
    reports: Receiver<(Finish, Bytes)>,
    _relay: Relay,
}

impl Lab {
    fn new() -> Self {
        Self::between(connected(), connected())
    }

    fn between(
        (client, near): (TcpStream, TcpStream),
        (far, server): (TcpStream, TcpStream),
    ) -> Self {
        let (sender, reports) = channel();
        let (over_sender, over) = channel();
        let (clock, working) = (Arc::new(StillClock::default()), Arc::default());
        let relay = Relay::start(
            RelayConfig::default(),
            clock.clone(),
            Arc::new(Report(sender)),
        )
        .unwrap();
        let opened = Opened {
            framing: Box::new(Lengths {
                inbound: Walker::default(),
                outbound: Walker::default(),
                working: Arc::clone(&working),
                over: over_sender,
            }),
            opening: b"hello".to_vec(),
            rest: message(b"first"),
        };
        let flow = relay
            .adopt_framed(OwnedFd::from(near), OwnedFd::from(far), 1, opened)
            .unwrap();
        let mut lab = Self {
            client,
            server,
            flow,
            clock,
            working,
            over,
            reports,
            _relay: relay,
        };
        let mut opening = [0; 14];
        lab.server.read_exact(&mut opening).unwrap();
        assert_eq!(&opening, b"hello\0\0\0\x05first");
        lab
    }

    fn report(&self) -> (Finish, Bytes) {
        self.reports.recv_timeout(PATIENCE).unwrap()
    }
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes().to_vec();
    out.extend(payload);
    out
}

/// The next message; none at the end of the stream.
fn receive(mut from: &TcpStream) -> Option<Vec<u8>> {
    let mut header = [0; 4];
    match from.read(&mut header).unwrap() {
        0 => return None,
        read => from.read_exact(&mut header[read..]).unwrap(),
    }
    let mut payload = vec![0; u32::from_be_bytes(header) as usize];
    from.read_exact(&mut payload).unwrap();
    Some(payload)
}

fn next(state: &mut u64) -> usize {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as usize
}

#[test]
fn messages_of_all_sizes_in_all_chunks_stay_whole_and_notices_fall_between_them() {
    for seed in 1..=8_u64 {
        let mut state = seed;
        let sizes = [0, 1, 3, 300, 16_379, 16_380, 16_381, 131_072, 700_000];
        let messages: Vec<Vec<u8>> = (0..400)
            .map(|number| vec![number as u8; sizes[next(&mut state) % sizes.len()]])
            .collect();
        let stream: Vec<u8> = messages
            .iter()
            .flat_map(|payload| message(payload))
            .collect();
        let lab = Lab::new();
        std::thread::scope(|scope| {
            let send = |mut to: &TcpStream, mut state: u64| {
                let mut rest = &stream[..];
                while !rest.is_empty() {
                    let limit = [7, 2_000, 90_000, 1 << 20][next(&mut state) % 4];
                    let size = (1 + next(&mut state) % limit).min(rest.len());
                    to.write_all(&rest[..size]).unwrap();
                    rest = &rest[size..];
                }
                to.shutdown(Shutdown::Write).unwrap();
            };
            scope.spawn(move || send(&lab.server, seed));
            scope.spawn(|| (0..40).for_each(|_| lab.flow.notice(message(b"notice"))));
            let mut expected = messages.iter();
            let mut notices = 0;
            while let Some(payload) = receive(&lab.client) {
                if payload == b"notice" {
                    notices += 1;
                } else {
                    assert_eq!(Some(&payload), expected.next(), "seed {seed}");
                }
            }
            assert_eq!(expected.next(), None, "seed {seed}");
            assert!(notices > 0, "seed {seed}");
        });
    }
}

#[test]
fn what_a_client_sends_arrives_whole() {
    let lab = Lab::new();
    let stream: Vec<u8> = (0..200)
        .flat_map(|n| message(&vec![n as u8; n * 997]))
        .collect();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            stream
                .chunks(7_919)
                .for_each(|c| (&lab.client).write_all(c).unwrap())
        });
        let mut received = vec![0; stream.len()];
        (&lab.server).read_exact(&mut received).unwrap();
        assert_eq!(received, stream);
    });
}

#[test]
fn an_ended_client_reads_the_last_whole_message_then_the_goodbye() {
    let mut lab = Lab::new();
    lab.server.write_all(&message(b"whole")).unwrap();
    // The beginning of another that never comes.
    lab.server.write_all(&message(b"half of it")[..9]).unwrap();
    assert_eq!(receive(&lab.client).unwrap(), b"whole");
    assert_eq!(
        lab.flow.end_saying(&message(b"goodbye")),
        Ending::SaidGoodbye
    );
    assert_eq!(lab.flow.end_saying(&message(b"goodbye")), Ending::WasOver);
    assert_eq!(receive(&lab.client).unwrap(), b"goodbye");
    assert_eq!(receive(&lab.client), None);
    assert_eq!(lab.over.recv_timeout(PATIENCE).unwrap(), Finish::Ended);
    let error = lab.server.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    drop(lab.client);
    let expected = Bytes {
        inbound: 14,
        outbound: 9,
    };
    assert_eq!(
        lab.reports.recv_timeout(PATIENCE).unwrap(),
        (Finish::Ended, expected)
    );
}

#[test]
fn a_client_that_does_not_leave_after_its_goodbye_is_reset() {
    let lab = Lab::new();
    assert_eq!(
        lab.flow.end_saying(&message(b"goodbye")),
        Ending::SaidGoodbye
    );
    assert_eq!(lab.over.recv_timeout(PATIENCE).unwrap(), Finish::Ended);
    assert_eq!(lab.report().0, Finish::Ended);
    assert_eq!(receive(&lab.client).unwrap(), b"goodbye");
    // While it is given time, its socket takes what it writes.
    (&lab.client).write_all(b"x").unwrap();
    assert_eq!(lab.client.take_error().unwrap().map(|e| e.kind()), None);
    lab.clock.set(2_000_000_000);
    // Any event makes the loop look at the clock; it does so by itself within the second.
    let began = BootClock.now().boot;
    while (&lab.client).write_all(b"x").is_ok() {
        assert!(BootClock.now().boot.since(began) < PATIENCE, "never reset");
    }
}

#[test]
fn i1_inside_a_long_message_there_is_no_goodbye() {
    let mut lab = Lab::new();
    lab.server
        .write_all(&message(&vec![1; LONG])[..100_000])
        .unwrap();
    lab.client.read_exact(&mut vec![0; 100_000]).unwrap();
    assert_eq!(lab.flow.end_saying(&message(b"goodbye")), Ending::Reset);
    let error = lab.client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    assert_eq!(lab.report().0, Finish::Ended);
}

#[test]
fn i1_to_a_client_that_does_not_read_there_is_no_goodbye() {
    let lab = Lab::new();
    std::thread::scope(|scope| {
        scope.spawn(|| while (&lab.server).write_all(&message(&[1; 5_000])).is_ok() {});
        // The counter stands still once every buffer on the way is full.
        let (mut last, mut since) = (0, BootClock.now().boot);
        while last == 0 || BootClock.now().boot.since(since) < STILL {
            let now = lab.flow.bytes().outbound;
            if now != last {
                (last, since) = (now, BootClock.now().boot);
            }
            std::thread::yield_now();
        }
        assert_eq!(lab.flow.end_saying(&message(b"goodbye")), Ending::Reset);
    });
    assert_eq!(lab.report().0, Finish::Ended);
}

/// Waits until the flow's last activity is `at`; the loop sets it just after the bytes went.
fn activity_becomes(flow: &Flow, at: u64) {
    let looks = (0..20_000_000).map(|_| std::thread::yield_now());
    let found = looks
        .into_iter()
        .any(|()| flow.last_activity() == BootInstant(at));
    assert!(
        found,
        "the last activity is {:?}, not {at}",
        flow.last_activity()
    );
}

#[test]
fn i1_over_bytes_that_the_kernel_still_holds_there_is_no_goodbye() {
    // A client with a small window, whose kernel takes far less than the relay's kernel does.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let small = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    small.set_recv_buffer_size(4096).unwrap();
    small
        .connect(&listener.local_addr().unwrap().into())
        .unwrap();
    let near = listener.accept().unwrap().0;
    let lab = Lab::between((small.into(), near), connected());
    let sent = message(&[1; 1_000]).repeat(64);
    (&lab.server).write_all(&sent).unwrap();
    let looks = (0..20_000_000).map(|_| std::thread::yield_now());
    let all = looks
        .into_iter()
        .any(|()| lab.flow.bytes().outbound == sent.len() as u64);
    assert!(all, "the relay's kernel does not take {} bytes", sent.len());
    assert_eq!(lab.flow.end_saying(&message(b"goodbye")), Ending::Reset);
}

#[test]
fn an_upstream_at_work_is_activity() {
    let mut lab = Lab::new();
    lab.clock.set(77);
    lab.working.store(true, Ordering::Relaxed);
    lab.server.write_all(&message(b"x")).unwrap();
    activity_becomes(&lab.flow, 77);
    lab.clock.set(99);
    activity_becomes(&lab.flow, 99);
    lab.working.store(false, Ordering::Relaxed);
    lab.server.write_all(&message(b"y")).unwrap();
    receive(&lab.client).unwrap();
    receive(&lab.client).unwrap();
    lab.clock.set(111);
    activity_becomes(&lab.flow, 99);
}

const TOLD: Finish = Finish::ProtocolError {
    by: Side::Upstream,
    told: true,
};
const UNTOLD: Finish = Finish::ProtocolError {
    by: Side::Client,
    told: false,
};

#[test]
fn at_a_boundary_the_client_is_told_of_a_broken_message() {
    let mut lab = Lab::new();
    lab.server.write_all(&[0xff; 4]).unwrap();
    assert_eq!(receive(&lab.client).unwrap(), b"broken");
    assert_eq!(lab.client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(lab.over.recv_timeout(PATIENCE).unwrap(), TOLD);
    let error = lab.server.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    drop(lab.client.shutdown(Shutdown::Write));
    assert_eq!(lab.report().0, TOLD);
}

#[test]
fn inside_a_message_a_broken_one_resets_both() {
    let mut lab = Lab::new();
    // Too long to be held back, so that its beginning is on the wire.
    let long = message(&[7; 20_000]);
    let (begun, _) = long.split_at(18_000);
    lab.server.write_all(begun).unwrap();
    let mut seen = vec![0; begun.len()];
    lab.client.read_exact(&mut seen).unwrap();
    lab.client.write_all(&[0xff; 4]).unwrap();
    assert_eq!(lab.over.recv_timeout(PATIENCE).unwrap(), UNTOLD);
    assert_eq!(lab.report().0, UNTOLD);
    let error = lab.client.read(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn a_session_without_its_upstream_is_over() {
    let mut lab = Lab::new();
    lab.server.write_all(&message(b"last")).unwrap();
    drop(lab.server);
    assert_eq!(receive(&lab.client).unwrap(), b"last");
    assert_eq!(receive(&lab.client), None);
    assert_eq!(
        lab.over.recv_timeout(PATIENCE).unwrap(),
        Finish::ClosedByServer
    );
    drop(lab.client);
    assert_eq!(
        lab.reports.recv_timeout(PATIENCE).unwrap().0,
        Finish::ClosedByServer
    );
}
