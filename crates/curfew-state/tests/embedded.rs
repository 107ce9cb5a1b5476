//! The embedded store against the conformance suite, against kill -9, and against files that it must refuse.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test asserts by panicking"
)]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use curfew_model::{Revision, RevocationId, WallInstant};
use curfew_state::{
    Change, CommitError, EmbeddedStore, Expected, LocalBus, Owner, POLICY_BYTES, Store, StoreError,
    WatchError, conformance,
};

#[test]
fn the_policy_is_read_beside_its_writer_and_after_it() {
    let dir = tempfile::tempdir().unwrap();
    let read = || EmbeddedStore::policies(dir.path());
    assert!(read().unwrap().is_empty());
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let apply = Change::ApplyPolicy {
        owner: Owner::Api,
        content: "x".into(),
        at: WallInstant(1),
        by: "api:admin".to_owned(),
    };
    store.commit(Expected::Nothing, &[apply]).unwrap();
    let kept = store.read().policies.clone();
    assert_eq!(kept.len(), 1);
    assert_eq!(read().unwrap(), kept);
    drop(store);
    assert_eq!(read().unwrap(), kept);
    std::fs::write(dir.path().join("state.db"), "no database").unwrap();
    assert!(read().is_err());
}

#[test]
fn the_embedded_store_conforms() {
    assert_eq!(conformance::STORE.len(), 10);
    for (name, check) in conformance::STORE {
        let dir = tempfile::tempdir().unwrap();
        let open = || match EmbeddedStore::open(dir.path()) {
            Ok(store) => Ok(Box::new(store) as Box<dyn Store>),
            Err(error) => Err(error.to_string()),
        };
        check(&open).unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

#[test]
fn the_local_bus_conforms() {
    conformance::bus(&LocalBus::new()).unwrap();
}

#[test]
fn a_second_opener_is_told_who_has_it() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let error = EmbeddedStore::open(dir.path()).unwrap_err();
    let expected = format!("in use by process {}", std::process::id());
    assert!(error.to_string().contains(&expected), "{error}");
    drop(store);
    EmbeddedStore::open(dir.path()).unwrap();
}

#[test]
fn a_file_that_is_removed_or_replaced_takes_no_commits() {
    let seen = [Change::ForgetEnds {
        before: WallInstant(1),
    }];
    for name in ["state.db", "state.db-wal"] {
        for replaced in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let store = EmbeddedStore::open(dir.path()).unwrap();
            store.commit(Expected::Nothing, &seen).unwrap();
            let (file, kept) = (dir.path().join(name), dir.path().join("kept"));
            std::fs::rename(&file, &kept).unwrap();
            if replaced {
                std::fs::copy(&kept, &file).unwrap();
            }
            assert!(store.is_in_place().is_err());
            let order = [Change::Revoke(conformance::order(1))];
            let error = store.commit(Expected::Nothing, &order).unwrap_err();
            assert!(error.to_string().contains("removed or replaced"), "{error}");
            assert_eq!(store.read().revision, Revision(1));
            std::fs::rename(&kept, &file).unwrap();
            assert_eq!(store.is_in_place(), Ok(()));
            let last = store.commit(Expected::Nothing, &seen).unwrap();
            drop(store);
            // What was refused is not made for the next start either.
            let store = EmbeddedStore::open(dir.path()).unwrap();
            assert_eq!(store.read().revision, last);
            assert!(store.read().revocations.is_empty());
        }
    }
}

#[test]
fn a_watcher_that_falls_behind_is_told_to_read_the_state() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let mut slow = store.watch(Revision(0)).unwrap();
    let seen = [Change::ForgetEnds {
        before: WallInstant(1),
    }];
    for _ in 0..=4096 {
        store.commit(Expected::Nothing, &seen).unwrap();
    }
    let behind = WatchError::Behind { from: Revision(0) };
    assert_eq!(slow.next(Duration::ZERO).unwrap_err(), behind);
    assert!(store.watch(Revision(1)).is_ok());
    drop(store);
    let store = EmbeddedStore::open(dir.path()).unwrap();
    assert_eq!(store.watch(Revision(0)).err(), Some(behind));
    let mut current = store.watch(store.read().revision).unwrap();
    let next = store.commit(Expected::Nothing, &seen).unwrap();
    let commit = current.next(Duration::from_secs(20)).unwrap().unwrap();
    assert_eq!(commit.revision, next);
}

