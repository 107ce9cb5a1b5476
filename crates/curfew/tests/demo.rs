//! `curfew demo` from the outside: the whole story as plain lines, played fast.
#![cfg(test)]

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

/// Plays the story in so many seconds, without a terminal.
fn play(seconds: &str, temp: &std::path::Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_curfew"))
        .args(["demo", "--plain", "--seconds", seconds])
        .env("TMPDIR", temp)
        .output()
        .unwrap()
}

#[test]
fn the_story_plays_itself_and_names_every_reason() {
    let temp = tempfile::tempdir().unwrap();
    let output = play("15", temp.path());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.success(),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let line = |parts: &[&str]| {
        let found = text
            .lines()
            .any(|line| parts.iter().all(|part| line.contains(part)));
        assert!(found, "no line with {parts:?} in\n{text}");
    };
    for client in ["wiki", "orders-db", "payments-db"] {
        line(&[
            "ended",
            &format!("alice → {client}: subject_revoked"),
            "after the order",
            "direct: reads on",
        ]);
    }
    line(&["order", "revoke alice: matched 3, closed 3"]);
    line(&[
        "ended",
        "bob → orders-db: idle_timeout",
        "after the deadline",
    ]);
    line(&[
        "ended",
        "carol → payments-db: lifetime_expired",
        "after the deadline",
    ]);
    line(&[
        "ended",
        "carol → orders-db: policy_changed",
        "after the order",
    ]);
    line(&["ended", "bob → wiki: session_cancelled", "after the order"]);
    // After the control plane is gone.
    line(&["order", "is dead"]);
    line(&["ended", "erin → orders-db: lifetime_expired"]);
    line(&["ended", "erin → payments-db: control_plane_lost"]);
    line(&["refused", "dave → orders-db: access_denied"]);
    line(&["refused", "alice → payments-db: subject_revoked"]);
    line(&["refused", "carol → payments-db: lifetime_expired"]);
    line(&["refused", "erin → payments-db: control_plane_lost"]);
    line(&["order", "explain carol", "SessionPolicy/payments-dba"]);
    // The summary.
    line(&["ended", "3", "subject_revoked"]);
    line(&["9 of 9 were still reading"]);
    line(&["order → its client saw the end", "p50", "max"]);
    line(&["audit verify", "nothing was altered, dropped or moved"]);
    assert!(!text.contains("trouble"), "{text}");
    let left = std::fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(left, 0, "the demo leaves files behind");
}

#[test]
fn kept_it_says_what_to_try_and_ends_in_order() {
    let temp = tempfile::tempdir().unwrap();
    let mut child = Command::new(env!("CARGO_BIN_EXE_curfew"))
        .args(["demo", "--keep"])
        .env("TMPDIR", temp.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = |part: &str| {
        let mut lines = lines.by_ref().map(Result::unwrap);
        lines
            .find(|line| line.contains(part))
            .unwrap_or_else(|| panic!("it ended before it said {part:?}"))
    };
    let list = until("sessions list --server http://127.0.0.1:");
    until("opened   erin → payments-db");
    let listed = Command::new("sh").args(["-c", &list]).output().unwrap();
    let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
    assert!(listed.contains("payments-db"), "{listed}");
    let stopped = Command::new("kill")
        .arg(child.id().to_string())
        .status()
        .unwrap();
    assert!(stopped.success());
    until("audit verify");
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let left = std::fs::read_dir(temp.path()).unwrap().count();
    assert_eq!(left, 0, "the demo leaves files behind");
}
