//! What every request passes: tokens and roles, the Host header, TLS, and a problem document for whatever is refused.
#![cfg(test)]

mod support;

use std::{
    fs,
    io::Write as _,
    net::TcpStream,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use curfew_control::{Parts, Server, Settings, StartError};
use curfew_state::{EmbeddedStore, Hash, Role, Store};
use serde_json::json;
use support::{
    SOON, World,
    client::{Client, read},
    fakes::boot,
    first_token, is_problem,
};

#[test]
fn the_first_token_is_made_once_for_its_owner_alone_and_only_its_hash_is_kept() {
    let world = World::start();
    let path = world.dir.path().join("admin.token");
    assert_eq!(
        fs::metadata(&path).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let token = first_token(world.dir.path());
    assert!(
        token.starts_with("curfew_") && token.len() == 7 + 64,
        "{token}"
    );
    let state = world.store.read();
    let kept = &state.tokens["admin"];
    assert_eq!(
        (kept.hash, kept.role),
        (Hash::of(token.as_bytes()), Role::Admin)
    );
    let records = world.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0]["event"], "token.changed");
    // Neither the log nor the database has the token.
    for entry in [world.dir.path().to_owned(), world.dir.path().join("audit")] {
        for file in fs::read_dir(entry).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() && !path.ends_with("admin.token") {
                let bytes = fs::read(&path).unwrap();
                let found = bytes
                    .windows(token.len())
                    .any(|part| part == token.as_bytes());
                assert!(!found, "{}", path.display());
            }
        }
    }
    let dir = world.stop();
    fs::remove_file(dir.path().join("admin.token")).unwrap();
    fs::write(dir.path().join("admin.token"), "not made again").unwrap();
    let world = World::inside(dir, |_| ());
    assert_eq!(first_token(world.dir.path()), "not made again");
    assert_eq!(world.client(&token).get("/v1/tokens").status, 200);
}

#[test]
fn no_first_token_is_kept_without_a_record() {
    let world = World::start();
    let dir = tempfile::tempdir().unwrap();
    let store = Arc::new(EmbeddedStore::open(dir.path()).unwrap());
    let start = || {
        let parts = Parts {
            store: Arc::clone(&store) as Arc<dyn Store>,
            ..world.parts()
        };
        Server::start(
            Settings::new("127.0.0.1:0".parse().unwrap(), dir.path()),
            parts,
        )
    };
    *world.journal.full.lock() = true;
    let refused = start().unwrap_err();
    assert!(matches!(refused, StartError::NotOnRecord(_)), "{refused}");
    assert!(store.read().tokens.is_empty());
    // The next start makes it, with its record.
    *world.journal.full.lock() = false;
    let before = world.records().len();
    assert!(start().unwrap().stop(SOON));
    assert_eq!(store.read().tokens.len(), 1);
    let records = world.records();
    assert_eq!(records.len(), before + 1);
    assert_eq!(records[before]["event"], "token.changed");
}

#[test]
fn no_token_no_answer() {
    let world = World::start();
    let wrong = format!("curfew_{}", "0".repeat(64));
    let strangers = [
        world.stranger(),
        world.client(&wrong),
        world.client(""),
        world.client(&world.admin.to_uppercase()),
        world.client(&world.admin[..world.admin.len() - 1]),
        world
            .stranger()
            .with("Authorization", &format!("Basic {}", world.admin)),
        world.stranger().with("Authorization", &world.admin),
    ];
    for stranger in strangers {
        let answer = stranger.get("/v1/sessions");
        assert!(is_problem(&answer, 401, "unauthenticated"), "{answer:?}");
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(!answer.body.contains(&world.admin));
    }
    let unknown = world.stranger().get("/v1/no-such-thing");
    assert_eq!(unknown.status, 401, "what exists is not told to strangers");
    for open in ["/healthz", "/readyz", "/v1/openapi.json"] {
        assert_eq!(world.stranger().get(open).status, 200, "{open}");
    }
    let metrics = world.stranger().get("/metrics");
    assert_eq!(metrics.status, 401);
}

