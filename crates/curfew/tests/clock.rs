//! A wall clock that is behind the record: what it revives, and how an administrator has it accepted.
#![cfg(test)]

mod support;

use std::path::Path;

use curfew_audit::{Entry, Log, Options};
use curfew_model::{Event, EventKind, Revision, WallInstant};
use support::{Ran, curfew, site::Site};

/// A grant that ends in 2099.
const GRANT: &str = "
---
apiVersion: curfew.dev/v1alpha1
kind: Segment
metadata: {name: echo}
spec: {sensitivity: high, members: [{service: echo}]}
---
apiVersion: curfew.dev/v1alpha1
kind: SessionPolicy
metadata: {name: dba}
spec: {from: {groups: [dba]}, to: {segments: [echo]}, notAfter: 2099-01-01T00:00:00Z}
";

/// Puts on record what a process records whose clock shows a year after the end of the grant.
fn record_the_future(folder: &Path) {
    let at = WallInstant(4_102_444_800_000);
    let log = Log::open(Options::new(folder.join("data/audit")), at).unwrap();
    let event = Event::new(EventKind::EnforcerStarted, at, Revision(1));
    log.append(&Entry::new(event)).unwrap();
    log.close();
}

/// Before it serves anybody.
fn says_behind(site: &Site) -> bool {
    let told = "the wall clock is behind the latest time on record";
    site.begun
        .iter()
        .any(|line| line.to_string().contains(told))
}

#[test]
fn a_clock_set_back_reopens_no_grant_over_restarts_until_it_is_accepted() {
    let mut site = Site::start("");
    site.restart_after(|folder| std::fs::write(folder.join("policy/p.yaml"), GRANT).unwrap());
    site.open("127.0.0.1");

    site.restart_after(record_the_future);
    assert!(says_behind(&site), "{:?}", site.begun);
    assert!(!site.connect("127.0.0.1").echoes());
    let refused = site.curfew(&["sessions", "list", "--state", "refused", "--output", "json"]);
    assert_eq!(refused.json()[0]["reason"], "grant_expired");
    // The process before had nothing on record from its own clock that is later.
    site.restart();
    assert!(says_behind(&site), "{:?}", site.begun);
    assert!(!site.connect("127.0.0.1").echoes());

    let listed = site
        .curfew(&["enforcers", "list", "--output", "json"])
        .json();
    assert!(listed[0]["clock_behind_ms"].as_u64() > Some(1_000_000_000_000));
    let name = listed[0]["id"].as_str().unwrap();
    let accepted = site.curfew(&["enforcers", "accept-clock", name]);
    assert_eq!(accepted.code, 0, "{accepted:?}");
    site.logged("judged by what the wall clock shows again");
    site.open("127.0.0.1");
    site.restart();
    site.open("127.0.0.1");

    let audit = site.path("data/audit");
    let exported = Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()])).out;
    let told = |event: &str| {
        let is_told = format!(r#""event":"{event}""#);
        let lines = exported.lines().filter(|line| line.contains(&is_told));
        lines.collect::<Vec<_>>()
    };
    let judged_by = "sessions are judged by 2100-01-01T00:00:0";
    let behind = told("clock.behind");
    assert!(
        behind.len() == 2 && behind[0].contains(judged_by),
        "{behind:?}"
    );
    let accepted = told("clock.accepted");
    assert_eq!(accepted.len(), 1, "{accepted:?}");
    assert!(accepted[0].contains(r#""by":"api:admin""#), "{accepted:?}");
}

#[test]
fn an_accepted_clock_is_remembered_though_its_record_was_removed() {
    let mut site = Site::start_with("", "audit: {segment_size: 64KiB, keep_segments: 1}\n");
    site.restart_after(|folder| {
        std::fs::write(folder.join("policy/p.yaml"), GRANT).unwrap();
        record_the_future(folder);
    });
    let listed = || {
        site.curfew(&["enforcers", "list", "--output", "json"])
            .json()
    };
    let name = listed()[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(site.curfew(&["enforcers", "accept-clock", &name]).code, 0);
    let audit = site.path("data/audit");
    let export = || Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()])).out;
    let mut tries = 0..50_000;
    assert!(tries.any(|number| {
        drop(site.open("127.0.0.1"));
        number % 50 == 0 && !export().contains("clock.accepted")
    }));
    site.restart();
    site.open("127.0.0.1");
}
