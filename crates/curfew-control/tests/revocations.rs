//! Orders over the wire: cut and disk side by side, the answer after both and on record, once for one key, and what
//! happens when the disk or the log refuses.
#![cfg(test)]

mod support;

use std::time::Duration;

use curfew_control::Answer;
use curfew_model::{Block, Revision};
use curfew_state::{Change, Store as _};
use serde_json::{Value, json};
use support::{
    World,
    fakes::{boot, outcome},
    is_problem,
};

fn alice() -> Value {
    json!({"scope": {"subject": {"kind": "user", "issuer": null, "id": "alice"}}, "reason": "left the company"})
}

#[test]
fn an_order_is_carried_out_durable_and_on_record_when_it_is_answered() {
    let world = World::start();
    world.store.pass.forget();
    let answer = world.admin().post("/v1/revocations", &alice());
    assert_eq!(answer.status, 201, "{answer:?}");
    let mut happened = world.store.pass.happened();
    happened.sort_unstable();
    assert_eq!(happened, ["asked", "cut", "durable", "recorded"]);
    let done = answer.json();
    assert_eq!(done["matched"], 4);
    assert_eq!(done["closed"], 3);
    assert_eq!(done["audit_only"], 1);
    assert_eq!(done["unreachable"], 1);
    assert_eq!(done["enforcers"][0]["enforcer"], "gw-1");
    assert_eq!(done["enforcers"][0]["answer"], "done");
    assert_eq!(done["enforcers"][1]["answer"], "unreachable");
    assert_eq!(done["block"], "until_lifted", "the default of a subject");
    assert_eq!(done["source"], "api:admin");
    assert!(done["enforced_after_ms"].as_f64().unwrap() > 0.0);
    let state = world.store.read();
    let order = state.revocations.values().next().unwrap();
    assert_eq!(order.id.to_string(), done["id"].as_str().unwrap());
    assert_eq!(done["revision"], order.revision.0);
    assert_eq!(order.id.0.get_version_num(), 7);
    let records = world.records();
    let record = records.last().unwrap();
    assert_eq!(record["event"], "revocation.created");
    assert_eq!(record["detail"]["by"], "api:admin");
    assert_eq!(record["detail"]["revocation"], done["id"]);
    assert_eq!(record["revision"], done["revision"]);
    let applied = world.fleet.applied.lock();
    assert_eq!(applied.len(), 1);
    assert_eq!(applied[0].revision, order.revision);
}

#[test]
fn an_order_is_enforced_when_the_last_door_had_closed_its_last_session() {
    let world = World::start();
    let later = |minutes: u64| Some(boot().after(Duration::from_secs(60 * minutes)));
    let enforced_after = || {
        let answer = world.admin().post("/v1/revocations", &alice());
        Duration::from_secs_f64(answer.json()["enforced_after_ms"].as_f64().unwrap() / 1_000.0)
    };
    world.fleet.outcomes.lock()[0].closed_at = later(60);
    // The other one does not say when: its answer counts.
    assert!(enforced_after() < Duration::from_secs(60));
    world.fleet.outcomes.lock()[1].closed_at = later(10);
    let hour = Duration::from_secs(3_600);
    assert!(enforced_after().abs_diff(hour) < Duration::from_secs(60));
    // So it is with the cancellation of one.
    let id = world.fleet.open_session(1, "alice", "db");
    let cancelled = world.admin().delete(&format!("/v1/sessions/{id}"));
    let closed_after = cancelled.json()["closed_after_ms"].as_f64().unwrap();
    let closed_after = Duration::from_secs_f64(closed_after / 1_000.0);
    assert!(closed_after.abs_diff(hour) < Duration::from_secs(60));
}

#[test]
fn the_cut_does_not_wait_for_the_disk() {
    let world = World::start();
    world.store.pass.forget();
    world.store.pass.hold("durable", "cut");
    let answer = world.admin().post("/v1/revocations", &alice());
    assert_eq!(answer.status, 201, "{answer:?}");
}