#[test]
fn each_role_does_what_it_may_and_nothing_else() {
    let world = World::start();
    let id = "018f0000-0000-7000-8000-000000000000";
    let order = json!({"scope": {"segment": "payments"}, "reason": "drill"});
    let set = json!({"sources": [{"path": "a.yaml", "text": "segment a"}]});
    let binding = json!({"address": "10.1.2.3", "user": "alice"});
    let subject = json!({"kind": "user", "id": "alice", "groups": ["dba"]});
    let token = json!({"name": "x", "role": "viewer"});
    // What a role may not do is 403; what it may do is anything else.
    let table: [(&str, String, serde_json::Value, &[&str]); 14] = [
        (
            "GET",
            "/v1/sessions".to_owned(),
            json!(null),
            &["viewer", "operator", "admin"],
        ),
        (
            "GET",
            "/metrics".to_owned(),
            json!(null),
            &["viewer", "operator", "admin"],
        ),
        (
            "GET",
            "/v1/audit".to_owned(),
            json!(null),
            &["viewer", "operator", "admin"],
        ),
        (
            "POST",
            "/v1/policies/validate".to_owned(),
            set.clone(),
            &["viewer", "operator", "admin"],
        ),
        (
            "DELETE",
            format!("/v1/sessions/{id}"),
            json!(null),
            &["operator", "admin"],
        ),
        (
            "POST",
            format!("/v1/sessions/{id}/renew"),
            json!(null),
            &["operator", "admin"],
        ),
        (
            "POST",
            "/v1/revocations".to_owned(),
            order,
            &["operator", "admin"],
        ),
        (
            "PUT",
            "/v1/bindings".to_owned(),
            binding,
            &["binder", "admin"],
        ),
        (
            "DELETE",
            "/v1/bindings?address=10.1.2.3".to_owned(),
            json!(null),
            &["binder", "admin"],
        ),
        ("PUT", "/v1/subjects".to_owned(), subject, &["admin"]),
        ("POST", "/v1/policies".to_owned(), set, &["admin"]),
        (
            "POST",
            "/v1/enforcers/gw-1/accept-clock".to_owned(),
            json!(null),
            &["admin"],
        ),
        ("GET", "/v1/tokens".to_owned(), json!(null), &["admin"]),
        ("POST", "/v1/tokens".to_owned(), token, &["admin"]),
    ];
    let mut clients = vec![("admin", world.admin())];
    for role in ["viewer", "operator", "binder"] {
        clients.push((role, world.role(role)));
    }
    for (method, path, body, may) in table {
        for (role, client) in &clients {
            let answer = client.json(method, &path, &body);
            if may.contains(role) {
                assert!(
                    ![401, 403].contains(&answer.status),
                    "{role} {method} {path}: {answer:?}"
                );
            } else {
                assert!(
                    is_problem(&answer, 403, "forbidden"),
                    "{role} {method} {path}: {answer:?}"
                );
            }
        }
    }
}

#[test]
fn a_removed_token_is_refused_and_the_last_admin_stays() {
    let world = World::start();
    let viewer = world.role("viewer");
    assert_eq!(viewer.get("/v1/sessions").status, 200);
    assert_eq!(world.admin().delete("/v1/tokens/a-viewer").status, 204);
    assert_eq!(viewer.get("/v1/sessions").status, 401);
    let last = world.admin().delete("/v1/tokens/admin");
    assert!(is_problem(&last, 409, "conflict"), "{last:?}");
    let missing = world.admin().delete("/v1/tokens/nobody");
    assert!(is_problem(&missing, 404, "not_found"), "{missing:?}");
    let listed = world.admin().get("/v1/tokens");
    assert!(
        !listed.body.contains("hash") && !listed.body.contains("curfew_"),
        "{listed:?}"
    );
    let again = world
        .admin()
        .post("/v1/tokens", &json!({"name": "admin", "role": "viewer"}));
    assert!(is_problem(&again, 409, "conflict"), "{again:?}");
    for bad in [
        json!({"name": "No Name", "role": "viewer"}),
        json!({"name": "b", "role": "binder"}),
        json!({"name": "v", "role": "viewer", "networks": ["10.0.0.0/8"]}),
        json!({"name": "b", "role": "binder", "networks": ["10.1.0.0/8"]}),
        json!({"name": "v", "role": "root"}),
    ] {
        let answer = world.admin().post("/v1/tokens", &bad);
        assert!(is_problem(&answer, 422, "invalid"), "{bad}: {answer:?}");
    }
}

