//! `curfew policy apply` against the real thing: what becomes of live sessions, and what is refused.
#![cfg(test)]

mod support;

use serde_json::json;

use support::site::{Site, policy};

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
