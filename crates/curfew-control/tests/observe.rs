//! What an operator looks at over the wire: the audit log, metrics, enforcers, and the OpenAPI document.
#![cfg(test)]

mod support;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use curfew_control::Door;
use curfew_model::EndReason;
use serde_json::json;
use support::World;

#[test]
fn the_log_is_read_and_verified_over_the_api() {
    let world = World::start();
    let admin = world.admin();
    let head = admin.get("/v1/audit/head").json();
    for _ in 0..3 {
        admin.post(
            "/v1/revocations",
            &json!({"scope": "all", "reason": "drill"}),
        );
    }
    let records = admin.get("/v1/audit?limit=2").json();
    let records = records["records"].as_array().unwrap();
    assert_eq!(records.len(), 2);
    assert_eq!(records[1]["seq"], 4);
    let verified = admin.post("/v1/audit/verify", &json!({})).json();
    assert_eq!(
        (&verified["ok"], &verified["records"]),
        (&json!(true), &json!(4))
    );
    assert_eq!(verified["unknown_after"], 4);
    assert_eq!(verified["key"], head["key"]);
    let verified = admin
        .post("/v1/audit/verify", &json!({ "head": head }))
        .json();
    assert_eq!(verified["whole_through"], 1);
    let files = std::fs::read_dir(world.dir.path().join("audit")).unwrap();
    let mut files = files.map(|entry| entry.unwrap().path());
    let is_segment = |path: &std::path::PathBuf| path.to_string_lossy().contains("/0");
    let segment = files.find(is_segment).unwrap();
    let changed = std::fs::read_to_string(&segment)
        .unwrap()
        .replacen("drill", "dril1", 1);
    std::fs::write(&segment, changed).unwrap();
    let verified = admin.post("/v1/audit/verify", &json!({})).json();
    assert_eq!(verified["ok"], false);
    assert_eq!(verified["findings"][0]["line"], 2, "{verified}");
}

/// Every metric with the names of its labels.
fn families(text: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let series = line.split(' ').next().unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        let parts = ["_bucket", "_count", "_sum"];
        let name = parts
            .iter()
            .find_map(|part| name.strip_suffix(part))
            .unwrap_or(name);
        let labels = labels.split(',').filter_map(|label| label.split_once('='));
        let labels = labels
            .map(|(label, _)| label.to_owned())
            .filter(|label| label != "le");
        families.entry(name.to_owned()).or_default().extend(labels);
    }
    families
}

/// The same, as the guide has it.
fn documented() -> BTreeMap<String, BTreeSet<String>> {
    let guide = include_str!("../../../docs/guide/metrics.md");
    let rows = guide.lines().filter(|line| line.starts_with("| `curfew_"));
    let names = |cell: &str| -> Vec<String> {
        cell.split('`')
            .skip(1)
            .step_by(2)
            .map(str::to_owned)
            .collect()
    };
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        (
            names(cells[1]).remove(0),
            names(cells[3]).into_iter().collect(),
        )
    })
    .collect()
}

#[test]
fn metrics_count_what_happened_and_name_no_subject() {
    let world = World::start();
    world.fleet.open_session(1, "alice", "db");
    world.fleet.open_session(2, "alice", "db");
    let db = ["db".parse().unwrap()];
    world
        .metrics
        .ended(&db, Door::Gateway, EndReason::SubjectRevoked);
    world
        .metrics
        .refused(&[], Door::Gateway, EndReason::Unattributed);
    world
        .metrics
        .closed(Door::Gateway, Duration::from_micros(300));
    world.metrics.resolved(&"db".parse().unwrap(), false);
    world.admin().post(
        "/v1/revocations",
        &json!({"scope": "all", "reason": "alice"}),
    );
    let answer = world.admin().get("/metrics");
    assert!(
        answer
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let text = &answer.body;
    for line in [
        r#"curfew_sessions_open{segment="db",door="gateway"} 2"#,
        r#"curfew_sessions_ended_total{segment="db",door="gateway",reason="subject_revoked"} 1"#,
        r#"curfew_sessions_refused_total{segment="none",door="gateway",reason="unattributed"} 1"#,
        r#"curfew_close_lateness_seconds_bucket{le="0.00025",door="gateway"} 0"#,
        r#"curfew_close_lateness_seconds_bucket{le="0.0005",door="gateway"} 1"#,
        r#"curfew_revocation_stage_seconds_count{stage="accepted"} 1"#,
        r#"curfew_revocation_stage_seconds_count{stage="enforced"} 1"#,
        r#"curfew_revocation_stage_seconds_count{stage="durable"} 1"#,
        r#"curfew_revocation_stage_seconds_count{stage="acknowledged"} 1"#,
        "curfew_audit_durable_seconds_count 1",
        "curfew_audit_writable 1",
        "curfew_audit_files 1",
        r#"curfew_upstream_resolved{service="db"} 0"#,
        "curfew_audit_last_record 2",
        "curfew_state_revision 2",
        "# EOF",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is missing:\n{text}"
        );
    }
    assert!(!text.contains("alice"));
    assert_eq!(families(text), documented());
    // A session that is gone is not counted on.
    world.fleet.sessions.lock().clear();
    let text = world.admin().get("/metrics").body;
    assert!(!text.contains("curfew_sessions_open{"), "{text}");
    // A segment of the policy has a number also while none is open.
    let set = json!({"sources": [{"path": "a.yaml", "text": "segment web"}]});
    assert_eq!(world.admin().post("/v1/policies", &set).status, 200);
    let text = world.admin().get("/metrics").body;
    let none = r#"curfew_sessions_open{segment="web",door="gateway"} 0"#;
    assert!(text.contains(none), "{text}");
}

