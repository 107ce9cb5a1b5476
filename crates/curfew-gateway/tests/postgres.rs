//! PostgreSQL through the gateway, with the real server and the real psql.
#![cfg(test)]

mod support;

use std::{
    io::{Read, Write},
    net::TcpListener,
    process::{Child, ChildStdin, Command, Output, Stdio},
    time::Duration,
};

use curfew_enforcer::Door;
use curfew_model::{Clock, EndReason, EventKind, Reconnect, UpstreamAddress};
use curfew_testkit::{BootClock, DENIED, Limited, Postgres};
use support::{
    Heard, Lab, PATIENCE, eventually,
    server::{nothing_left, running, server},
    wire::Wire,
};

const SECOND: Duration = Duration::from_secs(1);

/// psql through the gateway that runs one command; `name` is its application name.
fn psql(lab: &Lab, server: &Postgres, name: &str, sql: &str) -> Command {
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
fn a_prompt_that_was_reset_meanwhile_is_told_all_the_same() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let (mut child, mut stdin) = prompt(&lab, &server);
    stdin.write_all(b"select 'ready';\n").unwrap();
    let mut ready = [0; 6];
    child
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    assert_eq!(&ready, b"ready\n");
    let at_prompt = lab.opened();
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "witness");
    let witness = lab.opened();
    lab.cancel(at_prompt);
    lab.cancel(witness);
    // What the witness sends is dropped until it is reset, and then the prompt was reset before it.
    eventually("the witness is reset", PATIENCE, || {
        wire.0.write_all(b"x").is_err()
    });
    stdin.write_all(b"select 1;\n").unwrap();
    drop(stdin);
    let error = stderr(&child.wait_with_output().unwrap());
    assert!(error.contains("(session_cancelled)"), "{error}");
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

#[test]
fn a_query_longer_than_the_idle_limit_is_not_idle() {
    let (server, upstream) = server();
    let limits = Limited {
        idle_timeout: Some(Duration::from_millis(700)),
        ..Limited::default()
    };
    let sql = "select 'slept' from pg_sleep(2)";
    let lab = Lab::new(upstream.clone(), limits);
    let output = psql(&lab, &server, "longer", sql).output().unwrap();
    assert_eq!(stdout(&output), "slept", "{output:?}");
    assert_eq!(lab.ended(), EndReason::ClosedByClient);

    let strict = Lab::with(upstream, limits, |config| config.busy_is_active = false);
    let output = psql(&strict, &server, "strict", sql).output().unwrap();
    assert!(stderr(&output).contains("(idle_timeout)"), "{output:?}");
    nothing_left(&server, "strict");
}

#[test]
fn a_copy_that_flows_is_not_idle_and_one_that_waits_is() {
    let (server, upstream) = server();
    let limits = Limited {
        idle_timeout: Some(SECOND),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let (child, mut stdin) = prompt(&lab, &server);
    stdin
        .write_all(b"create temp table t (line text);\ncopy t from stdin where false;\n")
        .unwrap();
    lab.opened();
    let lines = "a line of data that is thrown away\n".repeat(100);
    let start = BootClock.now().boot;
    while BootClock.now().boot.since(start) < 3 * SECOND {
        stdin.write_all(lines.as_bytes()).unwrap();
    }
    stdin.write_all(b"\\.\nselect 'copied';\n").unwrap();
    stdin.write_all(b"copy t from stdin;\none line\n").unwrap();
    assert_eq!(lab.ended(), EndReason::IdleTimeout);
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert_eq!(stdout(&output), "copied");
    assert!(stderr(&output).contains("57P05"), "{output:?}");
}

#[test]
fn a_copy_out_keeps_its_bytes() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let sql = "copy (select repeat(md5(i::text), (i % 700)::int) from generate_series(1, 4000) i) to stdout";
    let through = psql(&lab, &server, "copy", sql).output().unwrap();
    let direct = server
        .psql(server.address(), "postgres")
        .args(["-c", sql])
        .output()
        .unwrap();
    assert!(through.stdout.len() > 20 << 20);
    assert!(through.stdout == direct.stdout, "the copies differ");
}

