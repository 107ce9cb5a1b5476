//! `curfew audit` from the outside: the real binary on a log of the real writer.

#![cfg(test)]

use std::{path::Path, process::Command, time::Duration};

use curfew_audit::{Entry, Log, Options};
use curfew_model::{Event, EventKind, Revision, WallInstant};

fn write_log(dir: &Path, records: u64) -> String {
    let log = Log::open(Options::new(dir), WallInstant(0)).unwrap();
    let event = Event {
        cause: Some("alice".to_owned()),
        ..Event::new(EventKind::PolicyApplied, WallInstant(1_000), Revision(1))
    };
    for _ in 1..records {
        log.append(&Entry::new(event.clone())).unwrap();
    }
    let last = log.append(&Entry::new(event)).unwrap();
    log.durable(last, Duration::from_secs(10)).unwrap();
    log.head(WallInstant(2_000)).to_string()
}

fn curfew(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_curfew"))
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[test]
fn a_whole_log_verifies_and_says_what_it_cannot_exclude() {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 5);
    let dir = folder.path().to_str().unwrap();
    let (code, text) = curfew(&["audit", "verify", dir]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("cannot be excluded"), "{text}");
    let (code, text) = curfew(&["audit", "tail", "-n", "2", dir]);
    assert_eq!((code, text.lines().count()), (0, 2), "{text}");
}

#[test]
fn one_changed_byte_is_found_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let head = write_log(folder.path(), 5);
    let head_file = folder.path().join("exported-head");
    std::fs::write(&head_file, head).unwrap();
    let mut changed = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        if text.contains("alice") {
            std::fs::write(&path, text.replacen("alice", "malice", 1)).unwrap();
            changed += 1;
        }
    }
    assert_eq!(changed, 1);
    let dir = folder.path().to_str().unwrap();
    let (code, text) = curfew(&[
        "audit",
        "verify",
        dir,
        "--head",
        head_file.to_str().unwrap(),
    ]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("altered"), "{text}");
}

#[test]
fn a_missing_log_is_an_error_with_a_reason() {
    let (code, text) = curfew(&["audit", "verify", "/nonexistent/log"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("/nonexistent/log"), "{text}");
}

#[test]
fn a_folder_without_a_log_proves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    write_log(&folder.path().join("audit"), 2);
    let dir = folder.path().to_str().unwrap();
    for command in ["verify", "tail", "export"] {
        let (code, text) = curfew(&["audit", command, dir]);
        assert_eq!(code, 1, "{text}");
        assert!(
            text.contains("there is no audit log in") && text.contains("/audit?"),
            "{text}"
        );
    }
}
