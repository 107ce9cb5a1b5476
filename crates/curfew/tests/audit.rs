//! `curfew audit` from the outside: the real binary on a log of the real writer.

#![cfg(test)]

mod support;

use std::{path::Path, process::Command, time::Duration};

use curfew_audit::{Entry, Head, Log, Options};
use curfew_model::{Event, EventKind, Revision, WallInstant};
use serde_json::Value;
use support::{Scripted, site::Site};

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
    assert!(
        text.contains("from record 1 to record 5\nsigned with the key "),
        "{text}"
    );
}

#[test]
fn an_export_is_verified_without_its_log() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (log, head, file) = (path("log"), path("head"), path("export"));
    std::fs::create_dir(&log).unwrap();
    std::fs::write(&head, write_log(Path::new(&log), 5)).unwrap();
    let (_, lines) = curfew(&["audit", "export", &log, "--from", "3"]);
    std::fs::write(&file, &lines).unwrap();
    std::fs::remove_dir_all(&log).unwrap();
    let (code, text) = curfew(&["audit", "verify", &file]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("from record 3 to record 5; nothing is said of"),
        "{text}"
    );
    assert!(text.contains("no signature is in it"), "{text}");
    let (code, text) = curfew(&["audit", "verify", &file, "--head", &head]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("nothing up to record 5 was cut off"),
        "{text}"
    );
    std::fs::write(&file, lines.replacen("alice", "malice", 1)).unwrap();
    let (code, text) = curfew(&["audit", "verify", &file]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("export:1: record 3: altered"), "{text}");
}

#[test]
fn the_last_records_are_lines_for_people_or_what_is_on_disk() {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 5);
    let dir = folder.path().to_str().unwrap();
    let (code, text) = curfew(&["audit", "tail", "-n", "2", dir, "--output", "table"]);
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((code, lines.len()), (0, 2), "{text}");
    assert!(lines[0].starts_with("4  1970-01-01 "), "{text}");
    assert!(lines[1].ends_with("  policy.applied  alice"), "{text}");
    let (_, exported) = curfew(&["audit", "export", dir, "--from", "4"]);
    let (_, json) = curfew(&["audit", "tail", "-n", "2", dir, "--output", "json"]);
    assert_eq!(json, exported);
    let (_, piped) = curfew(&["audit", "tail", "-n", "2", dir]);
    assert_eq!(piped, exported);
    let (_, yaml) = curfew(&["audit", "tail", "-n", "2", dir, "--output", "yaml"]);
    assert_eq!(yaml.matches("\nseq: ").count(), 2, "{yaml}");
}

#[test]
fn the_head_that_is_printed_shows_later_that_the_end_was_cut_off() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().to_str().unwrap();
    write_log(folder.path(), 5);
    for output in ["table", "json"] {
        let (code, text) = curfew(&["audit", "head", dir, "--output", output]);
        assert_eq!(code, 0, "{text}");
        let head: Head = text.parse().unwrap();
        assert!(head.is_signed() && head.seq == 5, "{text}");
        std::fs::write(folder.path().join(output), text).unwrap();
    }
    let against = |head: &str| {
        let head = folder.path().join(head);
        curfew(&["audit", "verify", dir, "--head", head.to_str().unwrap()])
    };
    for head in ["table", "json"] {
        let (code, text) = against(head);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains("nothing up to record 5 was cut off"),
            "{text}"
        );
    }
    let heads = folder.path().join("heads.jsonl");
    let text = std::fs::read_to_string(&heads).unwrap();
    std::fs::write(&heads, format!("{text}{{\"seq\":")).unwrap();
    let (code, torn) = curfew(&["audit", "head", dir]);
    assert_eq!((code, torn.lines().last()), (0, text.lines().last()));
    std::fs::write(&heads, text.replace("\"seq\":5", "\"seq\":6")).unwrap();
    let (code, text) = curfew(&["audit", "head", dir]);
    assert_eq!(code, 1, "{text}");
    let says = text.contains("heads.jsonl:") && text.contains("signature");
    assert!(says, "{text}");
}