#[test]
fn on_loopback_only_names_of_loopback_are_answered() {
    let world = World::start();
    let port = world.address().port();
    for host in [
        format!("localhost:{port}"),
        format!("[::1]:{port}"),
        format!("[::ffff:127.0.0.1]:{port}"),
        "127.0.0.1".to_owned(),
    ] {
        let answer = world.admin().with("Host", &host).get("/v1/sessions");
        assert_eq!(answer.status, 200, "{host}");
    }
    // The first would be good.
    let two = world
        .admin()
        .with("Host", "localhost\r\nHost: evil.example");
    let answer = two.get("/v1/sessions");
    assert_ne!(answer.status, 200, "{answer:?}");
    for host in ["evil.example", "localhost.evil.example:80", "10.0.0.1"] {
        for path in ["/v1/sessions", "/healthz", "/v1/openapi.json", "/nothing"] {
            let answer = world.admin().with("Host", host).get(path);
            assert!(
                is_problem(&answer, 421, "wrong_host"),
                "{host} {path}: {answer:?}"
            );
        }
    }
}

#[test]
fn whatever_is_refused_is_a_problem_document() {
    let world = World::start();
    let admin = world.admin();
    let missing = admin.get("/v1/no-such-thing");
    assert!(is_problem(&missing, 404, "not_found"), "{missing:?}");
    let method = admin.send("PATCH", "/v1/sessions", None);
    assert!(is_problem(&method, 405, "method_not_allowed"), "{method:?}");
    assert!(
        method.header("allow").unwrap().contains("GET"),
        "{method:?}"
    );
    let bad_id = admin.get("/v1/sessions/not-an-id");
    assert!(is_problem(&bad_id, 404, "not_found"), "{bad_id:?}");
    let query = admin.get("/v1/sessions?sgement=x");
    assert!(is_problem(&query, 400, "bad_request"), "{query:?}");
    for (path, said) in [
        (
            "/v1/sessions?limit=abc",
            "in the query: limit: a whole number is expected",
        ),
        (
            "/v1/sessions/abc",
            "\"abc\" in the path: an id like 018f0000-0000-7000-8000-000000000000 is expected",
        ),
        (
            "/v1/policies/history/abc",
            "\"abc\" in the path: a whole number is expected",
        ),
    ] {
        assert_eq!(admin.get(path).json()["detail"], said);
    }
    let limit = admin.get("/v1/sessions?limit=0");
    assert!(is_problem(&limit, 400, "bad_request"), "{limit:?}");
    let plain =
        admin
            .with("Content-Type", "text/plain")
            .send("POST", "/v1/revocations", Some(b"{}"));
    assert!(
        is_problem(&plain, 415, "unsupported_media_type"),
        "{plain:?}"
    );
    let json = world.admin().with("Content-Type", "application/json");
    for body in ["{", "", "[1,]", "\u{0}"] {
        let malformed = json.send("POST", "/v1/revocations", Some(body.as_bytes()));
        assert!(
            is_problem(&malformed, 400, "malformed_json"),
            "{body:?}: {malformed:?}"
        );
    }
    for body in [
        json!({"scope": {}, "reason": "x"}),
        json!({"scope": {"segment": "a", "device": "b"}, "reason": "x"}),
        json!({"scope": {"nothing": "a"}, "reason": "x"}),
    ] {
        let invalid = world.admin().post("/v1/revocations", &body);
        assert!(is_problem(&invalid, 422, "invalid"), "{body}: {invalid:?}");
    }
    let deep = "[".repeat(50_000);
    let deep = json.send("POST", "/v1/revocations", Some(deep.as_bytes()));
    assert!((400..=422).contains(&deep.status), "{deep:?}");
}

#[test]
fn outside_loopback_there_is_tls_or_no_server() {
    let world = World::start();
    for listen in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
        let settings = Settings::new(listen.parse().unwrap(), world.dir.path());
        let refused = Server::start(settings, world.parts());
        assert!(
            matches!(refused, Err(StartError::TlsRequired(_))),
            "{listen}: {refused:?}"
        );
    }
    let taken = Settings::new(world.address(), world.dir.path());
    let refused = Server::start(taken, world.parts());
    assert!(
        matches!(refused, Err(StartError::Listen { .. })),
        "{refused:?}"
    );
}

