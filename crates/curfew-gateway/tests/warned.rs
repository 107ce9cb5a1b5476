//! When a PostgreSQL client is warned of its end: in time, once it can hear it, and never before.
#![cfg(test)]

mod support;

use std::{io::Write, time::Duration};

use curfew_model::Clock;
use curfew_testkit::{BootClock, Limited};
use support::{
    Lab, PATIENCE, eventually,
    server::server,
    wire::{Wire, listener, says, serve, startup},
};

#[test]
fn an_idle_client_is_warned_on_the_wire_and_told_at_the_end() {
    let (_server, upstream) = server();
    let limits = Limited {
        max_lifetime: Some(Duration::from_millis(1500)),
        warn_before: Some(Duration::from_secs(1)),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "warned");
    says(wire.next(), b'N', "01000", "lifetime_expired");
    assert!(
        !lab.door_is_empty(),
        "the warning came with the end, not before it"
    );
    says(wire.next(), b'E', "57P01", "lifetime_expired");
    assert!(wire.next().is_none());
    assert!(lab.warned());
}

#[test]
fn a_warning_that_is_due_before_a_login_is_finished_comes_right_after_it() {
    let (listener, upstream) = listener();
    let limits = Limited {
        max_lifetime: Some(PATIENCE),
        warn_before: Some(PATIENCE - Duration::from_millis(1)),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let mut wire = Wire::connect(lab.address());
    wire.0.write_all(&startup("postgres", "soon")).unwrap();
    lab.opened();
    let opened = BootClock.now().boot;
    eventually("the warning is due", PATIENCE, || {
        BootClock.now().boot.since(opened) > Duration::from_millis(20)
    });
    let _server = serve(&listener);
    for kind in [b'R', b'K', b'Z'] {
        assert_eq!(wire.next().unwrap().0, kind);
    }
    says(wire.next(), b'N', "01000", "lifetime_expired");
    assert!(lab.warned());
}

#[test]
fn a_login_that_is_not_finished_is_not_warned_and_told_at_the_end() {
    let (listener, upstream) = listener();
    let limits = Limited {
        max_lifetime: Some(Duration::from_millis(500)),
        warn_before: Some(Duration::from_millis(400)),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let mut wire = Wire::connect(lab.address());
    wire.0.write_all(&startup("postgres", "login")).unwrap();
    let (_kept, _) = listener.accept().unwrap();
    says(wire.next(), b'E', "57P01", "lifetime_expired");
    assert!(!lab.warned());
}
