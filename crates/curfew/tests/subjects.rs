//! What is known of a subject apart from its bindings, against the real thing: it admits, it survives, and taking it
//! back ends what it had admitted.
#![cfg(test)]

mod support;

use std::time::Duration;

use curfew_model::Clock as _;
use curfew_testkit::BootClock;
use support::site::{Site, policy};

#[test]
fn a_group_of_a_bound_user_admits_it_until_it_is_forgotten() {
    let mut site = Site::start_with("", "- {address: 127.0.0.3, user: carol}\n");
    assert!(!site.connect("127.0.0.3").echoes(), "carol is in no group");
    let device = site.curfew(&["subjects", "set", "device:laptop-17"]);
    assert!(device.err.contains("warning: no door knows devices"));
    assert_eq!(
        site.curfew(&["subjects", "forget", "device:laptop-17"])
            .code,
        0
    );
    let set = ["subjects", "set", "user:carol", "--group", "dba"];
    assert_eq!(site.curfew(&set).code, 0);
    let _alice = site.open("127.0.0.1");
    site.open("127.0.0.3");
    site.restart();
    let mut carol = site.open("127.0.0.3");
    let mut alice = site.open("127.0.0.1");
    let forgotten = site.curfew(&["subjects", "forget", "user:carol"]);
    assert_eq!(forgotten.code, 0, "{forgotten:?}");
    assert!(carol.is_ended());
    assert!(alice.echoes(), "others are untouched");
    let list = ["sessions", "list", "--state", "ended", "--output", "json"];
    let ended = site.curfew(&list).json();
    assert_eq!(ended[0]["reason"], "access_denied", "{ended}");
}

#[test]
fn an_end_that_a_change_of_a_subject_brings_says_so() {
    let site = Site::start("");
    let risky = "---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {name: risky}\n\
                 spec: {admit: false, from: {anyone: true}, to: {segments: [echo]}, when: subject.risk == 'high', limits: {maxLifetime: 50ms}}\n";
    let risk = |of: &str| {
        let attribute = format!("subject.risk={of}");
        let set = ["subjects", "set", "user:alice", "--attribute", &attribute];
        assert_eq!(site.curfew(&set).code, 0);
    };
    risk("low");
    std::fs::write(
        site.path("policy/p.yaml"),
        format!("{}{risky}", policy("30m")),
    )
    .unwrap();
    site.signal("HUP");
    site.logged("reloaded");
    let mut alice = site.open("127.0.0.1");
    let opened = BootClock.now().boot;
    while BootClock.now().boot.since(opened) < Duration::from_millis(100) {
        assert!(alice.echoes());
    }
    risk("high");
    assert!(alice.is_ended());
    let list = ["sessions", "list", "--state", "ended", "--output", "json"];
    let ended = site.curfew(&list).json();
    assert_eq!(ended[0]["reason"], "lifetime_expired", "{ended}");
    let cause = ended[0]["cause"].as_str().unwrap();
    assert!(
        cause.starts_with("SessionPolicy/risky spec.limits.maxLifetime"),
        "{cause}"
    );
    assert!(
        cause.ends_with("what is known of its subject changed"),
        "{cause}"
    );
}

#[test]
fn only_what_conditions_can_name_is_set() {
    let site = Site::start("");
    let set = |attribute: &str| {
        let set = ["subjects", "set", "user:alice", "--attribute", attribute];
        site.curfew(&set)
    };
    let refused = set("subject.rsik=low");
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(
        refused.err.contains("did you mean `subject.risk`?"),
        "{}",
        refused.err
    );
    assert_eq!(set("device.compliant=perhaps").code, 1);
    let known = site.curfew(&["subjects", "list", "--output", "json"]);
    assert_eq!(known.json(), serde_json::json!([]));
    assert_eq!(set("subject.risk=low").code, 0);
}