#[test]
fn healthz_answers_while_readyz_says_what_is_missing() {
    let world = World::start();
    assert_eq!(world.stranger().get("/readyz").json()["ready"], true);
    *world.journal.full.lock() = true;
    assert_eq!(world.stranger().get("/healthz").status, 200);
    let ready = world.stranger().get("/readyz");
    assert_eq!(ready.status, 503);
    assert_eq!(ready.json()["audit"], false);
    assert_eq!(ready.json()["reason"], "the audit log takes no records");
    // What would only change the state is refused; what ends sessions is not.
    let binding = json!({"address": "10.1.2.3", "user": "alice"});
    let revision = world.store.read().revision;
    let refused = world.admin().put("/v1/bindings", &binding);
    assert!(is_problem(&refused, 503, "not_on_record"), "{refused:?}");
    assert_eq!(world.store.read().revision, revision);
    *world.journal.full.lock() = false;
    let (state, away) = (
        world.dir.path().join("state.db"),
        world.dir.path().join("away"),
    );
    fs::rename(&state, &away).unwrap();
    let ready = world.stranger().get("/readyz");
    assert_eq!((ready.status, &ready.json()["state"]), (503, &json!(false)));
    let reason = ready.json()["reason"].to_string();
    assert!(reason.contains("removed or replaced"), "{reason}");
    fs::copy(&away, &state).unwrap();
    assert_eq!(world.stranger().get("/readyz").status, 503, "a copy");
    fs::rename(&away, &state).unwrap();
    assert_eq!(world.stranger().get("/readyz").status, 200);
}

#[test]
fn stopping_is_bounded_though_a_client_stays() {
    let mut world = World::start();
    let _silent = TcpStream::connect(world.address()).unwrap();
    world.store.pass.forget();
    world.store.pass.hold("cut", "never");
    let client: Client = world.admin();
    let order = json!({"scope": "all", "reason": "drill"}).to_string();
    let _asking = client.with("Content-Type", "application/json").open(
        "POST",
        "/v1/revocations",
        "1.1",
        Some(order.as_bytes()),
    );
    world.store.pass.wait_for("durable");
    let before = support::fakes::boot();
    let whole = world
        .server
        .take()
        .unwrap()
        .stop(Duration::from_millis(100));
    assert!(!whole, "something was still under way");
    assert!(support::fakes::boot().since(before) < SOON / 2);
    world.store.pass.pass("never");
}

#[test]
fn a_token_that_is_removed_while_a_body_arrives_does_nothing_more() {
    let world = World::start();
    for (path, body) in [
        ("/v1/tokens", json!({"name": "again", "role": "admin"})),
        (
            "/v1/revocations",
            json!({"scope": "all", "reason": "again"}),
        ),
    ] {
        let thief = world.role("admin");
        let body = body.to_string();
        let json = thief.with("Content-Type", "application/json");
        let json = json.with("Expect", "100-continue");
        let head = json.head("POST", path, "1.1", Some(body.len()));
        let mut stream = TcpStream::connect(world.address()).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        // The caller is known by now, and the body is waited for.
        assert_eq!(read(&mut stream).status, 100);
        assert_eq!(world.admin().delete("/v1/tokens/a-admin").status, 204);
        stream.write_all(body.as_bytes()).unwrap();
        let refused = read(&mut stream);
        assert!(is_problem(&refused, 401, "unauthenticated"), "{refused:?}");
        let made = world.admin().get(path).body;
        assert!(!made.contains("again"), "{made}");
    }
}

#[test]
fn a_token_that_is_removed_while_a_set_is_checked_applies_nothing() {
    let world = World::start();
    let thief = world.role("admin").with("Content-Type", "application/json");
    let held = world.compile.gate.lock();
    let set = json!({"sources": [{"path": "p.yaml", "text": "segment a"}]}).to_string();
    let mut stream = thief.open("POST", "/v1/policies", "1.1", Some(set.as_bytes()));
    let give_up = boot().after(SOON);
    while world.compile.at_once.load(Ordering::SeqCst) == 0 {
        assert!(boot() < give_up, "nothing is checked");
    }
    assert_eq!(world.admin().delete("/v1/tokens/a-admin").status, 204);
    drop(held);
    let refused = read(&mut stream);
    assert!(is_problem(&refused, 401, "unauthenticated"), "{refused:?}");
    assert!(world.store.read().policies.is_empty());
}
