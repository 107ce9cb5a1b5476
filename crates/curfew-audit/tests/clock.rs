//! The log under a clock that is wrong: what that makes old, and what is told by which time.
#![cfg(test)]

use std::{
    num::NonZeroUsize,
    path::{Path, PathBuf},
    time::Duration,
};

use curfew_audit::{Entry, Log, Options, Record, RecordKind, export};
use curfew_model::{Event, EventKind, Revision, WallInstant};

/// What the disk may take on a loaded machine.
const LONG: Duration = Duration::from_secs(30);
const HOUR: i64 = 3_600_000;
const YEAR: i64 = 365 * 24 * HOUR;

fn small(dir: PathBuf) -> Options {
    Options {
        max_segment: 2_000,
        ..Options::new(dir)
    }
}

/// A log that keeps an hour.
fn hour(dir: &Path) -> Log {
    let options = Options {
        keep_for: Some(Duration::from_secs(3_600)),
        ..small(dir.to_owned())
    };
    Log::open(options, WallInstant(0)).unwrap()
}

fn put(log: &Log, kind: EventKind, at: i64) {
    let event = Event::new(kind, WallInstant(at), Revision(1));
    let ticket = log.append(&Entry::new(event)).unwrap();
    log.durable(ticket, LONG).unwrap();
}

fn records(dir: &Path) -> Vec<Record> {
    let lines = export(dir, 1).unwrap();
    let read = |line: Result<String, _>| serde_json::from_str(&line.unwrap()).unwrap();
    lines.map(read).collect()
}

#[test]
fn a_clock_that_is_wrong_ahead_for_a_moment_makes_nothing_old() {
    let dir = tempfile::tempdir().unwrap();
    let log = hour(dir.path());
    for n in 0..80 {
        let at = if n % 10 == 4 { YEAR } else { n };
        put(&log, EventKind::EnforcerStarted, at);
    }
    log.close();
    assert_eq!(records(dir.path())[0].seq, 1);
}

#[test]
fn a_clock_that_was_wrong_ahead_keeps_nothing_young() {
    let dir = tempfile::tempdir().unwrap();
    let log = hour(dir.path());
    (0..12).for_each(|n| put(&log, EventKind::EnforcerStarted, YEAR + n));
    (0..60).for_each(|n| put(&log, EventKind::EnforcerStarted, n * HOUR));
    log.close();
    assert!(records(dir.path())[0].entry.at > WallInstant(50 * HOUR));
}

#[test]
fn what_the_log_says_itself_is_of_the_time_that_was_accepted() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let options = Options {
            keep_segments: NonZeroUsize::new(1),
            ..small(dir.path().to_owned())
        };
        Log::open(options, WallInstant(0)).unwrap()
    };
    let fill = |log: &Log| (0..30).for_each(|n| put(log, EventKind::EnforcerStarted, n));
    let wrong_and_accepted = |log: &Log| {
        put(log, EventKind::EnforcerStarted, YEAR);
        put(log, EventKind::ClockAccepted, 1_000);
    };
    let of_its_own = || {
        let is = |record: &Record| matches!(record.entry.event, RecordKind::Log(_));
        let own: Vec<_> = records(dir.path()).into_iter().filter(is).collect();
        assert!(!own.is_empty());
        assert!(
            own.iter().all(|record| record.entry.at < WallInstant(YEAR)),
            "{own:?}"
        );
    };
    let log = open();
    wrong_and_accepted(&log);
    log.close();
    drop(log);
    let log = open();
    fill(&log);
    of_its_own();
    wrong_and_accepted(&log);
    fill(&log);
    of_its_own();
}
