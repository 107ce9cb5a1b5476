//! The bindings of `curfew.yaml` through the command line, against the real thing: they are shown with their source, and
//! go with the file alone.
#![cfg(test)]

mod support;

use support::site::Site;

/// What is bound, to whom, and where that is kept.
fn listed(site: &Site) -> Vec<String> {
    let listed = site.curfew(&["bindings", "list", "--output", "json"]);
    let listed = listed.json();
    let one = |binding: &serde_json::Value| {
        let word = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
        let parts = [
            &binding["address"],
            &binding["identity"]["id"],
            &binding["source"],
        ];
        parts.map(word).join(" ")
    };
    listed.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn those_of_the_configuration_are_shown_and_go_with_it() {
    let site = Site::start("");
    let set = ["bindings", "set", "--address", "127.0.0.2", "--user", "bob"];
    assert_eq!(site.curfew(&set).code, 0);
    let both = [
        "127.0.0.1/32 alice config",
        "127.0.0.2/32 bob config",
        "127.0.0.2/32 bob state",
    ];
    assert_eq!(listed(&site), both);
    let table = site.curfew(&["bindings", "list"]).out;
    let row = table.lines().find(|line| line.contains("alice")).unwrap();
    assert!(row.ends_with("  config"), "{table}");

    let contrary = [
        "bindings",
        "set",
        "--address",
        "127.0.0.2",
        "--user",
        "mallory",
    ];
    let warned = site.curfew(&contrary);
    let says = warned
        .err
        .contains("warning: address 127.0.0.2 is bound to user:bob in curfew.yaml");
    assert!(warned.code == 0 && says, "{}", warned.err);
    let again = site.curfew(&set);
    assert_eq!((again.code, again.err.as_str()), (0, ""));

    let mut alice = site.open("127.0.0.1");
    let remove = ["bindings", "remove", "--address", "127.0.0.1"];
    let kept = site.curfew(&remove);
    assert_eq!(kept.code, 1, "{kept:?}");
    let says = kept.err.contains("curfew.yaml") && kept.err.contains("SIGHUP");
    assert!(says, "{}", kept.err);
    assert!(alice.echoes());

    let text = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let line = "- {address: 127.0.0.1, user: alice, groups: [dba]}\n";
    std::fs::write(site.path("curfew.yaml"), text.replace(line, "")).unwrap();
    site.signal("HUP");
    assert!(alice.is_ended());
    assert_eq!(listed(&site), both[1..]);
    let gone = site.curfew(&remove);
    assert!(gone.err.contains("not_found"), "{gone:?}");
}

#[test]
fn who_has_left_before_it_is_learnt_who_it_was_is_let_in_only_while_nobody_is_bound_by_uid() {
    let left = |bindings: &str| {
        let site = Site::start_with("", bindings);
        site.signal("STOP");
        // Its end is closed, and nobody's, before the gateway looks.
        drop(site.connect("127.0.0.1"));
        site.signal("CONT");
        let lines = site.logged_until("session.");
        let fields = &lines.last().unwrap()["fields"];
        (fields["event"].clone(), fields["reason"].clone())
    };
    assert_eq!(left("").0, "session.opened");
    let refused = left("- {uid: 4711, user: intern}\n");
    assert_eq!(refused.0, "session.refused");
    assert_eq!(refused.1, "unattributed");
}
