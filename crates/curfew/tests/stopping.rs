//! SIGTERM: what is said and served while sessions finish.
#![cfg(test)]

mod support;

use curfew_model::Clock as _;
use curfew_testkit::BootClock;

use support::site::{PATIENCE, Site};

#[test]
fn a_process_that_stops_is_not_ready_and_says_why_while_sessions_finish() {
    let mut site = Site::start("");
    let mut client = site.open("127.0.0.1");
    let ready = site.get("/readyz");
    assert!(ready.starts_with("HTTP/1.0 200"), "{ready}");
    site.signal("TERM");
    site.logged("stopping");
    let give_up = BootClock.now().boot.after(PATIENCE);
    let ready = loop {
        assert!(client.echoes(), "a live session was ended");
        let ready = site.get("/readyz");
        if !ready.starts_with("HTTP/1.0 200") {
            break ready;
        }
        assert!(BootClock.now().boot < give_up, "{ready}");
    };
    assert!(ready.starts_with("HTTP/1.0 503"), "{ready}");
    assert!(ready.contains("the process stops"), "{ready}");
    drop(client);
    assert_eq!(site.ended(), Some(0));
}
