//! The command line as a client, against a server that says what the test wants: what is asked, what is printed, with
//! which exit code, and that nothing a server says steers the terminal.
#![cfg(test)]

mod support;

use serde_json::{Value, json};

use support::{Asked, Ran, Scripted, curfew, whole};

const ID: &str = "018bcfe5-6800-7000-8000-000000000001";

fn session() -> Value {
    let alice = json!({"proof": "bound", "kind": "user", "issuer": "local", "id": "alice"});
    json!({
        "id": ID, "subject": alice, "identities": [alice], "segments": ["payments-db", "pci"],
        "service": "orders", "door": "gateway", "enforcer": "gw-1", "state": "open", "reason": null,
        "client": "10.0.0.9:40000", "upstream": "10.20.0.1:5432", "opened_at": "2023-11-14T22:13:20.000Z",
        "expires_at": "2023-11-14T22:28:20.000Z", "idle_deadline": "2023-11-14T22:18:20.000Z", "reauth_by": null,
        "credential_until": null, "binding_until": null, "deadline": "2023-11-14T22:18:20.000Z", "deadline_reason": "idle_timeout",
        "bytes_in": 10, "bytes_out": 2000, "policies": ["dba"],
        "revision": 7,
    })
}

fn order(answers: &[(&str, &str)]) -> Value {
    let outcome = |(enforcer, answer): &(&str, &str)| json!({"enforcer": enforcer, "answer": answer, "matched": 4, "closed": 3, "audit_only": 1});
    let outcomes: Vec<Value> = answers.iter().map(outcome).collect();
    let lost = answers
        .iter()
        .filter(|(_, answer)| *answer != "done")
        .count();
    json!({
        "id": ID, "scope": {"subject": {"kind": "user", "issuer": null, "id": "alice"}}, "block": "until_lifted",
        "blocks": true, "reason": "left", "source": "api:admin", "created_at": "2023-11-14T22:13:20.000Z", "revision": 8,
        "lifted_at": null, "enforcers": outcomes, "matched": 4, "closed": 3, "audit_only": 1, "unreachable": lost,
        "repeated": false, "enforced_after_ms": 1.25, "durable_after_ms": 3.06,
    })
}

#[test]
fn a_list_is_a_table_or_the_array_of_the_api() {
    let server = Scripted::start();
    let page = "GET /v1/sessions?segment=pci&limit=1000";
    server.json(page, 200, &json!({"sessions": [session()], "next": "a/b"}));
    let next = "GET /v1/sessions?segment=pci&limit=1000&after=a%2Fb";
    let mut ended = session();
    ended["state"] = json!("ended");
    ended["reason"] = json!("lifetime_expired");
    ended["subject"] = json!(null);
    server.json(next, 200, &json!({"sessions": [ended], "next": null}));
    let list = ["sessions", "list", "--segment", "pci"];
    let ran = server.curfew(&list);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    let table = "\
ID                                    SUBJECT     SEGMENTS         SERVICE  STATE  LEFT  ENDS              BY                CLIENT          IN   OUT
018bcfe5-6800-7000-8000-000000000001  user:alice  payments-db,pci  orders   open    due  2023-11-14 22:18  idle_timeout      10.0.0.9:40000  10  2000
018bcfe5-6800-7000-8000-000000000001  -           payments-db,pci  orders   ended     -  -                 lifetime_expired  10.0.0.9:40000  10  2000
";
    assert_eq!(ran.out, table);
    let json = server.curfew(&[&list[..], &["--output", "json"]].concat());
    assert_eq!(json.json(), json!([session(), ended]));
    let yaml = server.curfew(&[&list[..], &["--output", "yaml"]].concat());
    assert!(
        yaml.out.starts_with(
            "- binding_until: null\n  bytes_in: 10\n  bytes_out: 2000\n  client: \"10.0.0.9:40000\"\n"
        ),
        "{}",
        yaml.out
    );
    let token = format!("authorization: Bearer {}", support::TOKEN);
    for asked in server.asked() {
        assert!(asked.headers.contains(&token), "{asked:?}");
    }
}