#[test]
fn psql_shows_the_warning() {
    let (server, upstream) = server();
    let limits = Limited {
        max_lifetime: Some(Duration::from_secs(600)),
        warn_before: Some(Duration::from_secs(599)),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let sql = "select 'slept' from pg_sleep(2)";
    let output = psql(&lab, &server, "warned", sql).output().unwrap();
    assert_eq!(stdout(&output), "slept");
    let error = stderr(&output);
    assert!(
        error.contains("WARNING:  01000: curfew: this session ends in 9m59s"),
        "{error}"
    );
    assert!(error.contains("(lifetime_expired)"), "{error}");
}

#[test]
fn one_session_too_many_is_refused_by_policy_and_by_the_service() {
    let (server, upstream) = server();
    let limits = Limited {
        max_concurrent: Some(1),
        ..Limited::default()
    };
    let refused_with = |lab: &Lab| {
        let (child, stdin) = prompt(lab, &server);
        lab.opened();
        let output = psql(lab, &server, "second", "select 1").output().unwrap();
        drop(stdin);
        child.wait_with_output().unwrap();
        lab.ended();
        let again = psql(lab, &server, "third", "select 1").output().unwrap();
        assert_eq!(stdout(&again), "1", "{again:?}");
        stderr(&output)
    };
    let by_policy = refused_with(&Lab::new(upstream.clone(), limits));
    assert!(by_policy.contains("(concurrency_exceeded)"), "{by_policy}");
    let small = Lab::with(upstream, Limited::default(), |config| {
        config.max_connections = 1
    });
    let by_service = refused_with(&small);
    assert!(by_service.contains("(overloaded)"), "{by_service}");
}

#[test]
fn a_service_that_cannot_be_reached_is_named_as_such() {
    let (server, _) = server();
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let lab = Lab::new(UpstreamAddress::Tcp(nobody), Limited::default());
    let output = psql(&lab, &server, "unreachable", "select 1")
        .output()
        .unwrap();
    assert!(
        stderr(&output).contains("session ended")
            && stderr(&output).contains("(upstream_unreachable)"),
        "{output:?}"
    );
    assert_eq!(lab.ended(), EndReason::UpstreamUnreachable);
    assert!(lab.door.snapshot().is_empty());
}

#[test]
fn psql_s_own_reconnect_is_refused_while_it_has_to_wait() {
    let (server, upstream) = server();
    let limits = Limited {
        max_lifetime: Some(2 * SECOND),
        reconnect: Reconnect {
            wait: Duration::from_secs(60),
            proof: false,
        },
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    // Only at a terminal does psql reset its connection by itself: `script` is one.
    let psql = server.psql(lab.address(), "postgres");
    let words: Vec<_> = std::iter::once(psql.get_program())
        .chain(psql.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let mut terminal = Command::new("script")
        .args(["-q", "-e", "-c", &words.join(" "), "/dev/null"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    assert_eq!(lab.ended(), EndReason::LifetimeExpired);
    let mut stdin = terminal.stdin.take().unwrap();
    let address = lab.address();
    let again = format!(
        "select 1;\n\\c 'host={} port={} user=postgres dbname=postgres'\n\\q\n",
        address.ip(),
        address.port()
    );
    stdin.write_all(again.as_bytes()).unwrap();
    let shown = stdout(&terminal.wait_with_output().unwrap());
    let at = |what: &str| {
        shown
            .find(what)
            .unwrap_or_else(|| panic!("no {what:?} in {shown}"))
    };
    let ended = at("session ended: the session reached its maximum lifetime");
    // psql does not say why its reset failed; the next attempt by hand does.
    let reset = at("Attempting reset: Failed.");
    let refused = at("session refused: the session before reached its maximum lifetime");
    assert!(ended < reset && reset < refused, "{shown}");
    let reason = lab.wait("the refusal", |heard| match heard {
        Heard::Event(event) if event.event == EventKind::SessionRefused => event.reason,
        _ => None,
    });
    assert_eq!(reason, EndReason::LifetimeExpired);
}

#[test]
fn a_killed_client_leaves_no_query_behind() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let (mut wire, _) = Wire::log_in(lab.address(), "postgres", "killed");
    wire.query("select pg_sleep(600)");
    running(&server, "killed");
    drop(wire);
    nothing_left(&server, "killed");
    assert_eq!(lab.ended(), EndReason::ClosedByClient);
}

#[test]
fn a_cancel_request_reaches_the_query_of_a_live_session() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let (mut wire, key) = Wire::log_in(lab.address(), "postgres", "ctrl-c");
    wire.query("select pg_sleep(600)");
    running(&server, "ctrl-c");
    Wire::request_cancel(lab.address(), &key);
    let error = std::iter::from_fn(|| wire.next()).find(|(kind, _)| *kind == b'E');
    assert!(error.unwrap().1.contains("57014"));
    // The session lives on.
    assert_eq!(wire.next().unwrap().0, b'Z');
    wire.query("select 1");
    assert_eq!(wire.next().unwrap().0, b'T');
}

#[test]
fn pgbench_runs_without_an_error() {
    let (server, upstream) = server();
    let lab = Lab::new(upstream, Limited::default());
    let (host, port) = (
        lab.address().ip().to_string(),
        lab.address().port().to_string(),
    );
    let bench = |arguments: &[&str]| {
        let mut bench = server.program("pgbench");
        bench.args(["-U", "postgres", "-h", &host, "-p", &port]);
        bench.args(arguments).arg("postgres").output().unwrap()
    };
    let made = bench(&["-i", "-q"]);
    assert!(made.status.success(), "{made:?}");
    for mode in ["simple", "extended", "prepared"] {
        let ran = bench(&["-c", "10", "-j", "2", "-T", "2", "-M", mode]);
        let told = stdout(&ran);
        assert!(ran.status.success(), "{ran:?}");
        assert!(
            told.contains("number of failed transactions: 0 (0.000%)"),
            "{told}"
        );
        assert!(!stderr(&ran).contains("error"), "{ran:?}");
    }
}

#[test]
fn ended_sessions_under_load_get_whole_messages_and_their_reason() {
    let (server, upstream) = server();
    let limits = Limited {
        max_lifetime: Some(Duration::from_millis(700)),
        ..Limited::default()
    };
    let lab = Lab::new(upstream, limits);
    let address = lab.address();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(move || {
                let (mut wire, _) = Wire::log_in(address, "postgres", "load");
                let mut last = None;
                'session: loop {
                    wire.query("select generate_series(1, 300)");
                    loop {
                        match wire.next() {
                            None => break 'session,
                            Some((b'Z', _)) => break,
                            Some((kind, text)) => last = Some((kind, text)),
                        }
                    }
                }
                // A goodbye comes last or not at all, and every message before it was whole.
                if let Some((b'E', text)) = last {
                    assert!(text.contains("(lifetime_expired)"), "{text}");
                }
            });
        }
    });
    nothing_left(&server, "load");
}