#[test]
fn enforcers_are_listed() {
    let world = World::start();
    let listed = world.admin().get("/v1/enforcers").json();
    assert_eq!(listed["enforcers"][0]["id"], "gw-1");
    assert_eq!(listed["enforcers"][0]["doors"], json!(["gateway"]));
}

#[test]
fn an_enforcer_that_is_behind_the_record_is_told_to_take_its_clock_as_it_is() {
    let world = World::start();
    let admin = world.admin();
    *world.fleet.clock_behind_ms.lock() = 3_600_000;
    let listed = admin.get("/v1/enforcers").json();
    assert_eq!(listed["enforcers"][0]["clock_behind_ms"], 3_600_000);
    let metrics = admin.get("/metrics").body;
    assert!(metrics.contains("curfew_clock_behind_seconds 3600\n"));
    let nobody = admin.post("/v1/enforcers/gw-9/accept-clock", &json!(null));
    assert_eq!(nobody.status, 404, "{nobody:?}");
    let accepted = admin.post("/v1/enforcers/gw-1/accept-clock", &json!(null));
    assert_eq!(accepted.json()["clock_behind_ms"], 0);
    let records = admin.get("/v1/audit").json();
    let last = records["records"]
        .as_array()
        .unwrap()
        .last()
        .unwrap()
        .clone();
    assert_eq!(last["event"], "clock.accepted");
    assert_eq!(last["cause"], "enforcer gw-1 was 1h behind the record");
    assert_eq!(last["detail"]["by"], "api:admin");
}

#[test]
fn the_openapi_document_describes_what_is_served() {
    let world = World::start();
    let document = world.stranger().get("/v1/openapi.json").json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    assert_eq!(
        document["components"]["securitySchemes"]["token"]["scheme"],
        "bearer"
    );
    let mut operations = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            operations.insert(format!("{method} {path}"));
            let real = path.replace("{id}", "018f0000-0000-7000-8000-000000000000");
            let real = real.replace("{name}", "nobody").replace("{revision}", "1");
            if real == "/v1/sessions/watch" {
                continue;
            }
            let answer = world
                .admin()
                .json(&method.to_uppercase(), &real, &json!(null));
            let missing =
                [404, 405].contains(&answer.status) && answer.body.contains("there is no path");
            assert!(
                !missing && answer.status != 405,
                "{method} {path}: {answer:?}"
            );
        }
    }
    let expected = [
        "delete /v1/bindings",
        "delete /v1/sessions/{id}",
        "delete /v1/subjects",
        "delete /v1/tokens/{name}",
        "get /healthz",
        "get /metrics",
        "get /readyz",
        "get /v1/audit",
        "get /v1/audit/head",
        "get /v1/bindings",
        "get /v1/enforcers",
        "get /v1/policies",
        "get /v1/policies/history",
        "get /v1/policies/history/{revision}",
        "get /v1/revocations",
        "get /v1/revocations/{id}",
        "get /v1/segments",
        "get /v1/sessions",
        "get /v1/sessions/watch",
        "get /v1/sessions/{id}",
        "get /v1/sessions/{id}/explain",
        "get /v1/subjects",
        "get /v1/tokens",
        "post /v1/audit/verify",
        "post /v1/enforcers/{id}/accept-clock",
        "post /v1/policies",
        "post /v1/policies/validate",
        "post /v1/revocations",
        "post /v1/revocations/{id}/lift",
        "post /v1/sessions/{id}/renew",
        "post /v1/tokens",
        "put /v1/bindings",
        "put /v1/subjects",
    ];
    let expected: BTreeSet<String> = expected.into_iter().map(str::to_owned).collect();
    assert_eq!(operations, expected);
    // Every reference leads somewhere.
    let text = document.to_string();
    for part in text.split("\"#/components/schemas/").skip(1) {
        let name = part.split('"').next().unwrap();
        assert!(
            !document["components"]["schemas"][name].is_null(),
            "{name} is not described"
        );
    }
}