#[test]
fn the_cut_does_not_wait_for_the_log() {
    let world = World::start();
    world.store.pass.forget();
    world.store.pass.hold("recorded", "cut");
    let answer = world.admin().post("/v1/revocations", &alice());
    assert_eq!(answer.status, 201, "{answer:?}");
}

#[test]
fn the_answer_waits_for_cut_disk_and_log() {
    for last in ["cut", "durable", "recorded"] {
        let world = World::start();
        world.store.pass.forget();
        world.store.pass.hold(last, "looked");
        let client = world.admin();
        let answering = std::thread::spawn(move || client.post("/v1/revocations", &alice()));
        for other in ["cut", "durable", "recorded"] {
            if other != last {
                world.store.pass.wait_for(other);
            }
        }
        assert!(!answering.is_finished(), "answered without {last}");
        world.store.pass.pass("looked");
        assert_eq!(answering.join().unwrap().status, 201);
    }
}

#[test]
fn a_key_makes_one_order() {
    let world = World::start();
    let client = world.admin().with("Idempotency-Key", "leaver-17");
    let first = client.post("/v1/revocations", &alice());
    let revision = world.store.read().revision;
    world.fleet.outcomes.lock()[0] = outcome("gw-1", Answer::Done, 0);
    let again = client.post("/v1/revocations", &alice());
    assert_eq!((first.status, again.status), (201, 200), "{again:?}");
    let (first, again) = (first.json(), again.json());
    assert_eq!(first["id"], again["id"]);
    assert_eq!(first["enforcers"], again["enforcers"]);
    assert_eq!(
        (&first["repeated"], &again["repeated"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(world.store.read().revision, revision);
    // Who did not answer then does now.
    world.fleet.outcomes.lock()[1] = outcome("gw-2", Answer::Done, 6);
    let reached = client.post("/v1/revocations", &alice()).json();
    assert_eq!(reached["unreachable"], 0);
    assert_eq!(
        (&reached["closed"], &reached["matched"]),
        (&json!(9), &json!(12))
    );
    let shown = world.admin().get(&format!(
        "/v1/revocations/{}",
        first["id"].as_str().unwrap()
    ));
    assert_eq!(shown.json()["enforcers"], reached["enforcers"]);
    let records = world.records();
    let told = records
        .iter()
        .map(|record| (&record["event"], &record["detail"]["repeated"]));
    let created = json!("revocation.created");
    let repeated = told
        .filter(|(event, _)| **event == created)
        .map(|(_, repeated)| repeated);
    let again = json!("true");
    assert_eq!(repeated.collect::<Vec<_>>(), [&json!(null), &again, &again]);
    let other = json!({"scope": "all", "reason": "drill"});
    let reused = client.post("/v1/revocations", &other);
    assert!(
        is_problem(&reused, 422, "idempotency_key_reused"),
        "{reused:?}"
    );
    // Another caller's key is another key.
    let operator = world.role("operator").with("Idempotency-Key", "leaver-17");
    assert_eq!(operator.post("/v1/revocations", &other).status, 201);
    // And it outlives the process.
    let world = World::inside(world.stop(), |_| ());
    let client = world.admin().with("Idempotency-Key", "leaver-17");
    let later = client.post("/v1/revocations", &alice());
    assert_eq!((later.status, &later.json()["id"]), (200, &first["id"]));
}

#[test]
fn one_key_at_the_same_time_makes_one_order() {
    let world = World::start();
    let before = world.store.read().revision;
    let callers: Vec<_> = (0..8)
        .map(|_| {
            let client = world.admin().with("Idempotency-Key", "k");
            std::thread::spawn(move || client.post("/v1/revocations", &alice()))
        })
        .collect();
    let answers: Vec<_> = callers
        .into_iter()
        .map(|caller| caller.join().unwrap())
        .collect();
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert_eq!(made, 1, "{answers:?}");
    assert!(
        answers
            .iter()
            .all(|answer| answer.json()["id"] == answers[0].json()["id"])
    );
    assert_eq!(world.store.read().revision, Revision(before.0 + 1));
}

#[test]
fn a_broken_disk_cuts_and_says_that_the_order_is_not_kept() {
    let world = World::start();
    *world.store.broken.lock() = true;
    let answer = world.admin().post("/v1/revocations", &alice());
    assert!(is_problem(&answer, 503, "not_durable"), "{answer:?}");
    assert_eq!(answer.json()["enforcers"][0]["closed"], 3);
    // An order with a key, which cannot be looked up, ends no less.
    let keyed = world.admin().with("Idempotency-Key", "k");
    let answer = keyed.post("/v1/revocations", &alice());
    assert!(is_problem(&answer, 503, "not_durable"), "{answer:?}");
    assert_eq!(answer.json()["enforcers"][0]["closed"], 3);
    let applied = world.fleet.applied.lock().clone();
    let [Change::Revoke(order)] = &applied[0].changes[..] else {
        panic!("{applied:?}");
    };
    assert_eq!(world.fleet.withdrawn.lock()[0], order.id);
    let dir = world.stop();
    let records = support::records(dir.path());
    let record = records
        .iter()
        .find(|record| record["event"] == "revocation.not_kept")
        .unwrap();
    assert_eq!(record["detail"]["revocation"], order.id.to_string());
    assert_eq!(record["detail"]["by"], "api:admin");
    assert!(record["cause"].as_str().unwrap().contains("no space left"));
}

#[test]
fn without_room_for_a_block_sessions_end_all_the_same_and_it_is_no_success() {
    let world = World::start();
    *world.store.full.lock() = true;
    let client = world.admin().with("Idempotency-Key", "k");
    let answer = client.post("/v1/revocations", &alice());
    assert!(is_problem(&answer, 507, "not_blocked"), "{answer:?}");
    assert_eq!(answer.json()["enforcers"][0]["closed"], 3);
    let kept = world.store.read().revocations.clone();
    assert_eq!(kept.len(), 1);
    assert!(kept.values().all(|order| order.block == Block::None));
    let created = |record: &Value| record["event"] == "revocation.created";
    assert_eq!(world.records().into_iter().filter(created).count(), 1);
    // What goes wrong beside it hides that from nobody.
    *world.journal.full.lock() = true;
    let unrecorded = client.post("/v1/revocations", &alice());
    assert!(
        is_problem(&unrecorded, 503, "not_on_record"),
        "{unrecorded:?}"
    );
    let detail = unrecorded.json()["detail"].to_string();
    assert!(detail.contains("new ones are not kept out"), "{detail}");
    *world.journal.full.lock() = false;
    // Once there is room, the same order with the same key is taken as it was meant.
    *world.store.full.lock() = false;
    let answer = client.post("/v1/revocations", &alice());
    assert_eq!(answer.status, 201, "{answer:?}");
    assert_eq!(answer.json()["blocks"], true);
}

#[test]
fn a_full_log_cuts_and_is_never_a_success() {
    let world = World::start();
    *world.journal.full.lock() = true;
    let client = world.admin().with("Idempotency-Key", "k");
    let answer = client.post("/v1/revocations", &alice());
    assert!(is_problem(&answer, 503, "not_on_record"), "{answer:?}");
    assert_eq!(answer.json()["enforcers"][0]["closed"], 3);
    assert_eq!(world.store.read().revocations.len(), 1);
    // Tried again with the same key, it comes on record.
    *world.journal.full.lock() = false;
    let again = client.post("/v1/revocations", &alice());
    assert_eq!(again.status, 200, "{again:?}");
    let created = |record: &Value| record["event"] == "revocation.created";
    assert_eq!(
        world
            .records()
            .iter()
            .filter(|record| created(record))
            .count(),
        1
    );
}

#[test]
fn an_order_goes_on_when_its_caller_hangs_up() {
    let world = World::with(|settings| settings.limits.connections = 1);
    world.store.pass.forget();
    world.store.pass.hold("asked", "gone");
    let stream = world.admin().with("Content-Type", "application/json").open(
        "POST",
        "/v1/revocations",
        "1.1",
        Some(alice().to_string().as_bytes()),
    );
    world.store.pass.wait_until_held("asked");
    drop(stream);
    // The one place is free again: the server has seen that the caller is gone.
    support::wait_for_a_place(&world.stranger());
    world.store.pass.pass("gone");
    // Stopping waits for what is under way.
    let store = std::sync::Arc::clone(&world.store);
    let fleet = std::sync::Arc::clone(&world.fleet);
    world.stop();
    assert!(store.pass.happened().contains(&"recorded"));
    let applied = fleet.applied.lock();
    assert!(matches!(applied[0].changes[0], Change::Revoke(_)));
}

#[test]
fn orders_are_listed_shown_and_lifted_by_whom_they_belong_to() {
    let world = World::start();
    let operator = world.role("operator");
    let mine = operator.post("/v1/revocations", &alice()).json();
    let drill = json!({"scope": {"segment": "payments"}, "reason": "drill"});
    let other = world.admin().post("/v1/revocations", &drill).json();
    assert_eq!(other["block"], "none");
    let viewer = world.role("viewer");
    let list = |query: &str| viewer.get(&format!("/v1/revocations{query}")).json();
    let ids = |list: &Value| -> Vec<Value> {
        let orders = list["revocations"].as_array().unwrap();
        orders.iter().map(|order| order["id"].clone()).collect()
    };
    assert_eq!(ids(&list("?blocks=true")), [mine["id"].clone()]);
    assert_eq!(ids(&list("?blocks=false")), [other["id"].clone()]);
    let first = list("?limit=1");
    let next = first["next"].as_str().unwrap().to_owned();
    let rest = list(&format!("?after={next}"));
    assert!(rest["next"].is_null());
    assert_eq!([ids(&first), ids(&rest)].concat(), ids(&list("")));
    let path = |order: &Value| format!("/v1/revocations/{}", order["id"].as_str().unwrap());
    let shown = viewer.get(&path(&mine)).json();
    assert_eq!(shown["enforcers"], mine["enforcers"]);
    let lift = |client: &support::client::Client, order| {
        client.send("POST", &format!("{}/lift", path(order)), None)
    };
    let refused = lift(&operator, &other);
    assert!(is_problem(&refused, 403, "forbidden"), "{refused:?}");
    let lifted = lift(&operator, &mine);
    assert_eq!(lifted.status, 200, "{lifted:?}");
    assert_eq!(lifted.json()["blocks"], false);
    assert!(lifted.json()["lifted_at"].is_string());
    assert_eq!(
        world.records().last().unwrap()["event"],
        "revocation.lifted"
    );
    let before = (world.store.read().revision, world.records().len());
    let again = lift(&operator, &mine);
    assert_eq!((again.status, &again.body), (200, &lifted.body));
    let after = (world.store.read().revision, world.records().len());
    assert_eq!(after, before, "lifted twice");
    assert_eq!(lift(&world.admin(), &other).status, 200);
    let unknown = viewer.get("/v1/revocations/018f0000-0000-7000-8000-000000000000");
    assert!(is_problem(&unknown, 404, "not_found"), "{unknown:?}");
}

#[test]
fn an_order_that_names_what_does_not_exist_is_made_with_a_warning() {
    let world = World::start();
    let set = json!({"sources": [{"path": "a.yaml", "text": "segment db"}]});
    assert_eq!(world.admin().post("/v1/policies", &set).status, 200);
    *world.fleet.outcomes.lock() = vec![outcome("gw-1", Answer::Done, 0)];
    let session = world.fleet.open_session(1, "alice", "db").to_string();
    let nobody = "018f0000-0000-7000-8000-000000000000";
    let warned = |scope: &Value| {
        let order = json!({"scope": scope, "reason": "drill"});
        let answer = world.admin().post("/v1/revocations", &order);
        assert_eq!(answer.status, 201, "{answer:?}");
        answer.json()["warnings"].clone()
    };
    for (scope, warning) in [
        (
            json!({"segment": "dv"}),
            "no segment `dv` in the policy in force",
        ),
        (
            json!({"policy": "dba"}),
            "no policy `dba` in the policy in force",
        ),
        (json!({"enforcer": "gw-9"}), "no enforcer `gw-9` is known"),
        (
            json!({"session": nobody}),
            &format!("no session `{nobody}` is open, nor ended not long ago"),
        ),
        (
            alice()["scope"].clone(),
            "no session has the user `alice`, and neither a binding nor a subject names it",
        ),
        (
            json!({"device": "laptop-17"}),
            "no door knows devices yet: no session has one",
        ),
    ] {
        assert_eq!(warned(&scope), json!([warning]));
    }
    let subject = json!({"kind": "user", "id": "alice", "groups": ["dba"]});
    assert_eq!(world.admin().put("/v1/subjects", &subject).status, 200);
    let device = json!({"kind": "device", "id": "laptop-17"});
    let set = world.admin().put("/v1/subjects", &device).json();
    let unseen = json!(["no door knows devices yet: it changes nothing"]);
    assert_eq!(set["warnings"], unseen);
    let role = json!({"kind": "role", "id": "postgres"});
    let order = json!({"scope": {"subject": role}, "reason": "drill"});
    let admin = world.admin();
    for nobody in [
        admin.put("/v1/subjects", &role),
        admin.post("/v1/revocations", &order),
    ] {
        assert!(is_problem(&nobody, 422, "invalid"), "{nobody:?}");
        let detail = nobody.json()["detail"].to_string();
        assert!(detail.contains("SERVICE/NAME"), "{detail}");
    }
    for scope in [
        json!({"segment": "db"}),
        json!({"enforcer": "gw-1"}),
        json!({"session": session}),
        json!("all"),
        alice()["scope"].clone(),
    ] {
        assert_eq!(warned(&scope), json!([]), "{scope}");
    }
}

#[test]
fn what_makes_no_order_is_said() {
    let world = World::start();
    let before = world.store.read().revision;
    let past =
        json!({"scope": "all", "reason": "x", "block": {"until": "2020-01-01T00:00:00.000Z"}});
    let refused = world.admin().post("/v1/revocations", &past);
    assert!(is_problem(&refused, 400, "bad_request"), "{refused:?}");
    let bad = [
        (json!({"scope": "everything", "reason": "x"}), "invalid"),
        (json!({"scope": "all", "reason": " "}), "invalid"),
        (json!({"scope": "all", "reason": "x\u{1b}[31m"}), "invalid"),
        (
            json!({"scope": "all", "reason": "x", "blok": "none"}),
            "invalid",
        ),
        (
            json!({"scope": {"segment": "Not A Name"}, "reason": "x"}),
            "invalid",
        ),
        (json!({"reason": "x"}), "invalid"),
        (
            json!({"scope": {"subject": {"kind": "user", "id": ""}}, "reason": "x"}),
            "invalid",
        ),
        (
            json!({"scope": {"subject": {"kind": "user", "id": "a".repeat(1_001)}}, "reason": "x"}),
            "invalid",
        ),
    ];
    for (body, code) in bad {
        let answer = world.admin().post("/v1/revocations", &body);
        assert!(is_problem(&answer, 422, code), "{body}: {answer:?}");
    }
    for wait in ["5", "61s", "0s", "soon"] {
        let answer = world
            .admin()
            .post(&format!("/v1/revocations?wait={wait}"), &alice());
        assert!(
            is_problem(&answer, 400, "bad_request"),
            "{wait}: {answer:?}"
        );
    }
    let long = "k".repeat(201);
    for key in ["", "a b", &long] {
        let answer = world
            .admin()
            .with("Idempotency-Key", key)
            .post("/v1/revocations", &alice());
        assert!(is_problem(&answer, 400, "bad_request"), "{key}: {answer:?}");
    }
    assert_eq!(world.store.read().revision, before);
    assert!(world.fleet.applied.lock().is_empty());
}
