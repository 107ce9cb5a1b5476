//! An export is verified by itself, and a head by what is left of the log that it names.
#![cfg(test)]

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use curfew_audit::{Entry, Head, Log, Options, Problem, Truncation, export, verify, verify_export};
use curfew_model::{Event, EventKind, Revision, WallInstant};

const NOW: WallInstant = WallInstant(1_800_000_000_000);

/// Writes `count` records one commit at a time, into small files, and gives the head of each tenth.
fn fill(dir: &Path, count: u64, keep: Option<NonZeroUsize>) -> Vec<Head> {
    let options = Options {
        max_segment: 2_000,
        keep_segments: keep,
        ..Options::new(dir)
    };
    let log = Log::open(options, NOW).unwrap();
    let mut heads = Vec::new();
    for n in 1..=count {
        let event = Event {
            cause: Some(format!("event {n}")),
            ..Event::new(EventKind::PolicyApplied, NOW, Revision(n))
        };
        let ticket = log.append(&Entry::new(event)).unwrap();
        log.durable(ticket, Duration::from_secs(60)).unwrap();
        if n % 10 == 0 {
            heads.push(log.head(NOW));
        }
    }
    heads
}

fn exported(dir: &Path, from: u64) -> Vec<String> {
    let lines = export(dir, from).unwrap();
    lines.map(|line| line.unwrap() + "\n").collect()
}

fn written(dir: &Path, lines: &[String]) -> PathBuf {
    let file = dir.join("export.jsonl");
    fs::write(&file, lines.concat()).unwrap();
    file
}

#[test]
fn an_export_verifies_from_any_record_on() {
    let dir = tempfile::tempdir().unwrap();
    let heads = fill(dir.path(), 30, None);
    for from in [1, 2, 15, 30] {
        let file = written(dir.path(), &exported(dir.path(), from));
        let report = verify_export(&file, None, None).unwrap();
        assert!(report.is_ok(), "{:?}", report.findings);
        assert_eq!((report.first, report.records), (Some(from), 31 - from));
        assert_eq!(report.truncation, Truncation::NotExcludedAfter(30));
        let report = verify_export(&file, Some(&heads[2]), None).unwrap();
        assert!(report.is_ok(), "{:?}", report.findings);
        assert_eq!(report.truncation, Truncation::ExcludedThrough(30));
    }
    let file = written(dir.path(), &exported(dir.path(), 15));
    let outdated = Truncation::HeadOutdated { head: 10, last: 30 };
    assert_eq!(
        verify_export(&file, Some(&heads[0]), None)
            .unwrap()
            .truncation,
        outdated
    );
}

#[test]
fn whatever_was_done_to_an_export_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let heads = fill(dir.path(), 30, None);
    let whole = exported(dir.path(), 11);
    let problems = |lines: &[String], head: Option<&Head>| -> Vec<Problem> {
        let report = verify_export(&written(dir.path(), lines), head, None).unwrap();
        report
            .findings
            .into_iter()
            .map(|finding| finding.problem)
            .collect()
    };
    for place in [0, 9, 19] {
        let mut altered = whole.clone();
        altered[place] = altered[place].replace("event", "evenT");
        assert_eq!(problems(&altered, None)[0], Problem::Altered, "{place}");
    }
    let mut dropped = whole.clone();
    dropped.remove(9);
    let problem = Problem::OutOfPlace {
        expected: 20,
        found: 21,
    };
    assert_eq!(problems(&dropped, None), [problem]);
    let mut swapped = whole.clone();
    swapped.swap(3, 4);
    assert!(!problems(&swapped, None).is_empty());
    let cut = &whole[..15];
    assert_eq!(problems(cut, None), []);
    assert_eq!(problems(cut, Some(&heads[2])), [Problem::Truncated(30)]);
    assert_eq!(problems(&[], None), [Problem::NoRecords]);
    // The same records of another log: the chain is whole, and is not the one that the head names.
    let other = tempfile::tempdir().unwrap();
    fill(other.path(), 5, None);
    fill(other.path(), 25, None);
    let other = exported(other.path(), 1);
    assert_eq!(problems(&other, None), []);
    assert_eq!(problems(&other, Some(&heads[2])), [Problem::Rewritten(30)]);
}

#[test]
fn a_head_older_than_what_is_left_proves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let heads = fill(dir.path(), 60, NonZeroUsize::new(2));
    let report = verify(dir.path(), Some(&heads[0]), None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
    let (first, (last, _)) = report.first.zip(report.last).unwrap();
    assert!(first > 10, "{first}");
    assert_eq!(
        report.truncation,
        Truncation::HeadOutdated { head: 10, last }
    );
    let newest = heads.last().unwrap();
    let report = verify(dir.path(), Some(newest), None).unwrap();
    assert_eq!(report.truncation, Truncation::ExcludedThrough(newest.seq));
}

#[test]
fn a_log_without_a_record_does_not_verify() {
    let dir = tempfile::tempdir().unwrap();
    drop(Log::open(Options::new(dir.path()), NOW).unwrap());
    let report = verify(dir.path(), None, None).unwrap();
    let problems: Vec<_> = report
        .findings
        .iter()
        .map(|finding| &finding.problem)
        .collect();
    assert_eq!(problems, [&Problem::NoRecords]);
}
