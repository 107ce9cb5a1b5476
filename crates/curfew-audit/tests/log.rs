//! The log as its users see it: what is written verifies, and what is changed is found.
#![cfg(test)]

mod support;

use std::{
    fs,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    time::Duration,
};

use curfew_audit::{
    AppendError, AuditError, Head, Log, Options, Problem, Record, RecordKind, Truncation, export,
    newest_head, tail, verify,
};
use curfew_model::EventKind;
use proptest::prelude::*;
use rustix::fs::{FlockOperation, flock};
use support::{LONG, NOW, entry};

fn small(dir: &Path) -> Options {
    Options {
        max_segment: 2_000,
        ..Options::new(dir)
    }
}

/// Writes `count` records one commit at a time and gives the exported head.
fn fill(options: Options, count: u64) -> Head {
    let log = Log::open(options, NOW).unwrap();
    for n in 1..=count {
        let ticket = log.append(&entry(n)).unwrap();
        log.durable(ticket, LONG).unwrap();
    }
    log.head(NOW)
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('0'))
        .collect();
    all.sort();
    all
}

#[test]
fn what_is_written_verifies_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let head = fill(small(dir.path()), 25);
    assert!(segments(dir.path()).len() > 2);
    let report = verify(dir.path(), None, None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
    assert_eq!((report.records, report.first), (25, Some(1)));
    assert_eq!(report.truncation, Truncation::NotExcludedAfter(25));
    assert_eq!(report.enforcer_gaps, 0);
    let report = verify(dir.path(), Some(&head), None).unwrap();
    assert_eq!(report.truncation, Truncation::ExcludedThrough(25));
    assert_eq!(head.to_string().parse::<Head>().unwrap(), head);

    let all: Vec<Record> = export(dir.path(), 1)
        .unwrap()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(all.len(), 25);
    assert_eq!(all[6].entry, entry(7));
    let from: Vec<String> = export(dir.path(), 12)
        .unwrap()
        .map(Result::unwrap)
        .collect();
    assert!(from[0].starts_with("{\"seq\":12,"));
    let last = tail(dir.path(), 9).unwrap();
    assert_eq!(last.len(), 9);
    assert!(last[0].starts_with("{\"seq\":17,"));
}

#[test]
fn a_log_goes_on_where_it_ended_with_the_same_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = fill(small(dir.path()), 3);
    let second = fill(small(dir.path()), 3);
    assert_eq!((first.seq, second.seq), (3, 6));
    assert_eq!(first.key, second.key);
    assert!(verify(dir.path(), Some(&first), None).unwrap().is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_changed_byte_is_found(place in any::<prop::sample::Index>(), change in 1..=255_u8) {
        let dir = tempfile::tempdir().unwrap();
        fill(small(dir.path()), 8);
        let mut files = segments(dir.path());
        files.push(dir.path().join("heads.jsonl"));
        let sizes: Vec<usize> = files.iter().map(|f| fs::read(f).unwrap().len()).collect();
        let mut at = place.index(sizes.iter().sum());
        let file = sizes.iter().position(|&size| { let here = at < size; if !here { at -= size; } here }).unwrap();
        let mut bytes = fs::read(&files[file]).unwrap();
        bytes[at] ^= change;
        fs::write(&files[file], &bytes).unwrap();
        let report = verify(dir.path(), None, None).unwrap();
        prop_assert!(!report.is_ok(), "byte {at} of {:?} ^ {change}", files[file]);
        let name = files[file].file_name().unwrap().to_string_lossy();
        prop_assert!(report.findings.iter().any(|finding| finding.place.file == name));
    }

    #[test]
    fn dropped_swapped_and_repeated_records_are_found(a in 0..7_usize, b in 0..7_usize, how in 0..3) {
        let dir = tempfile::tempdir().unwrap();
        fill(Options::new(dir.path()), 8);
        let file = segments(dir.path()).remove(0);
        let text = fs::read_to_string(&file).unwrap();
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        let first = match how {
            0 => { lines.remove(a); a }
            1 => { prop_assume!(a != b); lines.swap(a, b); a.min(b) }
            _ => { prop_assume!(b != a + 1); lines.insert(a + 1, lines[b]); a + 1 }
        };
        fs::write(&file, lines.concat()).unwrap();
        let report = verify(dir.path(), None, None).unwrap();
        let finding = report.findings.first().cloned();
        prop_assert_eq!(finding.map(|f| f.place.line), Some(first as u64 + 1));
    }
}

