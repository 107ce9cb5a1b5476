//! What a session leaves behind in the real server: nothing, however it ends and whatever it was at.
#![cfg(test)]

mod support;

use std::{io::Write, time::Duration};

use curfew_model::EndReason;
use curfew_testkit::Limited;
use support::{
    Lab, PATIENCE, eventually,
    server::{nothing_left, running, server},
    wire::{Wire, frame, query},
};

#[test]
fn a_shutdown_cancels_what_runs() {
    let (server, upstream) = server();
    let mut lab = Lab::new(upstream, Limited::default());
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "shutdown");
    wire.query("select pg_sleep(600)");
    running(&server, "shutdown");
    lab.shut_down();
    nothing_left(&server, "shutdown");
    assert_eq!(lab.ended(), EndReason::Shutdown);
}

#[test]
fn many_queries_that_end_at_once_are_all_cancelled() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let mut wires = Vec::new();
    for _ in 0..90 {
        let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "many");
        wire.query("select pg_sleep(600)");
        wires.push((wire, lab.opened()));
    }
    let sql = "select count(*) from pg_stat_activity where application_name = 'many' and state = 'active'";
    eventually("all queries run", PATIENCE, || {
        server.query(sql).unwrap() == "90"
    });
    for (_, id) in &wires {
        lab.cancel(*id);
    }
    nothing_left(&server, "many");
    for (wire, _) in &mut wires {
        let told = std::iter::from_fn(|| wire.next()).last().unwrap().1;
        assert!(told.contains("(session_cancelled)"), "{told}");
    }
}

/// A session is cancelled while `sql` runs: nothing of it is left.
fn leaves_nothing(name: &str, sql: &str) {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", name);
    wire.query(sql);
    running(&server, name);
    lab.cancel(lab.opened());
    nothing_left(&server, name);
}

#[test]
fn a_statement_that_catches_its_cancel_is_cancelled_again() {
    let sql = "do $$ begin
            begin perform pg_sleep(600); exception when query_canceled then null; end;
            perform pg_sleep(600);
        end $$";
    leaves_nothing("catches", sql);
}

/// What the guide says of `client_connection_check_interval`.
#[test]
fn a_statement_that_catches_every_cancel_ends_where_the_server_looks_for_its_client() {
    let sql = "set client_connection_check_interval = '100ms';
        do $$ begin loop
            begin perform pg_sleep(600); exception when query_canceled then null; end;
        end loop; end $$";
    leaves_nothing("stubborn", sql);
}

/// A client that asks for `sql`, says Terminate behind it and is gone.
fn ask_and_leave(lab: &Lab, name: &str, sql: &str) {
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", name);
    let asked = [query(sql), frame(b'X', b"")].concat();
    wire.0.write_all(&asked).unwrap();
}

#[test]
fn a_query_whose_client_has_said_terminate_and_left_is_a_session_until_its_end() {
    let (server, upstream) = server();
    let limits = Limited {
        max_lifetime: Some(Duration::from_secs(2)),
        warn_before: Some(Duration::from_secs(1)),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    ask_and_leave(&lab, "left", "select pg_sleep(600)");
    // The warning would be answered by a reset.
    assert_eq!(lab.ended(), EndReason::LifetimeExpired);
    nothing_left(&server, "left");
}

#[test]
fn a_query_whose_client_has_left_ends_when_its_rows_reach_nobody() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let sql = "select generate_series(1, 100000); select pg_sleep(600)";
    ask_and_leave(&lab, "rows", sql);
    assert_eq!(lab.ended(), EndReason::ClosedByClient);
    nothing_left(&server, "rows");
}
