//! A flow's own deadline: what the relay does where whoever should end the flow comes late (invariant I1).
#![cfg(test)]
#![allow(
    clippy::unwrap_used,
    reason = "a test helper that cannot go on fails its test"
)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use curfew_gateway::relay::{
    Broken, Bytes, Cut, Finish, Finished, Flow, Framing, Opened, Relay, RelayConfig,
};
use curfew_model::BootInstant;
use curfew_testkit::{StillClock, connected};

struct Nobody;

impl Finished for Nobody {
    fn finished(&self, _key: u64, _how: Finish, _bytes: Bytes) {}
}

/// A protocol in which each byte is a message.
struct EachByte;

impl Framing for EachByte {
    fn inbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken> {
        Ok(Cut {
            complete: bytes.len(),
            remaining: 0,
        })
    }
    fn outbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken> {
        self.inbound(bytes)
    }
    fn working(&self) -> bool {
        false
    }
    fn takes_notices(&self) -> bool {
        true
    }
    fn took_leave(&self) -> bool {
        false
    }
    fn last_words(&self) -> Vec<u8> {
        Vec::new()
    }
    fn over(&mut self, _how: Finish) {}
}

/// Both outer ends of a flow, and its handle.
struct Ends {
    client: TcpStream,
    server: TcpStream,
    flow: Flow,
}

/// A relay of one loop, with a flow beside the one that is looked at: what goes through it after an event says that
/// the loop has seen the event.
struct Lab {
    clock: Arc<StillClock>,
    fence: Ends,
    relay: Relay,
}

impl Lab {
    fn new() -> Self {
        let clock = Arc::new(StillClock::default());
        let config = RelayConfig {
            threads: 1,
            ..RelayConfig::default()
        };
        let relay = Relay::start(config, clock.clone(), Arc::new(Nobody)).unwrap();
        let fence = carry(&relay, 1, None);
        Self {
            clock,
            fence,
            relay,
        }
    }

    fn pass_the_fence(&mut self) {
        for _ in 0..2 {
            self.fence.client.write_all(b"f").unwrap();
            self.fence.server.read_exact(&mut [0]).unwrap();
        }
    }

    fn holds(&mut self, mut ends: Ends) {
        self.clock.set(99);
        ends.flow.hold_until(Some(BootInstant(100)));
        ends.server.write_all(b"in time").unwrap();
        assert_eq!(take(&mut ends.client, 7), b"in time");

        self.clock.set(100);
        ends.server.write_all(b"late").unwrap();
        ends.client.write_all(b"asked late").unwrap();
        self.pass_the_fence();
        // Behind what was read by then; before bytes that were not, a notice would go first.
        ends.flow.notice(b"notice".to_vec());
        self.pass_the_fence();
        assert_eq!(ends.flow.bytes().outbound, 7);
        assert_eq!(ends.flow.bytes().inbound, 0);
        assert!(has_nothing(&mut ends.client) && has_nothing(&mut ends.server));

        // Renewed after all: nothing of it is lost.
        ends.flow.hold_until(Some(BootInstant(200)));
        assert_eq!(take(&mut ends.client, 4), b"late");
        assert_eq!(take(&mut ends.server, 10), b"asked late");

        self.clock.set(u64::MAX - 1);
        ends.client.shutdown(Shutdown::Write).unwrap();
        ends.server.write_all(&[7; 100_000]).unwrap();
        self.pass_the_fence();
        assert_eq!(ends.flow.bytes().outbound, 11);
        assert!(has_nothing(&mut ends.server), "the end was passed on");
        assert!(ends.flow.end());
    }
}

fn carry(relay: &Relay, key: u64, framing: Option<Box<dyn Framing>>) -> Ends {
    let ((client, near), (far, server)) = (connected(), connected());
    let (near, far) = (OwnedFd::from(near), OwnedFd::from(far));
    let flow = match framing {
        None => relay.adopt(near, far, key),
        Some(framing) => {
            let opened = Opened {
                framing,
                opening: Vec::new(),
                rest: Vec::new(),
            };
            relay.adopt_framed(near, far, key, opened)
        }
    };
    Ends {
        client,
        server,
        flow: flow.unwrap(),
    }
}

fn take(from: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut taken = vec![0; bytes];
    from.read_exact(&mut taken).unwrap();
    taken
}

fn has_nothing(socket: &mut TcpStream) -> bool {
    socket.set_nonblocking(true).unwrap();
    let read = socket.read(&mut [0]);
    socket.set_nonblocking(false).unwrap();
    read.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn i1_past_its_deadline_a_flow_writes_nothing_until_that_moves() {
    let mut lab = Lab::new();
    let ends = carry(&lab.relay, 2, None);
    lab.holds(ends);
}

#[test]
fn i1_past_its_deadline_a_framed_flow_writes_nothing_until_that_moves() {
    let mut lab = Lab::new();
    let ends = carry(&lab.relay, 2, Some(Box::new(EachByte)));
    lab.holds(ends);
}
