//! A disk that takes nothing more, or is slow, under the real thing: what it still does, what it says, and what it does
//! once there is room again.
#![cfg(test)]

mod support;

use std::{fs::File, os::fd::OwnedFd, time::Duration};

use curfew_model::Clock as _;
use curfew_testkit::BootClock;
use rustix::pipe::PipeFlags;
use serde_json::json;

use support::{
    curfew,
    site::{Client, PATIENCE, Running, Site, leads_nowhere},
};

#[test]
fn an_order_that_finds_no_room_closes_and_keeps_nobody_out() {
    let site = Site::start("");
    let mut client = site.open("127.0.0.1");
    site.fill_disk();
    let revoke = ["revoke", "--user", "alice", "--reason", "left the company"];
    let start = BootClock.now().boot;
    let refused = site.curfew(&revoke);
    // The command has tried twice.
    let took = BootClock.now().boot.since(start);
    assert!(took < Duration::from_secs(8), "{took:?}");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains("(not_durable)"), "{refused:?}");
    assert!(client.is_ended());
    let failing = site.logged("the audit log cannot be written");
    assert_eq!(failing["level"], "ERROR");
    let fields = &failing["fields"];
    let told = fields["message"].as_str().unwrap();
    assert!(told.contains("high and critical"), "{told}");
    assert!(!fields["reason"].as_str().unwrap().is_empty());
    site.free_disk();
    let listed = site.curfew(&["revocations", "list", "--output", "json"]);
    assert_eq!(listed.json(), json!([]));
    let recovered = site.logged("the audit log is written again");
    assert_eq!(
        (&recovered["level"], &recovered["fields"]["lost"]),
        (&json!("INFO"), &json!(0))
    );
    // High segments take sessions again.
    let give_up = BootClock.now().boot.after(PATIENCE);
    while !site.connect("127.0.0.1").echoes() {
        assert!(BootClock.now().boot < give_up, "alice stays out");
    }
    let done = site.curfew(&revoke);
    assert_eq!(done.code, 0, "{done:?}");
    assert!(!site.connect("127.0.0.1").echoes());
}

/// Changes that wait for the disk at once: more than may.
const CHANGES: usize = 100;

#[test]
fn an_order_ends_sessions_though_the_disk_is_busy_with_what_came_before() {
    let site = Site::start("");
    let mut clients = ["127.0.0.2", "127.0.0.1"].map(|from| site.open(from));
    let token = std::fs::read_to_string(site.path("data/admin.token")).unwrap();
    // The store waits for this for five seconds.
    let busy = rusqlite::Connection::open(site.path("data/state.db")).unwrap();
    busy.execute_batch("BEGIN IMMEDIATE").unwrap();
    let start = BootClock.now().boot;
    let changes: Vec<_> = (0..CHANGES)
        .map(|number| {
            let body = format!("{{\"address\": \"10.0.0.{number}\", \"user\": \"carol\"}}");
            site.begin("PUT", "/v1/bindings", token.trim(), &body)
        })
        .collect();
    let orders = ["bob", "alice"].map(|user| {
        let order = ["revoke", "--user", user, "--reason", "left the company"];
        site.command("http", &order).spawn().unwrap()
    });
    assert!(clients.iter_mut().all(Client::is_ended));
    let took = BootClock.now().boot.since(start);
    assert!(took < Duration::from_secs(4), "{took:?}");
    busy.execute_batch("ROLLBACK").unwrap();
    for mut order in orders {
        assert!(order.wait().unwrap().success());
    }
    for change in changes {
        let answer = change.answer();
        assert!(answer.starts_with("HTTP/1.0 20"), "{answer}");
    }
}

/// Sessions that may come before the log has failed and that is known. Without being told at once, the server would let
/// in hundreds.
const FEW: usize = 50;

#[test]
fn high_segments_take_no_session_from_the_first_record_on_that_finds_no_room() {
    let site = Site::start("");
    site.open("127.0.0.1");
    site.fill_disk();
    let taken = (0..FEW).take_while(|_| site.connect("127.0.0.1").echoes());
    assert!(taken.count() < FEW);
    site.logged("the audit log is full");
}

#[test]
fn a_process_whose_log_for_operators_takes_nothing_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let config = leads_nowhere(folder.path(), "");
    let full = || OwnedFd::from(File::options().write(true).open("/dev/full").unwrap());
    // Whoever reads it takes nothing, and leaves no room.
    let (_reader, writer) = rustix::pipe::pipe_with(PipeFlags::NONBLOCK).unwrap();
    while rustix::io::write(&writer, b"x").is_ok() {}
    rustix::io::ioctl_fionbio(&writer, false).unwrap();
    for (form, takes_nothing) in [("text", full()), ("json", full()), ("text", writer)] {
        let server = curfew(&["run", "--log", form, "-c"])
            .arg(&config)
            .stderr(takes_nothing)
            .spawn();
        let mut server = Running(server.unwrap());
        let give_up = BootClock.now().boot.after(PATIENCE);
        // It is the last that is made before it serves, and it has said something by then.
        while !folder.path().join("data/admin.token").exists() {
            assert!(BootClock.now().boot < give_up, "it does not serve");
        }
        server.signal("HUP");
        server.signal("TERM");
        let ended = loop {
            assert!(BootClock.now().boot < give_up, "it does not end");
            if let Some(ended) = server.0.try_wait().unwrap() {
                break ended;
            }
        };
        assert_eq!(ended.code(), Some(0), "{form}");
        std::fs::remove_dir_all(folder.path().join("data")).unwrap();
    }
}
