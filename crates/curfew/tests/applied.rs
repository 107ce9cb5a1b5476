//! `curfew policy apply` against the real thing: what becomes of live sessions, and what is refused.
#![cfg(test)]

mod support;

use serde_json::json;

use support::{
    Ran, curfew,
    site::{Site, policy},
};

#[test]
fn a_set_that_leaves_a_service_in_no_segment_is_refused() {
    let site = Site::start("");
    let mut client = site.open("127.0.0.1");
    let path = site.path("policy/p.yaml");
    std::fs::write(
        &path,
        policy("1h").replace("service: echo", "service: ecko"),
    )
    .unwrap();
    let refused = site.curfew(&["policy", "apply", site.path("policy").to_str().unwrap()]);
    assert_eq!(refused.code, 3, "{refused:?}");
    let words = "error: the service echo would be in no segment";
    assert!(refused.out.contains(words), "{}", refused.out);
    assert!(client.echoes());
    assert_eq!(site.sessions()[0]["segments"], json!(["echo"]));
}

#[test]
fn a_name_that_another_owner_has_is_a_conflict() {
    let site = Site::start("");
    let path = site.path("api.yaml");
    let apply = |text: String| {
        std::fs::write(&path, text).unwrap();
        let path = path.to_str().unwrap();
        let ran = site.curfew(&[
            "policy", "apply", path, "--owner", "api", "--output", "json",
        ]);
        assert_eq!(ran.code, 3, "{ran:?}");
        let document = ran.json();
        let message = &document["findings"][0]["message"];
        assert!(
            message
                .as_str()
                .unwrap()
                .contains("given twice; the first is at "),
            "{message}"
        );
        (document["status"].clone(), document["code"].clone())
    };
    assert_eq!(apply(segment("echo")), (json!(409), json!("name_taken")));
    // Beside another mistake, or twice in one set, it is a mistake of the set.
    let invalid = (json!(422), json!("policy_invalid"));
    let wrong = segment("own").replace("low", "lwo");
    assert_eq!(apply(segment("echo") + "---\n" + &wrong), invalid);
    assert_eq!(apply(segment("own") + "---\n" + &segment("own")), invalid);
}

/// A segment of the service, with this name, for the API.
fn segment(name: &str) -> String {
    format!(
        "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {{name: {name}}}\n\
         spec: {{sensitivity: low, access: open, members: [{{service: echo}}]}}\n"
    )
}

#[test]
fn what_the_api_holds_counts_for_a_start_a_reload_and_a_check() {
    let mut site = Site::start("");
    let check = |site: &Site| {
        let config = site.path("curfew.yaml");
        Ran::of(curfew(&["run", "--check", "-c"]).arg(config))
    };
    std::fs::write(site.path("own.yaml"), segment("own")).unwrap();
    let own = site.path("own.yaml");
    let apply = ["policy", "apply", own.to_str().unwrap(), "--owner", "api"];
    let ran = site.curfew(&apply);
    assert_eq!(ran.code, 0, "{ran:?}");
    // The file's segment has another service now: the API's alone contains this one.
    let moved = policy("30m").replace("service: echo", "service: other");
    std::fs::write(site.path("policy/p.yaml"), moved).unwrap();
    site.signal("HUP");
    site.logged("reloaded");
    assert_eq!(check(&site).code, 0, "{:?}", check(&site));
    site.restart();
    drop(site.open("127.0.0.1"));
    // A name that both have is said before a start fails by it, and whose it is.
    let both = policy("30m") + "---\n" + &segment("own");
    std::fs::write(site.path("policy/p.yaml"), both).unwrap();
    site.signal("HUP");
    site.logged("not reloaded");
    let ran = check(&site);
    assert_eq!(ran.code, 3, "{ran:?}");
    assert!(
        ran.out.contains(&format!("api:{}:3:18", own.display())),
        "{}",
        ran.out
    );
    assert!(
        ran.out.contains("the segment `own` is given twice"),
        "{}",
        ran.out
    );
}

#[test]
fn an_applied_policy_decides_live_sessions_again() {
    let site = Site::start("");
    let mut client = site.open("127.0.0.1");
    let path = site.path("policy/p.yaml");
    let apply = || site.curfew(&["policy", "apply", site.path("policy").to_str().unwrap()]);
    std::fs::write(&path, policy("1h").replace("groups", "grups")).unwrap();
    let wrong = apply();
    assert_eq!(wrong.code, 3, "{wrong:?}");
    assert!(
        wrong.out.contains("grups") && wrong.out.contains("p.yaml"),
        "{}",
        wrong.out
    );
    assert!(client.echoes());
    std::fs::write(&path, policy("1ms")).unwrap();
    let applied = apply();
    assert_eq!(applied.code, 0, "{applied:?}");
    assert!(
        applied.out.contains("applied as revision"),
        "{}",
        applied.out
    );
    assert!(client.is_ended());
    let history = site
        .curfew(&["policy", "history", "--output", "json"])
        .json();
    assert_eq!(
        (&history[0]["owner"], &history[0]["by"]),
        (&json!("files"), &json!("api:admin"))
    );
    let segments = site.curfew(&["segments", "list"]).out;
    assert!(
        segments.contains("echo") && segments.contains("high"),
        "{segments}"
    );
}

#[test]
fn a_session_in_audit_mode_is_not_said_to_end() {
    let site = Site::start("");
    let audit = policy("30m").replace("sensitivity: high", "sensitivity: high, mode: audit");
    std::fs::write(site.path("policy/p.yaml"), audit).unwrap();
    site.signal("HUP");
    site.logged("reloaded");
    let _client = site.open("127.0.0.1");
    let session = &site.sessions()[0];
    assert_eq!(session["mode"], "audit");
    let id = session["id"].as_str().unwrap();
    let explained = site.curfew(&["sessions", "explain", id]).out;
    let words = "Nothing ends the session: its segments are in audit mode.";
    assert!(explained.contains(words), "{explained}");
    let list = site.curfew(&["sessions", "list", "--output", "table"]).out;
    assert!(list.contains(", only recorded"), "{list}");
}
