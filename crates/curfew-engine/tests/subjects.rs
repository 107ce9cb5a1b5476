//! What is known of subjects counts for new sessions and reaches live ones, by a policy as users write it.

#![cfg(test)]

mod support;

use curfew_engine::{Bounds, Engine, EngineError, Input, Keeper, Report, Subject};
use curfew_model::*;
use std::sync::Arc;
use support::*;

const POLICY: &str = "
apiVersion: curfew.dev/v1alpha1
kind: Segment
metadata: {name: db}
spec: {sensitivity: low, access: policy, members: [{service: db}]}
---
apiVersion: curfew.dev/v1alpha1
kind: SessionPolicy
metadata: {name: dba}
spec:
  from: {groups: [dba]}
  to: {segments: [db]}
  when: subject.risk == 'low'
  limits: {maxLifetime: 60s}
";

fn engine(bounds: Bounds) -> Engine {
    let loaded = curfew_policy::load([("policy.yaml", POLICY)]);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    let set = curfew_policy::compile(loaded.documents, Revision(1)).unwrap();
    let mut engine = Engine::new(Arc::new(set), bounds, at(0));
    let bound = binding("alice", "10.0.0.0/8", None, None);
    let bound = Input::BindingSet(Keeper::Config, bound);
    engine.handle(bound, at(0)).unwrap();
    engine
}

fn known(groups: &[&str], risk: Option<&str>) -> Subject {
    Subject {
        kind: Kind::User,
        issuer: Issuer::local(),
        id: "alice".to_owned(),
        groups: groups.iter().map(|group| (*group).to_owned()).collect(),
        attributes: risk
            .map(|risk| ("subject.risk".to_owned(), risk.to_owned()))
            .into_iter()
            .collect(),
    }
}

fn put(engine: &mut Engine, subject: Subject, now: Now) -> Report {
    engine.handle(Input::Subject(subject), now).unwrap()
}

#[test]
fn groups_and_attributes_of_a_bound_subject_admit_it() {
    let mut engine = engine(Bounds::default());
    assert!(engine.open(open(1, "", "db", at(1)), at(1)).is_err());
    put(&mut engine, known(&["dba"], None), at(2));
    assert!(engine.open(open(2, "", "db", at(2)), at(2)).is_err());
    put(&mut engine, known(&["dba"], Some("low")), at(3));
    engine.open(open(3, "", "db", at(3)), at(3)).unwrap();
    let facts = engine.session(id(3)).unwrap().facts;
    assert_eq!(facts.groups, ["dba"]);
    assert_eq!(facts.attributes["subject.risk"], "low");
}

#[test]
fn a_live_session_ends_when_its_subject_loses_what_admitted_it() {
    for lost in [known(&["dba"], Some("high")), known(&[], None)] {
        let mut engine = engine(Bounds::default());
        put(&mut engine, known(&["dba"], Some("low")), at(1));
        engine.open(open(1, "", "db", at(1)), at(1)).unwrap();
        assert_eq!(
            put(&mut engine, known(&["dba"], Some("low")), at(2)).matched,
            0
        );
        let report = put(&mut engine, lost, at(3));
        assert_eq!((report.matched, report.closed), (1, 1));
        assert_eq!(closes(&mut engine), [(id(1), EndReason::AccessDenied)]);
    }
}

#[test]
fn an_identity_that_is_only_asserted_gets_nothing() {
    let mut engine = engine(Bounds::default());
    let role = Subject {
        kind: Kind::Role,
        id: "db/alice".to_owned(),
        ..known(&["dba"], Some("low"))
    };
    put(&mut engine, role, at(1));
    let mut asked = open(1, "", "db", at(1));
    asked.facts.identities.push(Identity {
        proof: Proof::Asserted,
        kind: Kind::Role,
        issuer: Issuer::local(),
        id: "db/alice".to_owned(),
        display: None,
    });
    assert!(engine.open(asked, at(1)).is_err());
}

#[test]
fn only_sessions_of_the_subject_are_looked_at() {
    let mut engine = engine(Bounds::default());
    put(&mut engine, known(&["dba"], Some("low")), at(1));
    for n in 1..=100 {
        engine.open(open(n, "", "db", at(1)), at(1)).unwrap();
    }
    let bob = Subject {
        id: "bob".to_owned(),
        ..known(&["dba"], None)
    };
    assert_eq!(put(&mut engine, bob, at(2)), Report::default());
}

#[test]
fn subjects_are_bounded_and_what_is_forgotten_makes_room() {
    let mut engine = engine(Bounds {
        subjects: 1,
        ..Bounds::default()
    });
    put(&mut engine, known(&["dba"], None), at(1));
    let bob = Subject {
        id: "bob".to_owned(),
        ..known(&["dba"], None)
    };
    let full = EngineError::Full {
        what: "subjects",
        limit: 1,
    };
    assert_eq!(engine.handle(Input::Subject(bob.clone()), at(2)), Err(full));
    put(&mut engine, known(&[], None), at(3));
    put(&mut engine, bob, at(4));
}

#[test]
fn what_is_known_of_another_identity_is_not_the_subject_s() {
    let mut engine = engine(Bounds::default());
    let mut beside = binding("vpn", "10.0.0.0/8", None, None);
    beside.identity.kind = Kind::Workload;
    engine
        .handle(Input::BindingSet(Keeper::State, beside), at(0))
        .unwrap();
    let vpn = Subject {
        kind: Kind::Workload,
        id: "vpn".to_owned(),
        ..known(&["dba"], Some("low"))
    };
    put(&mut engine, vpn, at(1));
    put(&mut engine, known(&["dba"], None), at(1));
    let refused = engine.open(open(1, "", "db", at(1)), at(1)).unwrap_err();
    assert_eq!(refused.reason, EndReason::AccessDenied);
    put(&mut engine, known(&["dba"], Some("low")), at(2));
    engine.open(open(2, "", "db", at(2)), at(2)).unwrap();
}
