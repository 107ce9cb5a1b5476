//! What is known of a subject apart from its bindings, against the real thing: it admits, it survives, and taking it
//! back ends what it had admitted.
#![cfg(test)]

mod support;

use support::site::Site;

#[test]
fn a_group_of_a_bound_user_admits_it_until_it_is_forgotten() {
    let mut site = Site::start_with("", "- {address: 127.0.0.3, user: carol}\n");
    assert!(!site.connect("127.0.0.3").echoes(), "carol is in no group");
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
