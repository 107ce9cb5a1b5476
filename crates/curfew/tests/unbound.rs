//! Whom a policy names and nobody is yet, against the real thing: the check and each load say so, and do not fail.
#![cfg(test)]

mod support;

use serde_json::Value;
use support::{
    Ran, curfew,
    site::{Site, policy},
};

/// What a server's log warns of names.
fn warned(lines: &[Value]) -> Vec<String> {
    let warned = lines.iter().filter(|line| line["level"] == "WARN");
    let texts = warned.map(|line| line["fields"]["message"].as_str().unwrap().to_owned());
    texts
        .filter(|text| {
            ["no binding", "no door", "never refreshed"]
                .iter()
                .any(|words| text.contains(words))
        })
        .collect()
}

/// Of whom a check warns, as `PLACE: WHAT`, and the whole report.
fn check(site: &Site) -> (Vec<String>, Ran) {
    let config = site.path("curfew.yaml");
    let ran = Ran::of(curfew(&["run", "--check", "-c"]).arg(config));
    let folder = format!("{}/", site.folder.path().display());
    let warned = ran.out.lines().filter(|line| line.contains(": warning: "));
    let warned = warned.map(|line| line.replace(&folder, "")).collect();
    (warned, ran)
}

#[test]
fn a_group_that_no_binding_gives_is_warned_of() {
    let site = Site::start("");
    assert_eq!(check(&site).0, Vec::<String>::new());
    let asks = policy("30m").replace("[dba]", "[dbas]");
    std::fs::write(site.path("policy/p.yaml"), asks).unwrap();
    let (warned, ran) = check(&site);
    let said = "policy/p.yaml:9:24: warning: no binding gives group dbas yet";
    assert_eq!(warned, [said]);
    assert!(ran.out.contains("did you mean `dba`?"), "{}", ran.out);
    assert!(ran.out.ends_with("usable; warnings 1\n"), "{}", ran.out);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn whoever_can_give_no_proof_is_a_warning_where_it_is_asked_for() {
    let mut site = Site::start("");
    let proof = policy("30m").replace("maxLifetime: 30m", "maxLifetime: 30m, reconnect: proof");
    std::fs::write(site.path("policy/p.yaml"), proof).unwrap();
    let (said, ran) = check(&site);
    let words = "warning: `reconnect: proof` holds for user:alice here, whom curfew.yaml binds";
    assert_eq!(said.len(), 1, "{ran:?}");
    assert!(said[0].contains(words), "{said:?}");
    assert_eq!(ran.code, 0, "{ran:?}");
    site.restart();
    assert_eq!(warned(&site.begun).len(), 1);
    // Whom the API binds is refreshed by its caller.
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let others = config.replace("groups: [dba]", "groups: [ops]");
    std::fs::write(site.path("curfew.yaml"), others).unwrap();
    let dba = ["bindings", "set", "--uid", "4711", "--user", "carol"];
    let ran = site.curfew(&[&dba[..], &["--group", "dba"]].concat());
    assert_eq!(ran.code, 0, "{ran:?}");
    site.signal("HUP");
    assert_eq!(warned(&site.logged_until("reloaded")), Vec::<String>::new());
}

#[test]
fn each_load_warns_of_whom_neither_the_configuration_nor_the_state_gives() {
    let mut site = Site::start("");
    let ops = ["subjects", "set", "user:alice", "--group", "ops"];
    assert_eq!(site.curfew(&ops).code, 0);
    let carol = ["bindings", "set", "--uid", "4711", "--user", "carol"];
    assert_eq!(site.curfew(&carol).code, 0);
    let more = "---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {name: more}\n\
                spec: {from: {users: [carol, carla], groups: [opps, ops]}, to: {segments: [echo]}}\n";
    std::fs::write(site.path("policy/p.yaml"), policy("30m") + more).unwrap();
    site.signal("HUP");
    let texts = warned(&site.logged_until("reloaded"));
    assert_eq!(texts.len(), 2, "{texts:?}");
    for (text, name, near) in [
        (&texts[0], "user carla", "carol"),
        (&texts[1], "group opps", "ops"),
    ] {
        assert!(text.contains("p.yaml:14:"), "{text}");
        assert!(text.contains(&format!("gives {name} yet")), "{text}");
        assert!(text.contains(&format!("did you mean `{near}`?")), "{text}");
    }
    site.restart();
    assert_eq!(warned(&site.begun), texts, "a start says the same, once");
}

#[test]
fn what_no_door_sees_is_said_by_the_check_each_load_and_an_answer() {
    let site = Site::start("");
    let config = std::fs::read_to_string(site.path("curfew.yaml")).unwrap();
    let pods = "---\napiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: pods}\n\
                spec: {sensitivity: low, members: [{pods: {namespace: x}}]}\n";
    std::fs::write(site.path("policy/p.yaml"), policy("30m") + pods).unwrap();
    let (warned_of, ran) = check(&site);
    let said = "policy/p.yaml:14:43: warning: no door of this node sees pods";
    assert_eq!(warned_of, [said]);
    assert_eq!(
        ran.code, 0,
        "policy may be meant for other nodes too: {ran:?}"
    );
    site.signal("HUP");
    let texts = warned(&site.logged_until("reloaded"));
    assert!(
        texts.len() == 1 && texts[0].contains("sees pods"),
        "{texts:?}"
    );
    let more = site.path("more.yaml");
    std::fs::write(&more, pods.replace("name: pods", "name: others")).unwrap();
    let ran = site.curfew(&["policy", "apply", more.to_str().unwrap()]);
    assert!(
        ran.out.contains("more.yaml:5:43") && ran.out.contains("sees pods"),
        "{ran:?}"
    );

    let bound = "- {cgroup: /system.slice/x.service, user: x}\n";
    let config = match config.contains("bindings:\n") {
        true => config.replace("bindings:\n", &format!("bindings:\n{bound}")),
        false => format!("{config}bindings:\n{bound}"),
    };
    std::fs::write(site.path("curfew.yaml"), config).unwrap();
    let (warned_of, ran) = check(&site);
    assert!(
        warned_of[0].contains("no door of this node sees the cgroup of a client"),
        "{ran:?}"
    );
    assert_eq!(ran.code, 0, "{ran:?}");
}
