//! `curfew top` on a terminal, while its server comes and goes.
#![cfg(test)]

mod support;

use serde_json::json;

use support::{Scripted, whole};

#[test]
fn top_says_while_nobody_answers_and_goes_on_after() {
    let server = Scripted::start();
    let request = "GET /v1/enforcers";
    let enforcer = json!({"id": "gw-1", "doors": ["gateway"], "open": 0, "revision": 7});
    let enforcers = json!({"enforcers": [enforcer]}).to_string();
    let answers = whole(200, "application/json", &enforcers);
    server.json(
        "GET /v1/sessions?state=open&limit=1000",
        200,
        &json!({"sessions": []}),
    );
    server.raw(request, answers.clone());
    server.then(request, whole(502, "text/html", "Bad Gateway"));
    server.then(request, answers);
    let gone = r#"{"title":"No","detail":"it was removed","code":"unauthenticated"}"#;
    server.then(request, whole(401, "application/problem+json", gone));
    let (terminal, ran) = server.on_a_terminal(&["top"]);
    assert_eq!(ran.code, 1);
    assert!(ran.err.contains("it was removed"), "{}", ran.err);
    let frames: Vec<&str> = terminal.split("\u{1b}[2J").skip(1).collect();
    let stale = |frame: &&str| frame.contains("stale since") && frame.contains("502");
    let stale: Vec<bool> = frames.iter().map(stale).collect();
    assert_eq!(stale, [false, true, false], "{terminal:?}");
    let whole = |frame: &&str| frame.contains("gw-1 (gateway) 0 open, revision 7");
    assert!(frames.iter().all(whole), "{terminal:?}");
}
