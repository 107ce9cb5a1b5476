//! What `audit` in the configuration does to the log of the real thing.
#![cfg(test)]

mod support;

use serde_json::Value;
use support::{Ran, curfew, site::Site};

/// Sessions that are opened before patience is lost.
const TRIES: u32 = 50_000;

#[test]
fn old_segments_go_and_what_stays_still_verifies() {
    let parts = "audit: {segment_size: 64KiB, keep_segments: 2}\n";
    let site = Site::start_with("", parts);
    let audit = site.path("data/audit");
    let segments = || {
        let files = std::fs::read_dir(&audit).unwrap();
        let name = |file: std::io::Result<std::fs::DirEntry>| file.unwrap().file_name();
        let names = files.map(|file| name(file).into_string().unwrap());
        let mut names: Vec<String> = names.filter(|name| name.starts_with('0')).collect();
        names.sort_unstable();
        names
    };
    let first = segments();
    // The file with the first record is among those that go.
    let mut tries = 0..TRIES;
    assert!(tries.any(|_| {
        drop(site.open("127.0.0.1"));
        !segments().contains(&first[0])
    }));
    assert!(segments().len() <= 3, "{:?}", segments());
    let verified = Ran::of(&mut curfew(&["audit", "verify", audit.to_str().unwrap()]));
    assert_eq!(verified.code, 0, "{verified:?}");
    let export = || Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()])).out;
    assert!(tries.any(|_| export().contains("log.pruned")));
}

#[test]
fn a_killed_session_whose_opening_was_removed_is_recorded_as_ended() {
    let parts = "audit: {segment_size: 64KiB, keep_segments: 1}\n";
    let mut site = Site::start_with("", parts);
    let early = site.open("127.0.0.2");
    let session = site.sessions()[0]["id"].clone();
    let audit = site.path("data/audit");
    let records = || -> Vec<Value> {
        let exported = Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()]));
        let lines = exported.out.lines().map(serde_json::from_str);
        let all: Vec<Value> = lines.map(Result::unwrap).collect();
        all.into_iter()
            .filter(|record| record["session"] == session)
            .collect()
    };
    let mut tries = 0..TRIES;
    assert!(tries.any(|number| {
        drop(site.open("127.0.0.1"));
        number % 50 == 0 && records()[0]["event"] == "log.carried"
    }));
    site.restart();
    drop(early);
    site.restart();
    let ends = records();
    let ended: Vec<&Value> = ends
        .iter()
        .filter(|record| record["event"] == "session.ended")
        .collect();
    assert_eq!(ended.len(), 1, "{ends:?}");
    assert_eq!(ended[0]["reason"], "enforcer_lost");
    assert_eq!(ended[0]["subject"]["id"], "bob");
}

#[test]
fn every_killed_session_is_recorded_as_ended_though_the_log_takes_one_record_at_a_time() {
    let mut site = Site::start("");
    let open: Vec<_> = (0..5).map(|_| site.open("127.0.0.1")).collect();
    let audit = site.path("data/audit");
    let count = |event: &str| {
        let exported = Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()]));
        exported
            .out
            .lines()
            .filter(|line| line.contains(event))
            .count()
    };
    assert!((0..TRIES).any(|_| count("session.opened") == open.len()));
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let config = format!("{config}audit: {{queue: 1}}\n");
    std::fs::write(site.path("curfew.yaml"), config).unwrap();
    site.restart();
    assert_eq!(count("enforcer_lost"), open.len());
}

#[test]
fn a_log_is_signed_to_its_end_when_the_process_stops() {
    let mut site = Site::start("");
    // Behind a name: the thread that looks it up is not waited for.
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let named = config.replace("upstream: '127.0.0.1:", "upstream: 'localhost:");
    assert_ne!(config, named);
    std::fs::write(site.path("curfew.yaml"), named).unwrap();
    site.restart();
    drop(site.open("127.0.0.1"));
    site.signal("TERM");
    assert_eq!(site.ended(), Some(0));
    let audit = site.path("data/audit");
    let audit = audit.to_str().unwrap();
    let exported = Ran::of(&mut curfew(&["audit", "export", audit])).out;
    let last: Value = serde_json::from_str(exported.lines().last().unwrap()).unwrap();
    assert_eq!(last["event"], "enforcer.stopped");
    let head = Ran::of(&mut curfew(&["audit", "head", audit, "--output", "json"]));
    assert_eq!(head.json()["seq"], last["seq"]);
}

#[test]
fn a_log_that_takes_no_records_keeps_new_sessions_out_until_it_does() {
    let site = Site::start_with("", "audit: {segment_size: 64KiB}\n");
    let (audit, away) = (site.path("data/audit"), site.path("data/away"));
    let mut early = site.open("127.0.0.1");
    // The next segment has nowhere to go.
    std::fs::rename(&audit, &away).unwrap();
    let mut tries = 0..TRIES;
    assert!(tries.any(|_| !site.connect("127.0.0.2").echoes()));
    assert!(early.echoes(), "a live session was ended");
    std::fs::rename(&away, &audit).unwrap();
    assert!(tries.any(|_| site.connect("127.0.0.2").echoes()));
    let verified = Ran::of(&mut curfew(&["audit", "verify", audit.to_str().unwrap()]));
    assert_eq!(verified.code, 0, "{verified:?}");
}