#[test]
fn a_list_that_is_cut_says_so() {
    let server = Scripted::start();
    let page = json!({"sessions": [session(), session()], "next": "x"});
    server.json("GET /v1/sessions?limit=1", 200, &page);
    let ran = server.curfew(&["sessions", "list", "--limit", "1", "--output", "json"]);
    assert_eq!(ran.json(), json!([session()]));
    assert!(
        ran.err.contains("more sessions than 1: raise --limit"),
        "{}",
        ran.err
    );
    server.json(
        "GET /v1/sessions?limit=1000",
        200,
        &json!({"sessions": [], "next": "x"}),
    );
    assert_eq!(server.curfew(&["sessions", "list"]).out, "no sessions\n");
}

#[test]
fn show_and_explain_word_a_session() {
    let server = Scripted::start();
    server.json(&format!("GET /v1/sessions/{ID}"), 200, &session());
    let details = "\
id          018bcfe5-6800-7000-8000-000000000001
state       open
subject     user:alice
identities  user:alice (bound)
segments    payments-db,pci
service     orders
door        gateway
enforcer    gw-1
client      10.0.0.9:40000
upstream    10.20.0.1:5432
opened      2023-11-14 22:13
expires at  2023-11-14 22:28 (due)
idle at     2023-11-14 22:18 (due)
bytes in    10
bytes out   2000
policies    dba
revision    7
";
    assert_eq!(server.curfew(&["sessions", "show", ID]).out, details);
    let bound = json!({
        "bound": "expires_at", "at": "2023-11-14T22:28:20.000Z", "reason": "lifetime_expired",
        "by": "SessionPolicy/dba", "field": "spec.limits.maxLifetime", "place": "policy/dba.yaml:9",
    });
    let answer = json!({"session": session(), "bounds": [bound], "text": "The session ends soon."});
    server.json(&format!("GET /v1/sessions/{ID}/explain"), 200, &answer);
    let bounds = "\
BOUND       LEFT  AT                REASON            SET BY             FIELD                    PLACE
expires_at   due  2023-11-14 22:28  lifetime_expired  SessionPolicy/dba  spec.limits.maxLifetime  policy/dba.yaml:9
";
    let explained = server.curfew(&["sessions", "explain", ID]);
    assert_eq!(
        explained.out,
        format!(
            "It ends at 2023-11-14 22:28 (due) with lifetime_expired unless something ends it earlier: SessionPolicy/dba set this.\n\n{details}\n{bounds}"
        )
    );
    let json = server.curfew(&["sessions", "explain", ID, "--output", "json"]);
    assert_eq!(json.json(), answer);
}

#[test]
fn an_order_says_what_each_enforcer_did_and_its_exit_code_whether_all_did() {
    let server = Scripted::start();
    let request = "POST /v1/revocations?wait=2s";
    server.json(request, 201, &order(&[("gw-1", "done")]));
    let revoke = [
        "revoke",
        "--user",
        "https://idp#alice",
        "--reason",
        "left",
        "--wait",
        "2s",
        "--block",
        "2030-01-01T00:00:00Z",
    ];
    let ran = server.curfew(&revoke);
    let answer = "\
revocation 018bcfe5-6800-7000-8000-000000000001 of user:alice
new sessions: kept out until lifted
to let them in again: curfew revocations lift 018bcfe5-6800-7000-8000-000000000001
ENFORCER  ANSWER  MATCHED  CLOSED  AUDIT ONLY
gw-1      done          4       3           1
matched 4, closed 3, audit only 1, unreachable 0; enforced after 1.2 ms, on disk after 3.1 ms
";
    assert_eq!(
        (ran.code, ran.out.as_str(), ran.err.as_str()),
        (0, answer, "")
    );
    let subject = json!({"kind": "user", "issuer": "https://idp", "id": "alice"});
    let asked = &server.asked()[0];
    assert_eq!(
        asked.json(),
        json!({"scope": {"subject": subject}, "reason": "left", "block": {"until": "2030-01-01T00:00:00.000Z"}})
    );
    let mut partly = order(&[("gw-1", "done"), ("gw-2", "unreachable")]);
    partly["warnings"] = json!(["no segment `x`"]);
    server.json(request, 201, &partly);
    let ran = server.curfew(&revoke);
    assert_eq!(
        (ran.code, ran.err.as_str()),
        (4, "curfew: warning: no segment `x`\n")
    );
    assert!(
        ran.out.contains("gw-2 did not answer in time: it follows"),
        "{}",
        ran.out
    );
}