#[test]
fn a_log_that_was_written_anew_with_another_key_is_held_against_the_one_that_is_known() {
    let (folder, own) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let key = |head: String| head.parse::<Head>().unwrap().key.to_string();
    let own_key = key(write_log(own.path(), 5));
    let other_key = key(write_log(folder.path(), 4));
    let dir = folder.path().to_str().unwrap();
    let verify = |more: &[&str]| curfew(&[&["audit", "verify", dir], more].concat());
    let key_file = folder.path().join("audit.key");
    let (code, text) = verify(&[]);
    let says = text.contains(&format!(
        "signed with the key {other_key}, that of audit.key"
    ));
    assert!(code == 0 && says, "{text}");
    std::fs::copy(own.path().join("audit.key"), &key_file).unwrap();
    let (code, text) = verify(&[]);
    let says = text.contains("heads.jsonl:1: record 0: this head was signed by another key")
        && text.contains(&format!("of the key {own_key}, that of audit.key"));
    assert!(code == 3 && says, "{text}");
    // Of a copy without it, nothing but the reader knows whose key it is.
    std::fs::remove_file(&key_file).unwrap();
    let (code, text) = verify(&[]);
    let says = text.contains("or moved, if the key is the log's own\n")
        && text.contains("can have written it anew as a whole");
    assert!(code == 0 && says, "{text}");
    assert_eq!(verify(&["--key", &own_key]).0, 3);
    let (code, text) = verify(&["--key", &other_key, "--output", "json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let against = serde_json::json!({"key": other_key, "from": "--key"});
    assert_eq!((code, &report["held_against"]), (0, &against));
    let (code, text) = verify(&["--key", "abc"]);
    assert!(
        code == 1 && text.contains("64 lower-case hexadecimal"),
        "{text}"
    );
}

#[test]
fn records_that_nobody_signed_are_told_from_those_that_were() {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 5);
    let dir = folder.path().to_str().unwrap();
    std::fs::remove_file(folder.path().join("newest.json")).unwrap();
    let (code, text) = curfew(&["audit", "verify", dir]);
    assert!(
        code == 0 && text.contains("newest.json is missing"),
        "{text}"
    );
    let heads = folder.path().join("heads.jsonl");
    let text = std::fs::read_to_string(&heads).unwrap();
    std::fs::write(&heads, text.split_inclusive('\n').next().unwrap()).unwrap();
    let (code, text) = curfew(&["audit", "verify", dir]);
    let says = text.contains("no signature names any of the records");
    assert!(code == 3 && says, "{text}");
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
fn a_running_server_signs_its_head_when_it_is_asked() {
    let site = Site::start("");
    let head = || site.curfew(&["audit", "head"]).out;
    let before: Head = head().parse().unwrap();
    let set = ["bindings", "set", "--uid", "4711", "--user", "carol"];
    assert_eq!(site.curfew(&set).code, 0);
    let newest = head();
    let after: Head = newest.parse().unwrap();
    assert!(after.is_signed() && after.seq > before.seq, "{newest}");
    let file = site.path("head.json");
    std::fs::write(&file, newest).unwrap();
    let (file, log) = (file.to_str().unwrap(), site.path("data/audit"));
    let (code, text) = curfew(&["audit", "verify", log.to_str().unwrap(), "--head", file]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn a_head_that_nobody_signed_is_none() {
    let server = Scripted::start();
    let folder = tempfile::tempdir().unwrap();
    let head = write_log(folder.path(), 5);
    let mut head: Value = serde_json::from_str(&head).unwrap();
    server.json("GET /v1/audit/head", 200, &head);
    assert_eq!(server.curfew(&["audit", "head"]).code, 0);
    head["seq"] = 4.into();
    server.json("GET /v1/audit/head", 200, &head);
    let forged = server.curfew(&["audit", "head"]);
    assert_eq!((forged.code, forged.out.as_str()), (1, ""));
    assert!(forged.err.contains("signature"), "{}", forged.err);
}

#[test]
fn an_export_that_nobody_reads_to_its_end_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    write_log(folder.path(), 5);
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let export = Command::new(env!("CARGO_BIN_EXE_curfew"))
        .args(["audit", "export", folder.path().to_str().unwrap()])
        .stdout(writer)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&export.stderr);
    assert_eq!((export.status.code(), &*said), (Some(0), ""));
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
    for command in ["verify", "tail", "head", "export"] {
        let (code, text) = curfew(&["audit", command, dir]);
        assert_eq!(code, 1, "{text}");
        assert!(
            text.contains("there is no audit log in") && text.contains("/audit?"),
            "{text}"
        );
    }
}
