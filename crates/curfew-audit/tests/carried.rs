//! Retention and open sessions: what is left names every one of them.
#![cfg(test)]

mod support;

use std::{num::NonZeroUsize, path::Path};

use curfew_audit::{
    AppendError, Entry, Log, LogEvent, Options, Record, RecordKind, export, verify,
};
use curfew_model::{Event, EventKind, Identity, Issuer, Kind, Proof, SessionId};
use support::{LONG, NOW, entry};

/// Looks at the log's count of its files before patience is lost: old ones go after what was written is on disk.
const TRIES: u32 = 100_000;

fn session(number: u8) -> SessionId {
    let id = format!("00000000-0000-7000-8000-0000000000{number:02x}");
    id.parse().unwrap()
}

fn options(dir: &Path) -> Options {
    Options {
        max_segment: 4_000,
        keep_segments: NonZeroUsize::new(2),
        ..Options::new(dir)
    }
}

fn told(event: EventKind, session: SessionId) -> Entry {
    let opened = Entry::new(Event {
        session: Some(session),
        subject: Some(Identity {
            kind: Kind::User,
            issuer: Issuer::local(),
            id: "alice".to_owned(),
            display: None,
            proof: Proof::Bound,
        }),
        segments: vec!["payments-db".parse().unwrap()],
        ..Event::new(event, NOW, curfew_model::Revision(3))
    });
    opened.with("service", "db")
}

/// Appends one commit at a time.
fn write(log: &Log, entries: impl IntoIterator<Item = Entry>) {
    for entry in entries {
        log.durable(log.append(&entry).unwrap(), LONG).unwrap();
    }
}

fn records(dir: &Path) -> Vec<Record> {
    let lines = export(dir, 1).unwrap();
    lines
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect()
}

/// What the log has of a session.
fn of(dir: &Path, session: SessionId) -> Vec<Record> {
    let mut all = records(dir);
    all.retain(|record| record.entry.session == Some(session));
    all
}

fn files(dir: &Path) -> usize {
    let names = std::fs::read_dir(dir).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name());
    names
        .filter(|name| name.to_string_lossy().starts_with('0'))
        .count()
}

/// Whether the log comes to count the files that are there.
fn counts_its_files(log: &Log, dir: &Path) -> bool {
    (0..TRIES).any(|_| {
        std::thread::yield_now();
        log.health().segments == u64::try_from(files(dir)).unwrap()
    })
}

#[test]
fn an_open_session_is_told_of_for_as_long_as_it_is_open() {
    let (long, short) = (session(1), session(2));
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(options(dir.path()), NOW).unwrap();
    write(&log, [entry(1), told(EventKind::SessionOpened, long)]);
    let ended = told(EventKind::SessionEnded, short);
    write(&log, [told(EventKind::SessionOpened, short), ended]);
    // Twice over: what was carried is carried again.
    for round in 1..=2 {
        write(&log, (0..60).map(entry));
        assert!(records(dir.path())[0].seq > 60 * (round - 1) + 4);
        assert!(counts_its_files(&log, dir.path()), "{:?}", log.health());
        assert_eq!(of(dir.path(), short), []);
        let carried = of(dir.path(), long).pop().unwrap().entry;
        assert_eq!(carried.event, RecordKind::Log(LogEvent::Carried));
        let opened = told(EventKind::SessionOpened, long);
        assert_eq!(
            (&carried.subject, &carried.segments, carried.revision),
            (&opened.subject, &opened.segments, opened.revision)
        );
        assert_eq!(carried.detail["service"], opened.detail["service"]);
        assert_eq!(carried.detail["opened_seq"].as_number(), Some(2));
        let opened_at = curfew_model::Detail::text(NOW);
        assert_eq!(carried.detail["opened_at"], opened_at);
    }
    write(&log, [told(EventKind::SessionEnded, long)]);
    write(&log, (0..60).map(entry));
    assert_eq!(of(dir.path(), long), []);
    assert!(files(dir.path()) <= 3);
    drop(log);
    let report = verify(dir.path(), None, None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
}

#[test]
fn a_session_whose_end_was_lost_is_not_told_of_as_open() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        queue: NonZeroUsize::MIN,
        ..options(dir.path())
    };
    let log = Log::open(options, NOW).unwrap();
    let id = session(1);
    write(&log, [told(EventKind::SessionOpened, id)]);
    // Too long for the log, so it is lost.
    let end = told(EventKind::SessionEnded, id).with("more", "x".repeat(70_000));
    assert_eq!(log.append(&end), Err(AppendError::TooLong));
    write(&log, (0..60).map(entry));
    assert_eq!(of(dir.path(), id), []);
}

#[test]
fn what_an_earlier_process_left_open_is_kept_until_its_end_is_on_record() {
    let dir = tempfile::tempdir().unwrap();
    let (long, unknown) = (session(1), session(2));
    let log = Log::open(options(dir.path()), NOW).unwrap();
    write(
        &log,
        [long, unknown].map(|id| told(EventKind::SessionOpened, id)),
    );
    drop(log);
    let log = Log::open(options(dir.path()), NOW).unwrap();
    log.tells_of(long, 1);
    write(&log, (0..60).map(entry));
    assert_eq!(of(dir.path(), unknown), []);
    let carried = of(dir.path(), long).pop().unwrap().entry;
    assert_eq!(carried.detail["opened_seq"].as_number(), Some(1));
    write(&log, [told(EventKind::SessionEnded, long)]);
    write(&log, (0..60).map(entry));
    assert_eq!(of(dir.path(), long), []);
}

#[test]
fn a_file_that_tells_of_too_many_open_sessions_stays_until_they_ended() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(options(dir.path()), NOW).unwrap();
    let many = || (0..30).map(session);
    write(&log, many().map(|id| told(EventKind::SessionOpened, id)));
    write(&log, (0..60).map(entry));
    let openings = |record: &&Record| {
        let opened = record.entry.event == RecordKind::Event(EventKind::SessionOpened);
        opened || record.entry.event == RecordKind::Log(LogEvent::Carried)
    };
    let all = records(dir.path());
    let known: std::collections::BTreeSet<_> = all
        .iter()
        .filter(openings)
        .map(|record| record.entry.session)
        .collect();
    assert_eq!(known, many().map(Some).collect());
    assert!(files(dir.path()) > 3);
    assert!(counts_its_files(&log, dir.path()), "{:?}", log.health());
    write(&log, many().map(|id| told(EventKind::SessionEnded, id)));
    write(&log, (0..60).map(entry));
    assert!(files(dir.path()) <= 3);
    drop(log);
    let report = verify(dir.path(), None, None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
}