#[test]
fn every_scope_is_one_and_all_has_to_be_meant() {
    let server = Scripted::start();
    let request = "POST /v1/revocations";
    server.json(request, 201, &order(&[]));
    let subject =
        |kind: &str, id: &str| json!({"subject": {"kind": kind, "issuer": null, "id": id}});
    for (args, scope) in [
        (&["--workload", "backup"][..], subject("workload", "backup")),
        (
            &["--role", "orders/admin#1"],
            subject("role", "orders/admin#1"),
        ),
        (&["--device", "laptop-1"], json!({"device": "laptop-1"})),
        (&["--session", ID], json!({"session": ID})),
        (&["--segment", "pci"], json!({"segment": "pci"})),
        (&["--policy", "dba"], json!({"policy": "dba"})),
        (&["--enforcer", "gw-1"], json!({"enforcer": "gw-1"})),
        (&["--all", "--yes"], json!("all")),
    ] {
        let ran = server.curfew(&[&["revoke", "--reason", "x"], args].concat());
        assert_eq!(ran.code, 0, "{ran:?}");
        assert_eq!(
            server.asked().last().unwrap().json(),
            json!({"scope": scope, "reason": "x"})
        );
    }
    let before = server.asked().len();
    for (args, part) in [
        (&["--all"][..], "--yes"),
        (&[], "required"),
        (&["--user", "a", "--segment", "b"], "cannot be used with"),
        (&["--session", "1"], "invalid value"),
        (
            &["--user", "a", "--block", "later"],
            "write none, until-lifted, or an instant",
        ),
        (&["--user", "a", "--wait", "0s"], "zero"),
    ] {
        let ran = server.curfew(&[&["revoke", "--reason", "x"], args].concat());
        assert_eq!(ran.code, 1, "{args:?} {ran:?}");
        assert!(ran.err.contains(part), "{args:?}: {}", ran.err);
    }
    assert_eq!(server.asked().len(), before, "a wrong order was sent");
}

#[test]
fn an_order_whose_answer_is_lost_is_given_once_more_with_its_key() {
    let server = Scripted::start();
    server.raw(
        "POST /v1/revocations",
        "HTTP/1.1 201 X\r\nContent-Length: 99\r\n\r\n{".to_owned(),
    );
    let ran = server.curfew(&["revoke", "--user", "alice", "--reason", "x"]);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("was lost") && ran.err.contains("list"),
        "{}",
        ran.err
    );
    let key = |asked: &support::Asked| {
        let header = |line: &&String| line.starts_with("idempotency-key: ");
        asked.headers.iter().find(header).cloned().unwrap()
    };
    let keys: Vec<String> = server.asked().iter().map(key).collect();
    assert_eq!(keys.len(), 2);
    assert_eq!(keys[0], keys[1]);
    // A proxy that had no answer knows no more.
    let proxy = whole(504, "text/html", "Gateway Timeout");
    server.raw("POST /v1/revocations", proxy);
    let ran = server.curfew(&["revoke", "--user", "alice", "--reason", "x"]);
    assert!(ran.err.contains("was lost: 504"), "{}", ran.err);
    assert_eq!(server.asked().len(), 4);
}

#[test]
fn problems_are_shown_in_words_and_steer_nothing() {
    let server = Scripted::start();
    let problem = json!({
        "type": "tag:curfew.dev,2026:forbidden", "title": "The token's role does not allow this", "status": 403,
        "detail": "a viewer may not \u{1b}]0;owned\u{7}\u{9b}2J\u{202e}", "code": "forbidden",
    });
    server.json(
        &format!("DELETE /v1/sessions/{ID}?reason=two%20words%26more"),
        403,
        &problem,
    );
    let ran = server.curfew(&["sessions", "cancel", ID, "--reason", "two words&more"]);
    assert_eq!(ran.code, 1);
    let words = "The token's role does not allow this: a viewer may not \\u{1b}]0;owned\\u{7}\\u{9b}2J\\u{202e} (forbidden)";
    assert!(ran.err.contains(words), "{}", ran.err);
    let mut hostile = session();
    for field in ["service", "client", "upstream", "enforcer", "door", "state"] {
        hostile[field] = json!("\u{1b}[2J\n\u{7f}x");
    }
    server.json(
        "GET /v1/sessions?limit=1000",
        200,
        &json!({"sessions": [hostile]}),
    );
    server.json(&format!("GET /v1/sessions/{ID}"), 200, &hostile);
    for args in [&["list"][..], &["show", ID]] {
        for output in ["table", "json", "yaml"] {
            let ran = server.curfew(&[&["sessions"], args, &["--output", output]].concat());
            assert_eq!(ran.code, 0);
            let raw = |c: char| c.is_control() && c != '\n';
            assert!(!ran.out.contains(raw), "{output}: {:?}", ran.out);
        }
    }
}

