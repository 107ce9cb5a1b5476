//! What is signed when, and who writes a log anew without its key.
#![cfg(test)]

mod support;

use std::fs;

use curfew_audit::{AuditError, Log, Options, Problem, newest_head, tail, verify};
use sha2::{Digest as _, Sha256};
use support::{LONG, NOW, entry};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn what_a_killed_process_wrote_is_signed_and_what_was_found_unsigned_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(dir.path()), NOW).unwrap();
    for n in 1..=8 {
        let ticket = log.append(&entry(n)).unwrap();
        log.durable(ticket, LONG).unwrap();
    }
    // As a kill leaves it: soon after the last write.
    let is_signed = |_| {
        std::thread::yield_now();
        newest_head(dir.path()).unwrap().unwrap().seq == 8
    };
    assert!((0..1_000_000).any(is_signed));
    let left = tempfile::tempdir().unwrap();
    for file in fs::read_dir(dir.path()).unwrap().map(Result::unwrap) {
        fs::copy(file.path(), left.path().join(file.file_name())).unwrap();
    }
    let report = verify(left.path(), None, None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
    assert_eq!(report.signed_through, Some(8));
    // Written anew without the key, the chain is whole.
    let file = left.path().join(format!("{:020}.jsonl", 1));
    let mut hash = hex(&[0; 32]);
    let anew = |line: &str| {
        let (record, _) = line.split_once(",\"hash\":").unwrap();
        let (start, rest) = record.split_once("\"prev\":\"").unwrap();
        let (start, rest) = (
            start.replace("payments-db", "wiki"),
            rest.get(64..).unwrap(),
        );
        let record = format!("{start}\"prev\":\"{hash}{rest}");
        hash = hex(&Sha256::digest(&record));
        format!("{record},\"hash\":\"{hash}\"}}\n")
    };
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.lines().map(anew).collect::<String>()).unwrap();
    let report = verify(left.path(), None, None).unwrap();
    assert_eq!(report.findings[0].problem, Problem::Rewritten(8));
    let opened = Log::open(Options::new(left.path()), NOW);
    assert!(matches!(opened, Err(AuditError::Damaged { .. })));
    // Without the head that names it, it is not signed before it is on record that it was not.
    fs::remove_file(left.path().join("newest.json")).unwrap();
    assert_eq!(
        verify(left.path(), None, None).unwrap().signed_through,
        Some(0)
    );
    drop(Log::open(Options::new(left.path()), NOW).unwrap());
    let found = tail(left.path(), 1).unwrap().remove(0);
    let unsigned = "\"event\":\"log.unsigned\"";
    assert!(found.contains(unsigned), "{found}");
    assert!(
        found.contains("\"after\":0") && found.contains("\"through\":8"),
        "{found}"
    );
    assert_eq!(
        verify(left.path(), None, None).unwrap().signed_through,
        Some(9)
    );
}
