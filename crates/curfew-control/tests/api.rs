//! Sessions, policies, bindings and subjects over the wire.
#![cfg(test)]

mod support;

use std::{collections::BTreeMap, sync::Arc};

use curfew_model::BindingKey;
use curfew_state::{Change, Owner, Store as _};
use serde_json::{Value, json};
use support::{World, is_problem};

#[test]
fn a_session_has_the_fields_that_others_rely_on() {
    let world = World::start();
    let id = world.fleet.open_session(7, "alice", "db").to_string();
    let listed = world.role("viewer").get("/v1/sessions").json();
    let session = &listed["sessions"][0];
    for field in [
        "id",
        "subject",
        "identities",
        "segments",
        "service",
        "door",
        "enforcer",
        "state",
        "client",
        "upstream",
        "opened_at",
        "expires_at",
        "idle_deadline",
        "reauth_by",
        "bytes_in",
        "bytes_out",
        "policies",
    ] {
        assert!(
            session.get(field).is_some(),
            "{field} is missing: {session}"
        );
    }
    assert_eq!(session["id"], id);
    assert_eq!(session["subject"]["id"], "alice");
    assert_eq!(session["subject"]["proof"], "bound");
    assert_eq!(session["state"], "open");
    assert_eq!(session["door"], "gateway");
    assert_eq!(session["expires_at"], "2023-11-14T22:28:20.000Z");
    assert!(session["reauth_by"].is_null());
    let shown = world.admin().get(&format!("/v1/sessions/{id}")).json();
    assert_eq!(&shown, session);
}

#[test]
fn sessions_are_filtered_and_paged() {
    let world = World::start();
    for number in 1..=5 {
        world.fleet.open_session(number, "alice", "db");
    }
    world.fleet.open_session(6, "bob", "web");
    let ids = |query: &str| -> Vec<u128> {
        let answer = world.admin().get(&format!("/v1/sessions{query}"));
        assert_eq!(answer.status, 200, "{answer:?}");
        let sessions = answer.json()["sessions"].as_array().unwrap().clone();
        let id = |session: &Value| {
            session["id"]
                .as_str()
                .unwrap()
                .parse::<uuid::Uuid>()
                .unwrap()
        };
        sessions
            .iter()
            .map(|session| id(session).as_u128())
            .collect()
    };
    assert_eq!(ids(""), [1, 2, 3, 4, 5, 6]);
    assert_eq!(ids("?subject=user:bob"), [6]);
    assert_eq!(ids("?subject=user:local%23bob"), [6]);
    assert_eq!(ids("?subject=user:BOB"), [] as [u128; 0]);
    assert_eq!(ids("?segment=db&limit=2"), [1, 2]);
    world.fleet.end_session(2);
    assert_eq!(ids(""), [1, 3, 4, 5, 6]);
    assert_eq!(ids("?state=living"), [1, 3, 4, 5, 6]);
    assert_eq!(ids("?state=ended"), [2]);
    assert_eq!(ids("?state=closing"), [] as [u128; 0]);
    assert_eq!(ids("?state=all&segment=db"), [1, 2, 3, 4, 5]);
    assert_eq!(
        ids("?service=orders&door=gateway&enforcer=gw-1&state=open&policy=dba&segment=web"),
        [6]
    );
    assert_eq!(ids("?door=kernel"), [] as [u128; 0]);
    for subject in ["alice", "users:alice", "user:", ""] {
        for path in ["/v1/sessions", "/v1/sessions/watch"] {
            let nameless = world.admin().get(&format!("{path}?subject={subject}"));
            assert!(is_problem(&nameless, 400, "bad_request"), "{nameless:?}");
        }
    }
    assert_eq!(ids("?state=closing"), [] as [u128; 0]);
    let mut after = String::new();
    let mut seen = Vec::new();
    loop {
        let page = world
            .admin()
            .get(&format!("/v1/sessions?limit=4{after}"))
            .json();
        seen.push(page["sessions"].as_array().unwrap().len());
        let Some(next) = page["next"].as_str() else {
            break;
        };
        after = format!("&after={next}");
    }
    assert_eq!(seen, [4, 1]);
    world.fleet.open_session(7, "c user:bob", "web");
    assert_eq!(ids("?subject=user:%22c%20user:bob%22"), [7]);
}

