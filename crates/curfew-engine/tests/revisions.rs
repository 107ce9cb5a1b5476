//! On which revision of the desired state everything is on record.

#![cfg(test)]

mod support;

use std::collections::BTreeMap;

use curfew_engine::{Action, Engine, Input, Keeper, Subject};
use curfew_model::*;
use support::*;

fn on_record(engine: &mut Engine) -> Vec<(EventKind, Option<EndReason>, u64)> {
    let told = |action| match action {
        Action::Record(record) => Some((record.event, record.reason, record.revision.0)),
        _ => None,
    };
    drain(engine).into_iter().filter_map(told).collect()
}

fn bind(engine: &mut Engine, user: &str, revision: u64, now: u64) {
    let commit = Input::Commit(Revision(revision));
    engine.handle(commit, at(now)).unwrap();
    let bound = Input::BindingSet(Keeper::State, binding(user, "10.0.0.5/32", None, None));
    engine.handle(bound, at(now)).unwrap();
}

#[test]
fn what_is_decided_now_names_the_state_of_now_and_what_comes_due_that_of_its_last_look() {
    use EventKind::{SessionEnded, SessionOpened};
    let mut engine = engine(Rules::default());
    bind(&mut engine, "alice", 5, 0);
    engine.open(open(1, "", "db", at(1)), at(1)).unwrap();
    let mut elsewhere = open(2, "bob", "db", at(1));
    elsewhere.facts.client.set_ip([10, 0, 0, 6].into());
    engine.open(elsewhere, at(1)).unwrap();
    let opened = (SessionOpened, None, 5);
    assert_eq!(on_record(&mut engine), [opened, opened]);
    assert_eq!(engine.session(id(2)).unwrap().revision, Revision(5));
    bind(&mut engine, "eve", 9, 2);
    let lost = (SessionEnded, Some(EndReason::BindingExpired), 9);
    assert_eq!(on_record(&mut engine)[..1], [lost]);
    engine.poll(at(101));
    let due = (SessionEnded, Some(EndReason::LifetimeExpired), 5);
    assert!(on_record(&mut engine).contains(&due));
}

#[test]
fn a_look_at_a_session_is_a_decision_of_its_own() {
    let mut engine = engine(Rules::default());
    bind(&mut engine, "alice", 5, 0);
    engine.open(open(1, "", "db", at(1)), at(1)).unwrap();
    engine.handle(Input::Commit(Revision(9)), at(2)).unwrap();
    let alice = Subject {
        kind: Kind::User,
        issuer: Issuer::local(),
        id: "alice".to_owned(),
        groups: vec!["dba".to_owned()],
        attributes: BTreeMap::new(),
    };
    engine.handle(Input::Subject(alice), at(2)).unwrap();
    assert_eq!(engine.session(id(1)).unwrap().revision, Revision(9));
    on_record(&mut engine);
    engine.handle(Input::Commit(Revision(12)), at(3)).unwrap();
    engine.poll(at(101));
    let due = (EventKind::SessionEnded, Some(EndReason::LifetimeExpired), 9);
    assert!(on_record(&mut engine).contains(&due));
}

#[test]
fn an_order_for_one_session_is_named_by_the_revision_that_holds_it() {
    let mut engine = engine(Rules::default());
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    drain(&mut engine);
    let order = order(1, Scope::Session(id(1)), 12);
    engine.handle(Input::Revoke(order), at(1)).unwrap();
    let ended = (
        EventKind::SessionEnded,
        Some(EndReason::SessionCancelled),
        12,
    );
    assert!(on_record(&mut engine).contains(&ended));
}
