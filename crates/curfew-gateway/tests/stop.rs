//! What clients get that wait in the kernel's queue when a service stops.
#![cfg(test)]

mod support;

use std::{
    io::{ErrorKind, Read, Write},
    net::{TcpListener, TcpStream},
};

use curfew_gateway::protocol::Protocol;
use curfew_model::{EndReason, UpstreamAddress};
use curfew_testkit::Limited;
use support::{
    Heard, Lab,
    wire::{Wire, says, startup},
};

/// More than are turned away in one turn.
const QUEUED: usize = 100;

/// An upstream that nobody gets to.
fn nowhere() -> UpstreamAddress {
    let gone = TcpListener::bind("127.0.0.1:0").unwrap();
    UpstreamAddress::Tcp(gone.local_addr().unwrap())
}

/// Stops a service that has QUEUED clients in the kernel's queue and takes nobody else: these clients.
fn stopped_with_a_queue(lab: &mut Lab) -> Vec<Wire> {
    let held = |to| {
        let mut wire = Wire::connect(to);
        wire.0.write_all(&startup("postgres", "first")).unwrap();
        wire
    };
    let (_, clients) = lab.while_held_up(held, |lab| {
        let queued: Vec<Wire> = (0..QUEUED).map(|_| Wire::connect(lab.address())).collect();
        lab.stop();
        TcpStream::connect(lab.address()).unwrap_err();
        queued
    });
    for _ in 0..QUEUED {
        lab.wait("each", |heard| match heard {
            Heard::TurnedAway(away) if away.reason == EndReason::Shutdown => Some(()),
            _ => None,
        });
    }
    clients
}

#[test]
fn clients_that_nobody_has_accepted_yet_are_told_of_a_shutdown() {
    let mut lab = Lab::with(nowhere(), Limited::default(), |config| {
        config.max_connections = 0;
        config.max_waiting = 1;
    });
    for mut wire in stopped_with_a_queue(&mut lab) {
        says(wire.next(), b'E', "57P03", "shutdown");
        assert!(wire.next().is_none());
    }
}

#[test]
fn tcp_clients_that_nobody_has_accepted_yet_are_on_record_when_it_stops() {
    let mut lab = Lab::with(nowhere(), Limited::default(), |config| {
        config.protocol = Protocol::Tcp;
        config.max_connections = 0;
    });
    for mut wire in stopped_with_a_queue(&mut lab) {
        let end = wire.0.read(&mut [0]).unwrap_err();
        assert_eq!(end.kind(), ErrorKind::ConnectionReset);
    }
}