#[test]
fn whatever_is_wrong_with_the_server_is_said() {
    let server = Scripted::start();
    let path = "GET /v1/enforcers";
    for (answer, part) in [
        (
            whole(200, "text/html", "<html>"),
            "something else than JSON",
        ),
        (
            whole(200, "application/json", "{}"),
            "a list without entries",
        ),
        (whole(502, "text/html", "<html>"), "502"),
        (whole(302, "text/html", ""), "302"),
        (
            "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
            "answers, but not as Curfew's API does",
        ),
        (String::new(), "it ended the connection without a word"),
    ] {
        server.raw(path, answer);
        let ran = server.curfew(&["enforcers", "list"]);
        assert_eq!(ran.code, 1);
        assert!(ran.err.contains(part), "{part}: {}", ran.err);
        assert!(ran.err.contains(&server.address.to_string()), "{}", ran.err);
    }
    // A port that nobody has: the listener is gone.
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let ran = Ran::of(
        curfew(&["enforcers", "list", "--server", &format!("http://{gone}")])
            .env("CURFEW_TOKEN", "t"),
    );
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("does not answer") && ran.err.contains("curfew run"),
        "{}",
        ran.err
    );
}

#[test]
fn policy_findings_are_shown_with_their_place() {
    let server = Scripted::start();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("p.yaml"), "kind: Nonsense\n").unwrap();
    let finding = json!({
        "level": "error", "path": "p.yaml", "line": 1, "column": 7, "message": "no such kind",
        "excerpt": "1 | kind: Nonsense\n  |       ^", "consequence": null, "help": "write Segment",
    });
    let problem = json!({
        "title": "The policy set has errors", "detail": "1 findings; nothing was changed", "code": "policy_invalid",
        "findings": [finding],
    });
    server.json("POST /v1/policies", 422, &problem);
    let ran = server.curfew(&["policy", "apply", folder.path().to_str().unwrap()]);
    assert_eq!(ran.code, 3);
    assert!(
        ran.out
            .contains("error: p.yaml:1:7: no such kind\n  1 | kind: Nonsense"),
        "{}",
        ran.err
    );
    assert!(!ran.out.contains("--owner files"), "{}", ran.out);
    let mut taken = problem.clone();
    taken["code"] = json!("name_taken");
    server.json("POST /v1/policies", 409, &taken);
    let beside = server.curfew(&["policy", "apply", folder.path().to_str().unwrap()]);
    assert_eq!(beside.code, 3);
    assert!(beside.out.contains("--owner files"), "{}", beside.out);
    server.json("POST /v1/policies", 422, &problem);
    let json = server.curfew(&[
        "policy",
        "apply",
        folder.path().to_str().unwrap(),
        "--output",
        "json",
    ]);
    assert_eq!((json.code, json.json()), (3, problem));
    assert_eq!(server.asked()[0].json()["owner"], "api");
    let large = tempfile::tempdir().unwrap();
    for name in ["a", "b", "c"] {
        let text = format!("# {}\n", "x".repeat(3 << 20));
        std::fs::write(large.path().join(format!("{name}.yaml")), text).unwrap();
    }
    let refused = server.curfew(&["policy", "apply", large.path().to_str().unwrap()]);
    assert_eq!(refused.code, 1);
    assert!(
        refused.err.contains("takes no more than 8454144"),
        "{}",
        refused.err
    );
    assert_eq!(server.asked().len(), 3);
    let applied = json!({"revision": 3, "hash": "abcdef0123456789", "warnings": [], "took_ms": 2.0, "enforcers": []});
    server.json("POST /v1/policies?wait=1s", 200, &applied);
    let config = folder.path().join("curfew.yaml");
    let text = "data_dir: .\npolicy: {path: .}\ngateway: {services: [{name: a, listen: '127.0.0.1:0', upstream: 'a:1'}]}\n";
    std::fs::write(&config, text).unwrap();
    let apply = [
        "policy",
        "apply",
        folder.path().to_str().unwrap(),
        "--wait",
        "1s",
        "--expected-revision",
        "2",
    ];
    let ran = server.curfew(&[&apply[..], &["-c", config.to_str().unwrap()]].concat());
    assert_eq!(
        (ran.code, ran.out.as_str()),
        (
            0,
            "applied as revision 3, set abcdef012345, after 2.0 ms\nno enforcer is known\n"
        )
    );
    let asked = server.asked().last().unwrap().json();
    assert_eq!(
        (&asked["owner"], &asked["expected_revision"]),
        (&json!("files"), &json!(2))
    );
}

