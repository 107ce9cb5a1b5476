//! What `audit` in the configuration does to the log of the real thing.
#![cfg(test)]

mod support;

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
