//! PostgreSQL through the gateway, with the real server and the real psql.
#![cfg(test)]

mod support;

use std::{
    io::Write,
    process::{Child, ChildStdin, Output, Stdio},
    sync::Arc,
    time::Duration,
};

use curfew_gateway::connect::UpstreamAddress;
use curfew_model::EndReason;
use curfew_testkit::{DENIED, Limited, Postgres};
use support::{Lab, PATIENCE, eventually};

const SECOND: Duration = Duration::from_secs(1);

fn server() -> (Arc<Postgres>, UpstreamAddress) {
    let server = Postgres::shared().unwrap();
    let upstream = UpstreamAddress::Tcp(server.address());
    (server, upstream)
}

/// psql through the gateway that runs one command; `name` is its application name.
fn psql(lab: &Lab, server: &Postgres, name: &str, sql: &str) -> std::process::Command {
    let mut psql = server.psql(lab.address(), "postgres");
    psql.env("PGAPPNAME", name)
        .args(["-v", "VERBOSITY=verbose", "-c", sql])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    psql
}

/// psql through the gateway that waits for what it is told.
fn prompt(lab: &Lab, server: &Postgres) -> (Child, ChildStdin) {
    let mut psql = server.psql(lab.address(), "postgres");
    psql.args(["-v", "VERBOSITY=verbose"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = psql.spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    (child, stdin)
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Nothing of the application `name` is left in the server, within a second.
fn nothing_left(server: &Postgres, name: &str) {
    let sql = format!("select count(*) from pg_stat_activity where application_name = '{name}'");
    eventually("the backend is gone", SECOND, || {
        server.query(&sql).unwrap() == "0"
    });
}

fn running(server: &Postgres, name: &str) {
    let sql = format!(
        "select count(*) from pg_stat_activity where application_name = '{name}' and state = 'active'"
    );
    eventually("the query runs", PATIENCE, || {
        server.query(&sql).unwrap() == "1"
    });
}

#[test]
fn a_query_goes_through_over_tcp_and_over_a_unix_socket() {
    let (server, upstream) = server();
    for upstream in [upstream, UpstreamAddress::Unix(server.socket())] {
        let lab = Lab::new(upstream, Limited::default());
        let output = psql(&lab, &server, "through", "select 6 * 7")
            .output()
            .unwrap();
        assert_eq!(
            (stdout(&output), stderr(&output)),
            ("42".to_owned(), String::new())
        );
        assert_eq!(lab.ended(), EndReason::ClosedByClient);
    }
}

#[test]
fn a_running_query_ends_with_the_lifetime_and_psql_says_why() {
    let (server, upstream) = server();
    let limits = Limited {
        max_lifetime: Some(SECOND),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let child = psql(&lab, &server, "lifetime", "select pg_sleep(600)")
        .spawn()
        .unwrap();
    let id = lab.opened();
    assert_eq!(lab.ended(), EndReason::LifetimeExpired);
    nothing_left(&server, "lifetime");
    let error = stderr(&child.wait_with_output().unwrap());
    assert!(
        error.contains("FATAL:  57P01: curfew: session ended"),
        "{error}"
    );
    assert!(error.contains("(lifetime_expired)"), "{error}");
    assert!(error.contains(&format!("session {id}")), "{error}");
}

#[test]
fn an_idle_prompt_is_told_why_with_its_next_command() {
    let (server, upstream) = server();
    let limits = Limited {
        idle_timeout: Some(SECOND),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let (child, mut stdin) = prompt(&lab, &server);
    stdin.write_all(b"select 'before';\n").unwrap();
    assert_eq!(lab.ended(), EndReason::IdleTimeout);
    stdin.write_all(b"select 'after';\n").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    let error = stderr(&output);
    assert!(stdout(&output).starts_with("before"), "{output:?}");
    assert!(
        error.contains("FATAL:  57P05: curfew: session ended"),
        "{error}"
    );
    assert!(error.contains("(idle_timeout)"), "{error}");
}

#[test]
fn a_cancelled_session_ends_at_once_with_its_query() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let child = psql(&lab, &server, "cancelled", "select pg_sleep(600)")
        .spawn()
        .unwrap();
    let id = lab.opened();
    running(&server, "cancelled");
    lab.cancel(id);
    nothing_left(&server, "cancelled");
    assert_eq!(lab.ended(), EndReason::SessionCancelled);
    let error = stderr(&child.wait_with_output().unwrap());
    assert!(error.contains("(session_cancelled)"), "{error}");
}

#[test]
fn the_denied_are_told_so() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let output = server
        .psql(lab.address(), DENIED)
        .args(["-c", "select 1"])
        .output()
        .unwrap();
    let error = stderr(&output);
    assert!(error.contains("FATAL:  curfew: session refused"), "{error}");
    assert!(error.contains("(access_denied)"), "{error}");
    assert!(error.contains("HINT:"), "{error}");
}
