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
};

use curfew_model::{Revision, RevocationId};
use curfew_state::{Change, EmbeddedStore, LocalBus, Store, StoreError, conformance};

#[test]
fn the_embedded_store_conforms() {
    assert_eq!(conformance::STORE.len(), 8);
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
            .commit(None, &[Change::Revoke(conformance::order(n))])
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
        let revision = store.commit(None, &[Change::Revoke(order)]).unwrap();
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