#[test]
fn what_is_too_much_is_refused_whole() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    let seen = Change::ForgetEnds {
        before: WallInstant(1),
    };
    let many = vec![seen.clone(); 10_001];
    let large = Change::ApplyPolicy {
        owner: Owner::Files,
        content: "x".repeat(POLICY_BYTES + 1).into(),
        at: WallInstant(1),
        by: "files".to_owned(),
    };
    let key = "k".repeat(257);
    for refused in [
        store.commit(Expected::Nothing, &many).map(|_| ()),
        store
            .commit(Expected::Nothing, &[seen.clone(), large])
            .map(|_| ()),
        store
            .commit_with(Some(&key), Expected::Nothing, &[seen], Box::new(|_| ()))
            .map(|_| ()),
    ] {
        assert!(
            matches!(refused, Err(CommitError::Limit { .. })),
            "{refused:?}"
        );
    }
    assert_eq!(store.read().revision, Revision(0));
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(EmbeddedStore::open(dir.path()).unwrap());
    let path = dir.path().join("state.db");
    let newer = rusqlite::Connection::open(&path).unwrap();
    newer.pragma_update(None, "user_version", 99).unwrap();
    drop(newer);
    let error = EmbeddedStore::open(dir.path()).unwrap_err();
    assert_eq!(
        error,
        StoreError::NewerSchema {
            path,
            found: 99,
            known: 1
        }
    );
}

#[test]
fn a_damaged_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedStore::open(dir.path()).unwrap();
    for n in 0..50 {
        store
            .commit(Expected::Nothing, &[Change::Revoke(conformance::order(n))])
            .unwrap();
    }
    drop(store);
    let path = dir.path().join("state.db");
    let whole = fs::read(&path).unwrap();
    let mut no_database = whole.clone();
    no_database[..16].copy_from_slice(b"not a database!!");
    let mut broken_pages = whole.clone();
    for page in broken_pages.chunks_mut(4096).skip(1) {
        page[..200].fill(0xff);
    }
    for bytes in [no_database, broken_pages, b"hello".repeat(1000)] {
        fs::write(&path, bytes).unwrap();
        let error = EmbeddedStore::open(dir.path()).unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { .. }), "{error:?}");
    }
    fs::write(&path, whole).unwrap();
    assert_eq!(
        EmbeddedStore::open(dir.path()).unwrap().read().revision,
        Revision(50)
    );
}

/// Not a test of its own: the child that `a_killed_store_…` kills.
#[test]
fn child_that_commits_until_killed() {
    let Some(dir) = std::env::var_os("STATE_CHILD_DIR") else {
        return;
    };
    let store = EmbeddedStore::open(dir.as_ref()).unwrap();
    let start = u128::from(store.read().revision.0) + 1;
    for n in start.. {
        let order = conformance::order(n);
        let id = order.id;
        let revision = store
            .commit(Expected::Nothing, &[Change::Revoke(order)])
            .unwrap();
        let mut out = std::io::stdout();
        writeln!(out, "acknowledged {revision} {id}").unwrap();
        out.flush().unwrap();
    }
}

#[test]
fn a_killed_store_has_everything_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut acknowledged: Vec<(Revision, RevocationId)> = Vec::new();
    for round in 0..12 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_commits_until_killed", "--nocapture"])
            .env("STATE_CHILD_DIR", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut seen = 0;
        for line in BufReader::new(child.stdout.take().unwrap()).lines() {
            let line = line.unwrap();
            let Some((_, rest)) = line.split_once("acknowledged ") else {
                continue;
            };
            let (revision, id) = rest.split_once(' ').unwrap();
            acknowledged.push((Revision(revision.parse().unwrap()), id.parse().unwrap()));
            seen += 1;
            if seen == 1 + round * 5 {
                child.kill().unwrap();
            }
        }
        child.wait().unwrap();
        assert!(seen > 0, "the child committed nothing in round {round}");
        let state = EmbeddedStore::open(dir.path()).unwrap().read();
        for (revision, id) in &acknowledged {
            assert_eq!(
                state.revocations.get(id).map(|order| order.revision),
                Some(*revision)
            );
        }
    }
}

#[test]
fn accepted_changes_are_told_before_they_are_durable() {
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path()).unwrap());
    let (tell, told) = std::sync::mpsc::sync_channel(1);
    let watched = Arc::clone(&store);
    let accepted = Box::new(move |commit: &Arc<curfew_state::Commit>| {
        tell.send((commit.revision, watched.read().revision))
            .unwrap();
    });
    let changes = [Change::Revoke(conformance::order(1))];
    store
        .commit_with(None, Expected::Nothing, &changes, accepted)
        .unwrap();
    let (accepted, durable) = told.recv().unwrap();
    assert_eq!((accepted, durable), (Revision(1), Revision(0)));
}