#[test]
fn a_rewritten_chain_and_a_cut_end_are_found_against_an_exported_head() {
    let dir = tempfile::tempdir().unwrap();
    let head = fill(Options::new(dir.path()), 8);
    let file = segments(dir.path()).remove(0);
    let text = fs::read_to_string(&file).unwrap();
    let cut: String = text.split_inclusive('\n').take(6).collect();
    fs::write(&file, cut).unwrap();
    // The last head of the log itself says so too; the forger takes it away.
    assert!(!verify(dir.path(), None, None).unwrap().is_ok());
    let heads = fs::read_to_string(dir.path().join("heads.jsonl")).unwrap();
    fs::write(
        dir.path().join("heads.jsonl"),
        heads.split_inclusive('\n').next().unwrap(),
    )
    .unwrap();
    assert!(!verify(dir.path(), None, None).unwrap().is_ok());
    fs::remove_file(dir.path().join("newest.json")).unwrap();
    let report = verify(dir.path(), None, None).unwrap();
    assert_eq!(report.findings[0].problem, Problem::NothingSigned);
    assert!(report.newest_missing);
    assert_eq!(report.signed_through, Some(0));
    assert_eq!(report.truncation, Truncation::NotExcludedAfter(6));
    let report = verify(dir.path(), Some(&head), None).unwrap();
    assert_eq!(report.findings[0].problem, Problem::Truncated(8));
    assert_eq!(report.truncation, Truncation::NotExcludedAfter(6));
    // Writing on from the cut gives a chain that is whole, but not the one of the head.
    fill(Options::new(dir.path()), 8);
    let report = verify(dir.path(), Some(&head), None).unwrap();
    assert_eq!(report.findings[0].problem, Problem::Rewritten(8));
}

#[test]
fn heads_of_another_key_are_found() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    fill(Options::new(dir.path()), 4);
    let head = fill(Options::new(other.path()), 4);
    let report = verify(dir.path(), Some(&head), None).unwrap();
    assert_eq!(report.findings[0].problem, Problem::OtherKey);
    fs::copy(other.path().join("audit.key"), dir.path().join("audit.key")).unwrap();
    assert!(matches!(
        Log::open(Options::new(dir.path()), NOW),
        Err(AuditError::Damaged { .. })
    ));
    fs::remove_file(dir.path().join("audit.key")).unwrap();
    assert!(matches!(
        Log::open(Options::new(dir.path()), NOW),
        Err(AuditError::NoKey { .. })
    ));
}

#[test]
fn a_closed_log_is_signed_to_its_end_whoever_holds_it() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(dir.path()), NOW).unwrap();
    log.append(&entry(1)).unwrap();
    log.close();
    let head = newest_head(dir.path()).unwrap().unwrap();
    assert_eq!(head.seq, 1);
    assert_eq!(log.append(&entry(2)), Err(AppendError::Closed));
    // Closing it twice is no error.
    drop(log);
}

#[test]
fn the_key_is_private_and_one_process_writes() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(dir.path()), NOW).unwrap();
    let key = dir.path().join("audit.key");
    assert_eq!(
        fs::metadata(&key).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert!(matches!(
        Log::open(Options::new(dir.path()), NOW),
        Err(AuditError::Locked { .. })
    ));
    drop(log);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    assert!(matches!(
        Log::open(Options::new(dir.path()), NOW),
        Err(AuditError::OpenKey { .. })
    ));
}

#[test]
fn a_torn_tail_is_cut_off_and_recorded() {
    for torn in (1..400).step_by(13) {
        let dir = tempfile::tempdir().unwrap();
        fill(Options::new(dir.path()), 3);
        let file = segments(dir.path()).remove(0);
        let text = fs::read(&file).unwrap();
        let mut cut = text.clone();
        cut.extend_from_slice(&text[..torn.min(text.len() / 3 - 1)]);
        fs::write(&file, &cut).unwrap();
        let report = verify(dir.path(), None, None).unwrap();
        assert_eq!(report.findings[0].problem, Problem::Torn);
        drop(Log::open(Options::new(dir.path()), NOW).unwrap());
        let report = verify(dir.path(), None, None).unwrap();
        assert!(report.is_ok(), "{:?}", report.findings);
        assert!(tail(dir.path(), 1).unwrap()[0].contains("\"event\":\"log.recovered\""));
    }
}

