//! Signals: what SIGHUP puts on record, what SIGTERM says and serves while sessions finish.
#![cfg(test)]

mod support;

use std::time::Duration;

use curfew_model::Clock as _;
use curfew_testkit::BootClock;

use support::{
    Ran, curfew,
    site::{PATIENCE, Site, policy},
};

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

#[test]
fn a_second_signal_ends_what_has_not_finished() {
    let mut site = Site::start("");
    let mut client = site.open("127.0.0.1");
    site.signal("TERM");
    site.logged("stopping");
    assert!(client.echoes(), "a live session was ended");
    // Once more at once is the same order; sooner or later it is another one.
    site.signal("TERM");
    let give_up = BootClock.now().boot.after(PATIENCE);
    while client.echoes() {
        site.signal("INT");
        assert!(BootClock.now().boot < give_up, "it drains on");
    }
    site.logged("a second signal");
    assert_eq!(site.ended(), Some(0));
}

#[test]
fn a_reload_is_on_record_once() {
    let site = Site::start("");
    let audit = site.path("data/audit");
    let applied = || {
        let export = Ran::of(&mut curfew(&["audit", "export", audit.to_str().unwrap()])).out;
        export.matches("policy.applied").count()
    };
    assert_eq!(applied(), 1);
    std::fs::write(site.path("policy/p.yaml"), policy("20m")).unwrap();
    site.signal("HUP");
    site.logged("reloaded");
    // What comes after it on record is there: so is the reload.
    assert_eq!(
        site.curfew(&["bindings", "set", "--uid", "4711", "--user", "carol"])
            .code,
        0
    );
    assert_eq!(applied(), 2);
}

#[test]
fn a_refused_reload_shows_in_the_metrics_until_one_is_taken() {
    let site = Site::start("");
    let shown = |value: &str| {
        let metrics = site.metrics();
        let line = format!("\ncurfew_reload_successful {value}\n");
        assert!(metrics.contains(&line), "{metrics}");
    };
    shown("1");
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    for (path, wrong, right) in [
        ("policy/p.yaml", "kind: Nonsense\n", policy("20m").as_str()),
        ("curfew.yaml", "data_dri: data\n", &config),
    ] {
        std::fs::write(site.path(path), wrong).unwrap();
        site.signal("HUP");
        site.logged("not reloaded");
        shown("0");
        std::fs::write(site.path(path), right).unwrap();
        site.signal("HUP");
        site.logged("reloaded");
        shown("1");
    }
}

#[test]
fn a_stricter_policy_is_taken_though_a_name_is_not_found() {
    let site = Site::start("");
    let mut client = site.open("127.0.0.1");
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let upstream = config.split("upstream: ").nth(1).unwrap();
    let upstream = upstream.split('}').next().unwrap();
    let moved = config.replace(upstream, "'nowhere.invalid:1'");
    std::fs::write(site.path("curfew.yaml"), moved).unwrap();
    std::fs::write(site.path("policy/p.yaml"), policy("1ms")).unwrap();
    site.signal("HUP");
    site.logged("reloaded");
    site.logged("restart for that");
    assert!(client.is_ended());
}

#[test]
fn what_a_reload_does_not_take_is_said() {
    let site = Site::start("");
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let moved = config.replace("data_dir: data", "data_dir: elsewhere");
    assert_ne!(moved, config);
    std::fs::write(site.path("curfew.yaml"), moved).unwrap();
    site.signal("HUP");
    site.logged("reloaded");
    site.logged("restart for that");
    assert!(!site.path("elsewhere").exists());
}

#[test]
fn policy_and_bindings_are_taken_anew_in_one_step() {
    let site = Site::start("");
    let mut alice = site.open("127.0.0.1");
    let mut bob = site.open("127.0.0.2");
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    // Alice alone moves along with what is asked for.
    for group in ["ops", "dba", "admins"] {
        let asks = policy("30m").replace("[dba]", &format!("[{group}]"));
        let moved = config.replace(
            "user: alice, groups: [dba]",
            &format!("user: alice, groups: [{group}]"),
        );
        std::fs::write(site.path("policy/p.yaml"), asks).unwrap();
        std::fs::write(site.path("curfew.yaml"), moved).unwrap();
        site.signal("HUP");
        site.logged("reloaded");
        assert!(alice.echoes(), "group {group}");
    }
    assert!(bob.is_ended(), "his group is asked for no more");
}

#[test]
fn what_is_slow_to_read_ends_no_session_and_holds_no_stop_up() {
    let mut site = Site::start("");
    let loss = "high, onControlPlaneLoss: {after: 1s, live: close, new: refuse}";
    std::fs::write(
        site.path("policy/p.yaml"),
        policy("30m").replace("sensitivity: high", &format!("sensitivity: {loss}")),
    )
    .unwrap();
    site.signal("HUP");
    site.logged("reloaded");
    let mut client = site.open("127.0.0.1");
    // Each field that there is not is compared with those that there are: that takes many seconds.
    let mut endless = policy("30m").replace("spec: {from", "spec: {");
    let fields: Vec<String> = (0..40_000).map(|n| format!("lifetime{n}: 1m, ")).collect();
    endless = endless.replace("spec: {:", &format!("spec: {{{}from:", fields.concat()));
    std::fs::write(site.path("policy/p.yaml"), endless).unwrap();
    site.signal("HUP");
    let start = BootClock.now().boot;
    while BootClock.now().boot.since(start) < Duration::from_secs(3) {
        assert!(client.echoes());
    }
    drop(client);
    site.signal("TERM");
    assert_eq!(site.ended(), Some(0));
}
