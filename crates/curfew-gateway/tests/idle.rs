//! Idleness against a client that would pass its own silence off as work of the server.
#![cfg(test)]

mod support;

use std::{io::Write as _, time::Duration};

use curfew_model::UpstreamAddress;
use curfew_testkit::{Limited, Postgres};
use support::{
    Lab,
    wire::{Wire, frame, says},
};

#[test]
fn what_the_server_skips_after_an_error_keeps_no_session_alive() {
    let server = Postgres::shared().unwrap();
    let limits = Limited {
        idle_timeout: Some(Duration::from_millis(500)),
        ..Limited::default()
    };
    let lab = Lab::new(UpstreamAddress::Tcp(server.address()), limits);
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "skipped");
    let flush = frame(b'H', b"");
    let wrong = frame(b'P', b"\0no statement\0\0\0");
    wire.0.write_all(&[wrong, flush.clone()].concat()).unwrap();
    let (kind, text) = wire.next().unwrap();
    assert_eq!(kind, b'E', "{text}");
    // Until a Sync the server reads neither of these.
    let execute = frame(b'E', b"\0\0\0\0\0");
    let query = frame(b'Q', b"select pg_sleep(60)\0");
    wire.0.write_all(&[execute, flush, query].concat()).unwrap();
    says(wire.next(), b'E', "57P05", "idle_timeout");
}