#[test]
fn retention_keeps_the_rest_verifiable() {
    let dir = tempfile::tempdir().unwrap();
    let head = fill(
        Options {
            keep_segments: NonZeroUsize::new(3),
            ..small(dir.path())
        },
        60,
    );
    assert!(segments(dir.path()).len() <= 4);
    let report = verify(dir.path(), Some(&head), None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
    assert!(report.first.unwrap() > 20);
    assert!(
        export(dir.path(), 1)
            .unwrap()
            .any(|line| line.unwrap().contains("log.pruned"))
    );
    // Past the sixtieth, records are later than those before.
    fill(
        Options {
            keep_for: Some(Duration::ZERO),
            ..small(dir.path())
        },
        90,
    );
    // The newest full one and the one before, by which age is counted, stay.
    assert!(segments(dir.path()).len() <= 3);
    assert!(verify(dir.path(), None, None).unwrap().is_ok());
    // Removing one more by hand is found.
    fs::remove_file(&segments(dir.path())[0]).unwrap();
    assert!(!verify(dir.path(), None, None).unwrap().is_ok());
}

#[test]
fn a_head_is_no_permission_to_remove_what_is_before_it() {
    let dir = tempfile::tempdir().unwrap();
    fill(small(dir.path()), 30);
    let heads = fs::read_to_string(dir.path().join("heads.jsonl")).unwrap();
    let files = segments(dir.path());
    let end = tail_of(&files[0]);
    let head = heads
        .lines()
        .find(|line| line.parse::<Head>().unwrap().seq == end)
        .unwrap();
    fs::write(dir.path().join("anchor.json"), format!("{head}\n")).unwrap();
    let opened = Log::open(small(dir.path()), NOW);
    assert!(matches!(opened, Err(AuditError::Damaged { .. })));
    assert_eq!(segments(dir.path()), files, "opening removed records");
    fs::remove_file(&files[0]).unwrap();
    let report = verify(dir.path(), None, None).unwrap();
    let problems: Vec<_> = report.findings.iter().map(|f| &f.problem).collect();
    assert!(problems.contains(&&Problem::BadSignature), "{problems:?}");
    let first_left = Problem::OutOfPlace {
        expected: 1,
        found: end + 1,
    };
    assert!(problems.contains(&&first_left), "{problems:?}");
}

#[test]
fn the_files_on_disk_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        let log = Log::open(small(dir.path()), NOW).unwrap();
        for n in 1..=25 {
            let ticket = log.append(&entry(n)).unwrap();
            log.durable(ticket, LONG).unwrap();
            let files = segments(dir.path()).len();
            assert_eq!(log.health().segments, u64::try_from(files).unwrap());
        }
    }
    assert!(segments(dir.path()).len() > 4);
}

#[test]
fn an_interrupted_removal_verifies_and_is_finished() {
    let dir = tempfile::tempdir().unwrap();
    fill(small(dir.path()), 30);
    let before: Vec<_> = segments(dir.path())
        .into_iter()
        .map(|path| (fs::read(&path).unwrap(), path))
        .collect();
    let options = Options {
        keep_segments: NonZeroUsize::new(2),
        ..small(dir.path())
    };
    fill(options.clone(), 8);
    let (bytes, path) = before
        .iter()
        .rev()
        .find(|(_, path)| !path.exists())
        .unwrap();
    fs::write(path, bytes).unwrap();
    let report = verify(dir.path(), None, None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
    drop(Log::open(options, NOW).unwrap());
    assert!(!path.exists());
    assert!(verify(dir.path(), None, None).unwrap().is_ok());
}

#[test]
fn missing_events_of_an_enforcer_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(dir.path()), NOW).unwrap();
    for n in [1, 2, 5, 6] {
        log.append(&entry(n)).unwrap();
    }
    // A restart counts from one again.
    let mut started = entry(1);
    started.event = RecordKind::Event(EventKind::EnforcerStarted);
    log.append(&started).unwrap();
    log.append(&entry(2)).unwrap();
    drop(log);
    let report = verify(dir.path(), None, None).unwrap();
    assert!(report.is_ok());
    assert_eq!((report.records, report.enforcer_gaps), (6, 2));
}

