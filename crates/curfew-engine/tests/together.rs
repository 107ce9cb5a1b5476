//! Changes of policy and bindings that take effect together: live sessions feel the outcome alone.

#![cfg(test)]

mod support;

use std::sync::Arc;

use curfew_engine::{Action, Bounds, Changes, Engine, EngineError, Input, Keeper, Open};
use curfew_model::*;
use curfew_policy::PolicySet;
use support::*;

/// Admits this group alone.
fn admits(group: &str, revision: u64) -> Arc<PolicySet> {
    policy(group, "enforce", revision)
}

/// Admits this group alone, in this mode.
fn policy(group: &str, mode: &str, revision: u64) -> Arc<PolicySet> {
    let text = format!(
        "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {{name: db}}\n\
         spec: {{sensitivity: low, mode: {mode}, access: policy, members: [{{service: db}}]}}\n---\n\
         apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: p}}\n\
         spec: {{from: {{groups: [{group}]}}, to: {{segments: [db]}}}}\n"
    );
    let loaded = curfew_policy::load([("policy.yaml", text.as_str())]);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    Arc::new(curfew_policy::compile(loaded.documents, Revision(revision)).unwrap())
}

fn bound(who: &str, net: &str, group: &str) -> (Keeper, Binding) {
    let groups = vec![group.to_owned()];
    let binding = binding(who, net, None, None);
    (Keeper::Config, Binding { groups, ..binding })
}

fn key(net: &str) -> BindingKey {
    BindingKey::Address(net.parse().unwrap())
}

/// A session from 10.0.0.`n`.
fn from(n: u8) -> Open {
    let mut open = open(n.into(), "", "db", at(1));
    open.facts.client = ([10, 0, 0, n], 4000).into();
    open
}

/// Alice, bob, carol and dave in group a, which is admitted, each with a session.
fn four() -> Engine {
    let bounds = Bounds {
        bindings: 4,
        ..Bounds::default()
    };
    let mut engine = Engine::new(admits("a", 1), bounds, at(0));
    for (n, who) in (1..).zip(["alice", "bob", "carol", "dave"]) {
        let (keeper, binding) = bound(who, &format!("10.0.0.{n}/32"), "a");
        let input = Input::BindingSet(keeper, binding);
        engine.handle(input, at(0)).unwrap();
        engine.open(from(n), at(1)).unwrap();
    }
    engine
}

#[test]
fn whom_the_state_before_and_the_one_after_admit_lives_on() {
    let mut engine = four();
    let changes = Changes {
        policies: Some((admits("b", 2), everything())),
        // Alice's key is written wider, bob stays where he was, carol's address is erin's, dave's is nobody's.
        bound: vec![
            bound("alice", "10.0.0.0/31", "b"),
            bound("erin", "10.0.0.3/32", "b"),
        ],
        unbound: ["10.0.0.1/32", "10.0.0.4/32"]
            .map(|net| (Keeper::Config, key(net)))
            .to_vec(),
    };
    let report = engine.handle(Input::Changes(changes), at(2)).unwrap();
    // Alice is concerned by her binding and by the policy.
    assert_eq!((report.matched, report.closed), (4, 3));
    let mut closed = closes(&mut engine);
    closed.sort_unstable();
    let ends = [
        (id(2), EndReason::PolicyChanged),
        (id(3), EndReason::BindingExpired),
        (id(4), EndReason::BindingExpired),
    ];
    assert_eq!(closed, ends);
    let alice = engine.session(id(1)).unwrap();
    assert_eq!(
        (alice.facts.groups, alice.revision),
        (vec!["b".to_owned()], Revision(2))
    );
}

#[test]
fn a_binding_without_room_is_an_error_and_keeps_nothing_else_back() {
    let mut engine = four();
    let changes = Changes {
        policies: Some((admits("b", 2), everything())),
        bound: vec![
            bound("erin", "10.0.0.5/32", "b"),
            bound("alice", "10.0.0.1/32", "b"),
        ],
        unbound: Vec::new(),
    };
    let full = EngineError::Full {
        what: "bindings",
        limit: 4,
    };
    assert_eq!(engine.handle(Input::Changes(changes), at(2)), Err(full));
    let closed = closes(&mut engine).into_iter().map(|(id, _)| id);
    assert_eq!(closed.collect::<Vec<_>>(), [id(2), id(3), id(4)]);
}

#[test]
fn who_is_concerned_twice_is_counted_once_for_the_most_that_became_of_it() {
    let without_dave = |set| Changes {
        policies: Some((set, everything())),
        bound: Vec::new(),
        unbound: vec![(Keeper::Config, key("10.0.0.4/32"))],
    };
    let counts = |mode| {
        let mut engine = four();
        let audit = Input::Policies {
            set: policy("a", "audit", 2),
            difference: everything(),
        };
        engine.handle(audit, at(1)).unwrap();
        let changes = without_dave(policy("b", mode, 3));
        let report = engine.handle(Input::Changes(changes), at(2)).unwrap();
        (report.matched, report.closed, report.audit_only)
    };
    assert_eq!(counts("audit"), (4, 0, 4));
    assert_eq!(counts("enforce"), (4, 4, 0));
}

#[test]
fn what_one_step_changes_is_on_record_under_one_revision() {
    let mut engine = four();
    drain(&mut engine);
    let changes = Changes {
        policies: Some((admits("b", 2), everything())),
        bound: vec![bound("erin", "10.0.0.3/32", "b")],
        unbound: vec![(Keeper::Config, key("10.0.0.4/32"))],
    };
    engine.handle(Input::Changes(changes), at(2)).unwrap();
    let noted = |action| match action {
        Action::Record(record) if record.session.is_none() => Some((record.event, record.revision)),
        _ => None,
    };
    let noted: Vec<_> = drain(&mut engine).into_iter().filter_map(noted).collect();
    let (policy, binding) = (EventKind::PolicyApplied, EventKind::BindingChanged);
    let all = [policy, binding, binding];
    assert_eq!(noted, all.map(|event| (event, Revision(2))));
}
