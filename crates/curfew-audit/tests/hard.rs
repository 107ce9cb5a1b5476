//! A log whose process is killed, and one whose disk is full.
#![cfg(test)]

mod support;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    num::NonZeroUsize,
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
};

use curfew_audit::{AppendError, Log, Options, verify};
use support::{LONG, NOW, entry};

/// Not a test of its own: the child that `a_killed_writer_…` kills.
#[test]
fn child_that_writes_until_killed() {
    let Some(dir) = std::env::var_os("AUDIT_CHILD_DIR") else {
        return;
    };
    let log = Log::open(
        Options {
            max_segment: 20_000,
            ..Options::new(dir)
        },
        NOW,
    )
    .unwrap();
    let mut out = std::io::stdout();
    for n in 1.. {
        let mut ticket = None;
        for _ in 0..5 {
            ticket = Some(log.append(&entry(n)).unwrap());
        }
        log.durable(ticket.unwrap(), LONG).unwrap();
        writeln!(out, "durable {}", log.health().seq).unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_writer_loses_nothing_durable() {
    let dir = tempfile::tempdir().unwrap();
    let mut durable = 0;
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_until_killed", "--nocapture"])
            .env("AUDIT_CHILD_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut seen = 0;
        for line in lines {
            let line = line.unwrap();
            let Some((_, seq)) = line.split_once("durable ") else {
                continue;
            };
            durable = seq.parse().unwrap();
            seen += 1;
            if seen == 1 + round * 7 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen > 0, "the child wrote nothing in round {round}");
        let log = Log::open(Options::new(dir.path()), NOW).unwrap();
        let head = log.head(NOW);
        assert!(head.seq >= durable, "durable {durable}, found {}", head.seq);
        drop(log);
        let report = verify(dir.path(), Some(&head), None).unwrap();
        assert!(report.is_ok(), "{:?}", report.findings);
    }
}

#[test]
fn a_writer_that_fails_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let log = Log::open(Options::new(dir.path()), NOW).unwrap();
    let (tell, told) = mpsc::channel();
    log.watch(move |keeps_records| tell.send(keeps_records).unwrap());
    let refused = (1..).find_map(|n| match log.append(&entry(n)) {
        Ok(ticket) => {
            log.when_durable(ticket, |result| {
                let here = std::thread::current();
                assert!(result.is_err() || here.name() != Some("audit"), "fails");
            });
            None
        }
        Err(error) => Some(error),
    });
    assert_eq!(refused, Some(AppendError::Closed));
    assert!(!log.health().keeps_records());
    log.unwatch();
    assert_eq!(told.iter().collect::<Vec<_>>(), [true, false]);
}

#[test]
fn a_full_disk_is_said_counted_and_recorded() {
    let dir = tempfile::tempdir().unwrap();
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=256k", "none"])
        .arg(dir.path())
        .status()
        .is_ok_and(|status| status.success());
    if !mounted {
        assert!(
            std::env::var_os("CI").is_none(),
            "mounting a tmpfs needs root"
        );
        eprintln!("SKIPPED: mounting a tmpfs needs root");
        return;
    }
    let result = std::panic::catch_unwind(|| full_disk(dir.path()));
    assert!(
        Command::new("umount")
            .arg(dir.path())
            .status()
            .unwrap()
            .success()
    );
    result.unwrap();
}

fn full_disk(dir: &Path) {
    let options = Options {
        queue: NonZeroUsize::new(50).unwrap(),
        max_segment: 30_000,
        ..Options::new(dir)
    };
    let log = Log::open(options, NOW).unwrap();
    let (tell, told) = mpsc::channel();
    log.watch(move |keeps_records| tell.send(keeps_records).unwrap());
    let ballast = dir.join("ballast");
    let mut file = fs::File::create(&ballast).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    let mut n = 0;
    let mut last = None;
    while log.health().lost < 10 {
        n += 1;
        match log.append(&entry(n)) {
            Ok(ticket) => last = Some(ticket),
            Err(error) => assert_eq!(error, AppendError::Full),
        }
        assert!(n < 10_000_000, "the disk never filled");
    }
    assert!(!log.health().keeps_records());
    drop(file);
    fs::remove_file(&ballast).unwrap();
    log.durable(last.unwrap(), LONG).unwrap();
    let lost = log.health().lost;
    let ticket = loop {
        if let Ok(ticket) = log.append(&entry(n + 1)) {
            break ticket;
        }
    };
    log.durable(ticket, LONG).unwrap();
    assert_eq!(log.health().error, None);
    log.unwatch();
    // Each change once: it keeps records, it does not, and so on, until it does again.
    let told: Vec<bool> = told.iter().collect();
    assert!(told.len() >= 3 && told.len() % 2 == 1, "{told:?}");
    assert!(told.iter().step_by(2).all(|keeps| *keeps), "{told:?}");
    assert!(
        !told.iter().skip(1).step_by(2).any(|keeps| *keeps),
        "{told:?}"
    );
    drop(log);
    let report = verify(dir, None, None).unwrap();
    assert!(report.is_ok(), "{:?}", report.findings);
    assert!(report.lost >= lost);
}