#[test]
fn a_watch_that_the_server_ends_is_taken_up_again() {
    let server = Scripted::start();
    let event = json!({
        "at": "2023-11-14T22:13:20.000Z", "event": "session.ended", "session": ID, "segments": ["pci"],
        "subject": {"proof": "bound", "kind": "user", "issuer": "local", "id": "ali\u{1b}ce"}, "reason": "idle_timeout", "revision": 1,
    });
    let stream = format!(
        "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: watching\n\nevent: session.ended\nid: gw-1:1\ndata: {event}\n\nevent: lost\ndata: {{\"lost\":2}}\n\n"
    );
    let missed = "HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n: watching\n\nevent: lost\ndata: {\"lost\":null}\n\n";
    let no_more = whole(
        401,
        "application/problem+json",
        r#"{"title":"No","detail":"it was removed","code":"unauthenticated"}"#,
    );
    let request = "GET /v1/sessions/watch?event=session.ended";
    let script = |parts: &[&str]| {
        server.raw(request, stream.clone());
        for part in parts {
            server.then(request, (*part).to_owned());
        }
    };
    // Between them a proxy says that nobody is there.
    let away = whole(502, "text/html", "Bad Gateway");
    script(&[&away, missed, &no_more]);
    let watch = ["sessions", "watch", "--event", "session.ended"];
    let ran = server.curfew(&watch);
    assert_eq!(ran.code, 1);
    assert_eq!(
        ran.out,
        format!(
            "2023-11-14 22:13  session.ended  {ID}  user:\"ali\\u{{1b}}ce\"  pci  idle_timeout\n2 events were missed: list the sessions again\nsome events were missed: list the sessions again\n"
        )
    );
    let ended = "the watch ended (by the server): taking it up again";
    assert_eq!(ran.err.matches(ended).count(), 2, "{}", ran.err);
    assert!(ran.err.contains("it was removed"), "{}", ran.err);
    let came_back = |asked: Asked| {
        let mut headers = asked.headers.iter().map(|header| header.to_lowercase());
        headers.find_map(|header| Some(header.strip_prefix("last-event-id: ")?.to_owned()))
    };
    let last = Some("gw-1:1".to_owned());
    let came_back_after: Vec<_> = server.asked().into_iter().map(came_back).collect();
    assert_eq!(came_back_after, [None, last.clone(), last.clone(), last]);
    // Nothing came yet that has an id.
    server.raw(request, missed.to_owned());
    server.then(request, no_more.clone());
    assert_eq!(server.curfew(&watch).code, 1);
    let asked = server.asked().pop().unwrap();
    assert_eq!(came_back(asked), Some("none".to_owned()));
    server.raw(request, whole(200, "text/html", "Welcome"));
    let ran = server.curfew(&watch);
    assert_eq!(ran.code, 1);
    assert!(
        ran.err.contains("something else than events"),
        "{}",
        ran.err
    );
    script(&[&no_more]);
    let ran = server.curfew(&[&watch[..], &["--output", "json"]].concat());
    let lines: Vec<Value> = ran
        .out
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines, [event, json!({"lost": 2})]);
}
