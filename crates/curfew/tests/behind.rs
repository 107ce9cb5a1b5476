//! A state that is older than what is on record, as after a restored backup.
#![cfg(test)]

mod support;

use std::{fs, path::Path};

use support::{Ran, curfew, site::Site};

/// The database and its log.
const FILES: [&str; 2] = ["state.db", "state.db-wal"];

fn copy(from: &Path, to: &Path) {
    for name in FILES {
        // There is no log after a stop in order.
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

#[test]
fn a_state_that_is_older_than_the_log_is_said_and_recorded() {
    let mut site = Site::start("");
    let says = |site: &Site| {
        let told = "the state is of revision";
        site.begun
            .iter()
            .any(|line| line.to_string().contains(told))
    };
    site.restart_after(|folder| {
        fs::create_dir(folder.join("backup")).unwrap();
        copy(&folder.join("data"), &folder.join("backup"));
    });
    assert!(!says(&site), "{:?}", site.begun);
    let revoke = [
        "revoke", "--user", "alice", "--reason", "left", "--wait", "5s",
    ];
    site.curfew(&revoke);
    // A start is sure of what it found.
    site.restart();
    assert!(!says(&site), "{:?}", site.begun);
    site.restart_after(|folder| {
        copy(&folder.join("backup"), &folder.join("data"));
    });
    assert!(says(&site), "{:?}", site.begun);
    let audit = site.path("data/audit");
    let exported = Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()])).out;
    assert_eq!(exported.matches("state.behind").count(), 1);
    // It is said once.
    site.restart();
    assert!(!says(&site), "{:?}", site.begun);
}
