//! The OpenAPI document: whole in itself, and true of what is answered.
#![cfg(test)]

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::World;

/// What a reference leads to.
fn resolved<'d>(document: &'d Value, reference: &str) -> &'d Value {
    let pointer = reference.strip_prefix('#').unwrap();
    let found = document.pointer(pointer);
    found.unwrap_or_else(|| panic!("{reference} leads nowhere"))
}

fn strings(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(strings).collect(),
        _ => Vec::new(),
    }
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Where a value differs from its schema; nothing where it does not.
fn differs(document: &Value, schema: &Value, value: &Value) -> Option<String> {
    if let Some(reference) = schema["$ref"].as_str() {
        return differs(document, resolved(document, reference), value);
    }
    let parts = schema["allOf"].as_array().into_iter().flatten();
    let mut wrong = parts.filter_map(|part| differs(document, part, value));
    if let Some(wrong) = wrong.next() {
        return Some(wrong);
    }
    if let Some(choices) = schema["oneOf"].as_array()
        && choices
            .iter()
            .all(|one| differs(document, one, value).is_some())
    {
        return Some(format!("{value} is none of {choices:?}"));
    }
    let (kinds, kind) = (strings(&schema["type"]), type_of(value));
    let fits = kinds.contains(&kind) || kind == "integer" && kinds.contains(&"number");
    if !kinds.is_empty() && !fits {
        return Some(format!("{value} is no {kinds:?}"));
    }
    for name in strings(&schema["required"]) {
        if value.get(name).is_none() {
            return Some(format!("{name} is missing in {value}"));
        }
    }
    let properties = schema["properties"].as_object().into_iter().flatten();
    let mut wrong = properties
        .filter_map(|(name, schema)| differs(document, schema, value.get(name)?))
        .chain(
            value
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|entry| differs(document, &schema["items"], entry)),
        );
    wrong.next()
}

/// Every object within a value.
fn within<'v>(value: &'v Value, look: &mut dyn FnMut(&'v Value)) {
    look(value);
    match value {
        Value::Array(list) => list.iter().for_each(|entry| within(entry, look)),
        Value::Object(map) => map.values().for_each(|entry| within(entry, look)),
        _ => {}
    }
}

fn operations(document: &Value) -> impl Iterator<Item = (&str, &str, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    paths.iter().flat_map(|(path, item)| {
        let item = item.as_object().unwrap();
        let all = item.iter();
        all.map(move |(method, operation)| (method.as_str(), path.as_str(), operation))
    })
}

#[test]
fn it_is_whole() {
    let world = World::start();
    let document = world.stranger().get("/v1/openapi.json").json();
    within(&document, &mut |value| {
        if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
            resolved(&document, reference);
        }
    });
    let mut names = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        let name = operation["operationId"].as_str().unwrap();
        assert!(names.insert(name), "two operations are called {name}");
        for (status, response) in operation["responses"].as_object().unwrap() {
            let words = response["description"].as_str().unwrap_or_default();
            assert!(
                !words.is_empty(),
                "{method} {path} {status}: no description"
            );
        }
    }
}