#[test]
fn an_empty_list_says_what_its_filter_names_and_does_not_exist() {
    let world = World::start();
    let warned = |query: &str| {
        let listed = world.admin().get(&format!("/v1/sessions?{query}")).json();
        listed["warnings"].clone()
    };
    assert_eq!(warned("service=orders"), json!([]));
    assert_eq!(
        warned("service=order&enforcer=gw-9"),
        json!([
            "no enforcer `gw-9` is known",
            "no enforcer has a service `order`"
        ])
    );
}

#[test]
fn explain_says_what_set_each_bound() {
    let world = World::start();
    let id = world.fleet.open_session(1, "alice", "db");
    let explained = world
        .admin()
        .get(&format!("/v1/sessions/{id}/explain"))
        .json();
    let bounds = explained["bounds"].as_array().unwrap();
    let names: Vec<&str> = bounds
        .iter()
        .map(|bound| bound["bound"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["idle_deadline", "expires_at"], "the earliest first");
    assert_eq!(bounds[0]["reason"], "idle_timeout");
    assert_eq!(bounds[1]["by"], "SessionPolicy/dba");
    assert_eq!(bounds[1]["field"], "spec.limits.maxLifetime");
    assert_eq!(bounds[1]["place"], "policy/dba.yaml:9");
    let text = explained["text"].as_str().unwrap();
    assert!(
        text.starts_with("The session ends in 5m at ")
            && text.contains(" with idle_timeout unless it is used before then: ")
            && text.contains(" At the latest it ends in 15m at "),
        "{text}"
    );
    let unknown = world
        .admin()
        .get("/v1/sessions/00000000-0000-0000-0000-000000000009/explain");
    assert!(is_problem(&unknown, 404, "not_found"), "{unknown:?}");
}

#[test]
fn a_cancelled_session_is_closed_before_it_is_on_record_and_on_record_before_the_answer() {
    let world = World::start();
    let id = world.fleet.open_session(1, "alice", "db");
    world.store.pass.forget();
    let cancelled = world
        .role("operator")
        .delete(&format!("/v1/sessions/{id}?reason=drill"));
    assert_eq!(cancelled.status, 200, "{cancelled:?}");
    let done = &cancelled.json()["enforcers"][0];
    assert_eq!(
        (&done["enforcer"], &done["closed"]),
        (&json!("gw-1"), &json!(1))
    );
    let happened = world.store.pass.happened();
    assert_eq!(happened[happened.len() - 2..], ["cut", "recorded"]);
    assert!(world.fleet.sessions.lock().is_empty());
    let records = world.records();
    let record = records.last().unwrap();
    assert_eq!(record["event"], "session.cancelled");
    assert_eq!(record["session"], id.to_string());
    assert_eq!(record["cause"], "drill");
    assert_eq!(record["detail"]["by"], "api:a-operator");
    let again = world.admin().delete(&format!("/v1/sessions/{id}"));
    assert!(is_problem(&again, 404, "not_found"), "{again:?}");
    // With a full log it still closes, and says that it is not on record.
    let id = world.fleet.open_session(2, "alice", "db");
    *world.journal.full.lock() = true;
    let unrecorded = world.admin().delete(&format!("/v1/sessions/{id}"));
    assert!(
        is_problem(&unrecorded, 503, "not_on_record"),
        "{unrecorded:?}"
    );
    assert!(world.fleet.sessions.lock().is_empty());
}

#[test]
fn a_renewal_needs_proof() {
    let world = World::start();
    let id = world.fleet.open_session(1, "alice", "db");
    let path = format!("/v1/sessions/{id}/renew");
    let refused = world.admin().send("POST", &path, None);
    assert!(is_problem(&refused, 403, "proof_required"), "{refused:?}");
    world.fleet.proved.lock().push(id);
    let renewed = world.admin().send("POST", &path, None);
    assert_eq!(renewed.status, 200, "{renewed:?}");
    assert_eq!(renewed.json()["id"], id.to_string());
    let renewals = world.records();
    let renewals = renewals
        .iter()
        .filter(|record| record["event"] == "session.renewed");
    assert_eq!(
        renewals.count(),
        0,
        "that is the enforcer's, who knows of the proof"
    );
}

#[test]
fn a_set_is_applied_though_something_else_changes_meanwhile() {
    let world = World::start();
    let set = |expected: Option<u64>| json!({"sources": [{"path": "a.yaml", "text": "segment db"}], "expected_revision": expected});
    let files = |text: &str| Change::ApplyPolicy {
        owner: Owner::Files,
        content: json!([{"path": "f.yaml", "text": text}]).to_string().into(),
        at: support::now(),
        by: "files".to_owned(),
    };
    let applied = |expected, meanwhile| {
        world.store.pass.forget();
        world.store.pass.hold("asked", "changed");
        let client = world.admin();
        let applying = std::thread::spawn(move || client.post("/v1/policies", &set(expected)));
        world.store.pass.wait_until_held("asked");
        world.store.meanwhile(meanwhile);
        world.store.pass.pass("changed");
        applying.join().unwrap()
    };
    let unrelated = || Change::ForgetEnds {
        before: support::now(),
    };
    assert_eq!(applied(None, unrelated()).status, 200);
    let before = world.store.read().revision.0;
    let stale = applied(Some(before), unrelated());
    assert!(is_problem(&stale, 409, "conflict"), "{stale:?}");
    // What the state may come to, nobody can have checked it beside.
    world.store.pass.forget();
    let coming = world.store.read().revision.0 + 1;
    let early = world.admin().post("/v1/policies", &set(Some(coming)));
    assert!(is_problem(&early, 409, "conflict"), "{early:?}");
    assert!(world.store.pass.happened().is_empty(), "it was not tried");
    // It is checked anew together with a set that came in between.
    assert_eq!(applied(None, files("segment web")).status, 200);
    let invalid = applied(None, files("nonsense"));
    assert!(is_problem(&invalid, 422, "policy_invalid"), "{invalid:?}");
}

#[test]
fn policies_are_validated_applied_and_remembered() {
    let world = World::start();
    let admin = world.admin();
    assert_eq!(admin.get("/v1/segments").json()["segments"], json!([]));
    let set = |text: &str| json!({"sources": [{"path": "policy/a.yaml", "text": text}]});
    let bad = admin.post(
        "/v1/policies/validate",
        &set("segment db\nsgement web\nnonsense"),
    );
    assert_eq!(bad.status, 200);
    let bad = bad.json();
    assert_eq!(bad["ok"], false);
    assert_eq!(bad["findings"].as_array().unwrap().len(), 2);
    assert_eq!(bad["findings"][0]["line"], 2);
    let before = world.store.read().revision;
    let refused = admin.post("/v1/policies", &set("sgement web"));
    assert!(is_problem(&refused, 422, "policy_invalid"), "{refused:?}");
    assert_eq!(refused.json()["findings"][0]["path"], "policy/a.yaml");
    let empty = admin.post("/v1/policies", &set(" \n"));
    assert!(is_problem(&empty, 422, "invalid"), "{empty:?}");
    assert_eq!(world.store.read().revision, before);
    world.store.pass.forget();
    let applied = admin.post("/v1/policies", &set("segment db"));
    assert_eq!(applied.status, 200, "{applied:?}");
    assert_eq!(world.store.pass.happened()[..2], ["asked", "durable"]);
    let applied = applied.json();
    assert_eq!(applied["revision"], before.0 + 1);
    assert_eq!(applied["enforcers"][0]["closed"], 3);
    let records = world.records();
    let record = records.last().unwrap();
    assert_eq!(record["event"], "policy.applied");
    assert_eq!(record["revision"], applied["revision"]);
    world.fleet.open_session(1, "alice", "db");
    let segments = admin.get("/v1/segments").json();
    assert_eq!(segments["segments"][0]["name"], "db");
    assert_eq!(segments["segments"][0]["limits"]["max_lifetime"], "15m");
    assert_eq!(segments["segments"][0]["open"], 1);
    let mut stale = set("segment web");
    stale["expected_revision"] = json!(before.0);
    let conflict = admin.post("/v1/policies", &stale);
    assert!(is_problem(&conflict, 409, "conflict"), "{conflict:?}");
    let mut files = set("segment web");
    files["owner"] = json!("files");
    assert_eq!(admin.post("/v1/policies", &files).status, 200);
    let names = |segments: Value| -> Vec<Value> {
        let segments = segments["segments"].as_array().unwrap().clone();
        segments
            .iter()
            .map(|segment| segment["name"].clone())
            .collect()
    };
    assert_eq!(
        names(admin.get("/v1/segments").json()).len(),
        2,
        "the union of both owners"
    );
    let history = admin.get("/v1/policies/history").json();
    let owners: Vec<&Value> = history["history"]
        .as_array()
        .unwrap()
        .iter()
        .map(|past| &past["owner"])
        .collect();
    assert_eq!(owners, ["files", "api"], "the newest first");
    let revision = &history["history"][1]["revision"];
    let past = admin
        .get(&format!("/v1/policies/history/{revision}"))
        .json();
    assert_eq!(past["sources"][0]["text"], "segment db");
    assert_eq!(past["by"], "api:admin");
    let missing = admin.get("/v1/policies/history/999");
    assert!(is_problem(&missing, 404, "not_found"), "{missing:?}");
    let in_force = admin.get("/v1/policies").json();
    assert_eq!(in_force["sets"].as_array().unwrap().len(), 2);
    assert_eq!(world.store.read().policies[&Owner::Api].0.by, "api:admin");
}

#[test]
fn bindings_are_made_refreshed_removed_and_kept_within_networks() {
    let world = World::start();
    let binder = world.role("binder");
    let bind = json!({"address": "::ffff:10.1.2.3", "user": "https://idp.example#alice", "groups": ["dba", "dba"]});
    let bound = binder.put("/v1/bindings", &bind);
    assert_eq!(bound.status, 200, "{bound:?}");
    let key = BindingKey::Address("10.1.2.3/32".parse().unwrap());
    assert_eq!(bound.json()["warnings"], json!([]));
    let state = world.store.read();
    let binding = &state.bindings[&key];
    assert_eq!(binding.identity.issuer.0, "https://idp.example");
    assert_eq!(binding.identity.id, "alice");
    assert_eq!(binding.groups, ["dba"]);
    assert!(binding.refreshed_at.is_some());
    let applied = world.fleet.applied.lock().last().unwrap().clone();
    assert_eq!(bound.json()["revision"], applied.revision.0);
    let records = world.records();
    let record = records.last().unwrap();
    assert_eq!(record["event"], "binding.changed");
    assert_eq!(record["detail"]["by"], "api:a-binder");
    for outside in [
        json!({"address": "10.2.0.1", "user": "alice"}),
        json!({"address": "10.0.0.0/8", "user": "alice"}),
        json!({"address": "10.4.0.0/14", "user": "alice"}),
        json!({"address": "0.0.0.0/0", "user": "alice"}),
        json!({"uid": 0, "user": "alice"}),
        json!({"cgroup": "/x", "workload": "x"}),
    ] {
        let refused = binder.put("/v1/bindings", &outside);
        assert!(
            is_problem(&refused, 403, "forbidden"),
            "{outside}: {refused:?}"
        );
        assert_eq!(
            world.admin().put("/v1/bindings", &outside).status,
            200,
            "{outside}"
        );
    }
    let refused = binder.delete("/v1/bindings?uid=0");
    assert!(is_problem(&refused, 403, "forbidden"), "{refused:?}");
    for bad in [
        json!({"user": "alice"}),
        json!({"address": "10.1.2.3"}),
        json!({"address": "10.1.2.3", "uid": 1, "user": "alice"}),
        json!({"address": "10.1.2.3", "user": "alice", "workload": "x"}),
        json!({"address": "10.1.2.3/40", "user": "alice"}),
        json!({"address": "10.1.2.3/16", "user": "alice"}),
        json!({"address": "::ffff:10.1.2.3/112", "user": "alice"}),
        json!({"address": "10.1.2.3", "user": "a\nb"}),
        json!({"address": "10.1.2.3", "user": "#"}),
        json!({"address": "10.1.2.3", "user": "alice", "until": "2001-01-01T00:00:00Z"}),
        json!({"cgroup": "relative", "user": "alice"}),
    ] {
        let answer = world.admin().put("/v1/bindings", &bad);
        assert!(is_problem(&answer, 422, "invalid"), "{bad}: {answer:?}");
    }
    let mut seen = 0;
    let mut after = String::new();
    loop {
        let page = world
            .admin()
            .get(&format!("/v1/bindings?limit=2{after}"))
            .json();
        seen += page["bindings"].as_array().unwrap().len();
        let Some(next) = page["next"].as_str() else {
            break;
        };
        let encoded: String = next.bytes().map(|byte| format!("%{byte:02x}")).collect();
        after = format!("&after={encoded}");
    }
    assert_eq!(seen, 7);
    assert_eq!(binder.delete("/v1/bindings?address=10.1.2.3").status, 200);
    let gone = binder.delete("/v1/bindings?address=10.1.2.3");
    assert!(is_problem(&gone, 404, "not_found"), "{gone:?}");
}

#[test]
fn a_binding_that_no_door_sees_is_made_with_a_warning() {
    let world = World::start();
    let cgroup = json!({"cgroup": "/system.slice/x.service", "workload": "x"});
    let bound = world.admin().put("/v1/bindings", &cgroup);
    assert_eq!(bound.status, 200, "{bound:?}");
    let bound = bound.json();
    let said = bound["warnings"][0].as_str().unwrap();
    assert!(said.contains("sees cgroups"), "{said}");
}

#[test]
fn bindings_of_the_configuration_are_listed_and_left_alone() {
    let world = World::start();
    let admin = world.admin();
    for uid in [1, 2] {
        let set = admin.put("/v1/bindings", &json!({"uid": uid, "user": "alice"}));
        assert_eq!(set.status, 200, "{set:?}");
    }
    let mut binding = world.store.read().bindings[&BindingKey::Uid(2)].clone();
    let mut configured = BTreeMap::new();
    for uid in [2, 3] {
        binding.key = BindingKey::Uid(uid);
        configured.insert(binding.key.clone(), binding.clone());
    }
    *world.fleet.configured.lock() = Arc::new(configured);
    let mut listed = Vec::new();
    let mut after = String::new();
    loop {
        let page = admin.get(&format!("/v1/bindings?limit=1{after}")).json();
        let found = page["bindings"].as_array().unwrap();
        listed.extend(found.iter().map(|one| {
            let source = one["source"].as_str().unwrap();
            format!("{} {source}", one["uid"])
        }));
        let Some(next) = page["next"].as_str() else {
            break;
        };
        let encoded: String = next.bytes().map(|byte| format!("%{byte:02x}")).collect();
        after = format!("&after={encoded}");
    }
    assert_eq!(listed, ["1 state", "2 config", "2 state", "3 config"]);
    assert_eq!(admin.delete("/v1/bindings?uid=2").status, 200);
    for uid in [2, 3] {
        let kept = admin.delete(&format!("/v1/bindings?uid={uid}"));
        assert!(is_problem(&kept, 409, "conflict"), "{kept:?}");
        let detail = kept.json()["detail"].to_string();
        assert!(detail.contains("curfew.yaml") && detail.contains("SIGHUP"));
    }
    let refused = world.role("binder").delete("/v1/bindings?uid=3");
    assert!(is_problem(&refused, 403, "forbidden"), "{refused:?}");
}

#[test]
fn subjects_are_set_listed_and_forgotten() {
    let world = World::start();
    let subject = json!({"kind": "user", "id": "alice", "groups": ["dba"], "attributes": {"subject.risk": "low"}});
    assert_eq!(world.admin().put("/v1/subjects", &subject).status, 200);
    assert_eq!(world.records().last().unwrap()["event"], "subject.changed");
    let listed = world.admin().get("/v1/subjects").json();
    assert_eq!(listed["subjects"][0]["issuer"], "local");
    assert_eq!(listed["subjects"][0]["attributes"]["subject.risk"], "low");
    assert_eq!(
        world
            .admin()
            .delete("/v1/subjects?kind=user&id=alice")
            .status,
        200
    );
    let gone = world.admin().delete("/v1/subjects?kind=user&id=alice");
    assert!(is_problem(&gone, 404, "not_found"), "{gone:?}");
    let bad = world
        .admin()
        .put("/v1/subjects", &json!({"kind": "user", "id": ""}));
    assert!(is_problem(&bad, 422, "invalid"), "{bad:?}");
    let subject = json!({"kind": "user", "id": "alice", "attributes": {"subject.bogus": "1"}});
    let bad = world.admin().put("/v1/subjects", &subject);
    assert!(is_problem(&bad, 422, "invalid"), "{bad:?}");
    let detail = bad.json()["detail"].clone();
    assert_eq!(detail, "attributes: subject.bogus is no attribute");
    assert!(world.store.read().subjects.is_empty());
}