#[test]
fn events_that_stand_elsewhere_are_not_missing() {
    let dir = tempfile::tempdir().unwrap();
    fill(Options::new(dir.path()), 8);
    let file = &segments(dir.path())[0];
    let mut lines: Vec<String> = fs::read_to_string(file)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.swap(3, 5);
    fs::write(file, lines.join("\n") + "\n").unwrap();
    let report = verify(dir.path(), None, None).unwrap();
    assert!(!report.is_ok());
    assert_eq!(report.enforcer_gaps, 0);
}

/// The last sequence number in a segment.
fn tail_of(path: &Path) -> u64 {
    let text = fs::read_to_string(path).unwrap();
    serde_json::from_str::<Record>(text.lines().last().unwrap())
        .unwrap()
        .seq
}

#[test]
fn callbacks_come_once_and_too_long_records_leave_a_gap() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(dir.path()), NOW).unwrap();
    let (sender, receiver) = mpsc::channel();
    let ticket = log.append(&entry(1)).unwrap();
    log.when_durable(ticket, move |result| sender.send(result).unwrap());
    assert_eq!(receiver.recv_timeout(LONG).unwrap(), Ok(()));
    assert!(receiver.recv_timeout(LONG).is_err(), "called twice");
    let long = entry(2).with("more", "x".repeat(70_000));
    assert_eq!(log.append(&long), Err(AppendError::TooLong));
    assert_eq!(log.health().lost, 1);
    drop(log);
    let report = verify(dir.path(), None, None).unwrap();
    assert!(report.is_ok());
    assert_eq!((report.records, report.lost), (2, 1));
}

#[test]
fn a_segment_that_is_taken_away_while_it_is_written_is_missed() {
    for how in [
        |path: &Path| fs::remove_file(path),
        |path: &Path| fs::rename(path, path.with_extension("away")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = Log::open(Options::new(dir.path()), NOW).unwrap();
        let write = |n| log.durable(log.append(&entry(n)).unwrap(), LONG).unwrap();
        (1..=5).for_each(write);
        how(&segments(dir.path())[0]).unwrap();
        (6..=7).for_each(write);
        drop(log);
        let report = verify(dir.path(), None, None).unwrap();
        assert!(!report.is_ok());
        assert_eq!((report.records, report.last.unwrap().0), (2, 7));
        // As of a log that was cut while nobody wrote it, the next start says so.
        let damaged = Log::open(Options::new(dir.path()), NOW);
        assert!(matches!(damaged, Err(AuditError::Damaged { .. })));
    }
}

#[test]
fn a_log_verifies_while_retention_removes_its_beginning() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        keep_segments: NonZeroUsize::new(2),
        ..small(dir.path())
    };
    let log = Log::open(options, NOW).unwrap();
    let written = AtomicU64::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for n in 0..400 {
                // Several at once, so that segments come and go while one verification reads.
                let tickets = (0..4).map(|_| log.append(&entry(n)).unwrap());
                log.durable(tickets.last().unwrap(), LONG).unwrap();
                written.store(n + 1, Ordering::Release);
            }
        });
        while written.load(Ordering::Acquire) < 400 {
            let report = verify(dir.path(), None, None).unwrap();
            // The last line may be on its way.
            let wrong = report.findings.iter();
            let wrong: Vec<_> = wrong.filter(|f| f.problem != Problem::Torn).collect();
            assert!(wrong.is_empty(), "{wrong:?}");
        }
    });
}

#[test]
fn whoever_verifies_without_end_does_not_keep_everything() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options {
        keep_segments: NonZeroUsize::new(2),
        ..small(dir.path())
    };
    let log = Log::open(options, NOW).unwrap();
    let reading = fs::File::open(dir.path()).unwrap();
    flock(&reading, FlockOperation::LockShared).unwrap();
    for n in 0..1_200 {
        let large = entry(n).with("large", "x".repeat(60_000));
        log.durable(log.append(&large).unwrap(), LONG).unwrap();
    }
    assert!(segments(dir.path()).len() < 1_150);
}