#[test]
fn it_is_true_of_what_is_answered() {
    let world = World::start();
    let admin = world.admin();
    let session = world.fleet.open_session(7, "alice", "db");
    let document = world.stranger().get("/v1/openapi.json").json();
    let check = |method: &str, template: &str, path: &str, body: &Value, status: u16| {
        let answer = admin.json(&method.to_uppercase(), path, body);
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        let operation = &document["paths"][template][method];
        let response = &operation["responses"][status.to_string()];
        let schema = &response["content"]["application/json"]["schema"];
        assert!(
            schema.is_object(),
            "{method} {template} {status} is not described"
        );
        let wrong = differs(&document, schema, &answer.json());
        assert_eq!(wrong, None, "{method} {path}");
    };
    let set = json!({"sources": [{"path": "p.yaml", "text": "segment db\n"}]});
    let bind = json!({"address": "10.1.2.3", "user": "alice", "groups": ["dba"]});
    let order = json!({"scope": {"subject": {"kind": "user", "issuer": null, "id": "alice"}}, "reason": "left"});
    let known = json!({"kind": "user", "id": "alice", "attributes": {"subject.risk": "low"}});
    for (method, path, body, status) in [
        ("post", "/v1/policies", set.clone(), 200),
        ("post", "/v1/policies/validate", set, 200),
        ("put", "/v1/bindings", bind, 200),
        ("put", "/v1/subjects", known, 200),
        (
            "post",
            "/v1/tokens",
            json!({"name": "t", "role": "viewer"}),
            201,
        ),
        ("post", "/v1/revocations", order, 201),
        ("post", "/v1/audit/verify", json!({}), 200),
    ] {
        check(method, path, path, &body, status);
    }
    for path in [
        "/v1/audit",
        "/v1/bindings",
        "/v1/enforcers",
        "/v1/policies",
        "/v1/policies/history",
        "/v1/revocations",
        "/v1/segments",
        "/v1/sessions",
        "/v1/subjects",
        "/v1/tokens",
    ] {
        check("get", path, path, &Value::Null, 200);
        // A page without an entry would say nothing of entries.
        let page = admin.get(path).json();
        let lists = page.as_object().unwrap().values();
        let mut lists = lists.filter_map(Value::as_array);
        assert!(
            lists.any(|list| !list.is_empty()),
            "{path} lists nothing: {page}"
        );
    }
    let (template, clock) = ["{id}", "gw-1"]
        .map(|id| format!("/v1/enforcers/{id}/accept-clock"))
        .into();
    check("post", &template, &clock, &Value::Null, 200);
    let of = |rest: &str| format!("/v1/sessions/{session}{rest}");
    check("get", "/v1/sessions/{id}", &of(""), &Value::Null, 200);
    check(
        "get",
        "/v1/sessions/{id}/explain",
        &of("/explain"),
        &Value::Null,
        200,
    );
    let orders = admin.get("/v1/revocations").json();
    let order = format!(
        "/v1/revocations/{}",
        orders["revocations"][0]["id"].as_str().unwrap()
    );
    check("get", "/v1/revocations/{id}", &order, &Value::Null, 200);
    check(
        "post",
        "/v1/revocations/{id}/lift",
        &format!("{order}/lift"),
        &Value::Null,
        200,
    );
}

#[test]
fn it_knows_what_problems_have_and_every_uid() {
    let world = World::start();
    let document = world.stranger().get("/v1/openapi.json").json();
    let mut described = BTreeSet::new();
    let problem = &document["components"]["schemas"]["Problem"];
    for part in problem["allOf"].as_array().unwrap() {
        let part = part["$ref"]
            .as_str()
            .map_or(part, |to| resolved(&document, to));
        described.extend(part["properties"].as_object().unwrap().keys().cloned());
    }
    let admin = world.admin();
    let wrong = json!({"sources": [{"path": "p.yaml", "text": "broken"}]});
    for (path, body) in [("/v1/policies", wrong), ("/v1/tokens", json!({"name": 1}))] {
        let answer = admin.post(path, &body).json();
        let schema = json!({"$ref": "#/components/schemas/Problem"});
        assert_eq!(differs(&document, &schema, &answer), None, "{path}");
        for member in answer.as_object().unwrap().keys() {
            assert!(described.contains(member), "{member} of {path}");
        }
    }
    for member in ["findings", "line", "column", "enforcers", "revocation"] {
        assert!(described.contains(member), "{member}");
    }
    let mut uids = 0;
    within(&document, &mut |value| {
        let property = &value["properties"]["uid"];
        let is_parameter = value["name"] == "uid";
        let uid = if is_parameter {
            &value["schema"]
        } else {
            property
        };
        uids += usize::from(!uid.is_null());
        assert_ne!(uid["format"], "int32", "half of them are above it: {value}");
    });
    assert!(uids >= 3, "{uids}");
}

#[test]
fn each_status_is_described() {
    let world = World::start();
    let document = world.stranger().get("/v1/openapi.json").json();
    let (binder, elsewhere) = (
        world.role("binder"),
        world.admin().with("Host", "x.example"),
    );
    let callers = [world.admin(), binder, world.stranger(), elsewhere];
    for (method, path, operation) in operations(&document) {
        let real = path.replace("{id}", "018f0000-0000-7000-8000-000000000000");
        let real = real.replace("{name}", "nobody").replace("{revision}", "1");
        let bodies = [&b"{"[..], b"{}"];
        for query in ["", "?nothing=of-this"] {
            for (caller, body) in callers
                .iter()
                .flat_map(|caller| bodies.map(|body| (caller, body)))
            {
                if real == "/v1/sessions/watch" && query.is_empty() {
                    continue;
                }
                let caller = caller.clone().with("Content-Type", "application/json");
                let real = format!("{real}{query}");
                let answer = caller.send(&method.to_uppercase(), &real, Some(body));
                let described = &operation["responses"][answer.status.to_string()];
                assert!(described.is_object(), "{method} {real}: {answer:?}");
            }
        }
    }
}
