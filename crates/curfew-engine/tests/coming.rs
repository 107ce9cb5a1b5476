//! Windows that open later and will end a session: it is known, told and warned of beforehand, and no part of the lease.

#![cfg(test)]

mod support;

use std::sync::Arc;

use curfew_engine::{Action, Bounds, Engine, Input, Keeper};
use curfew_model::*;
use curfew_policy::PolicySet;
use support::*;

/// A session into an open segment is under a ceiling with these limits from 01:48 on, which is `at(80)`.
fn set(revision: u64, mode: &str, ceiling: Option<&str>) -> Arc<PolicySet> {
    let document = |kind: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: curfew.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
        )
    };
    let spec = format!(
        "sensitivity: low, mode: {mode}, access: open, members: [{{service: db}}], limits: {{idleTimeout: 3h}}"
    );
    let mut text = document("Segment", "db", &spec);
    if let Some(limits) = ceiling {
        let spec = format!(
            "admit: false, from: {{anyone: true}}, to: {{segments: [db]}}, limits: {{{limits}}}, \
             during: {{hours: '01:48-03:00', timeZone: UTC}}"
        );
        text += &document("SessionPolicy", "night", &spec);
    }
    let loaded = curfew_policy::load([("p.yaml", text.as_str())]);
    assert!(!loaded.has_errors(), "{:?}", loaded.problems);
    Arc::new(curfew_policy::compile(loaded.documents, Revision(revision)).unwrap())
}

/// When it opens: between two milliseconds, like most.
const OPENED: u64 = 300_700;

/// An engine with one session, and until when its door passes something.
fn engine_of(set: Arc<PolicySet>) -> (Engine, Option<BootInstant>) {
    let mut engine = Engine::new(set, Bounds::default(), at(0));
    let now = nanos(OPENED);
    let admitted = engine.open(open(1, "alice", "db", now), now).unwrap();
    drain(&mut engine);
    (engine, admitted.for_door.until)
}

fn after_opening(seconds: u64) -> BootInstant {
    BootInstant(seconds * SECOND + OPENED)
}

fn warnings(engine: &mut Engine) -> Vec<Deadline> {
    let warned = |action| match action {
        Action::Warn { deadline, .. } => Some(deadline),
        _ => None,
    };
    drain(engine).into_iter().filter_map(warned).collect()
}

fn expired(seconds: u64) -> Deadline {
    Deadline {
        at: at(seconds).boot,
        reason: EndReason::LifetimeExpired,
    }
}

#[test]
fn an_end_that_a_window_will_bring_is_known_warned_of_and_held_by_the_door() {
    let (mut engine, until) =
        engine_of(set(1, "enforce", Some("maxLifetime: 5s, warnBefore: 20s")));
    assert_eq!(until, Some(at(80).boot));
    let view = engine.session(id(1)).unwrap();
    assert_eq!(view.coming, Some(expired(80)));
    assert_eq!(view.lease.expires_at.unwrap().at, after_opening(12 * 3_600));
    let coming = engine.coming_ends(id(1)).unwrap().expires_at.unwrap();
    assert!(format!("{:?}", coming.by).contains("SessionPolicy/night"));
    engine.poll(at(59));
    assert_eq!(warnings(&mut engine), []);
    let now = nanos(60 * SECOND + 900);
    engine.poll(now);
    assert_eq!(warnings(&mut engine), [expired(80)]);
    let warned = Input::Warned {
        id: id(1),
        deadline: expired(80),
    };
    engine.handle(warned, now).unwrap();
    let cause = drain(&mut engine)
        .into_iter()
        .find_map(|action| match action {
            Action::Record(record) => record.cause,
            _ => None,
        });
    assert!(cause.unwrap().starts_with("SessionPolicy/night "));
    // A look in between tells nobody again.
    let bound = binding("alice", "10.0.0.0/8", Some(now), None);
    engine
        .handle(
            Input::BindingSet(Keeper::State, bound),
            nanos(61 * SECOND + 77),
        )
        .unwrap();
    assert_eq!(warnings(&mut engine), []);
    engine.poll(at(79));
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(80));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn what_was_warned_of_before_its_window_opened_is_not_warned_of_again() {
    let limits = "maxLifetime: 100s, warnBefore: 30s";
    let end = Deadline {
        at: after_opening(100),
        reason: EndReason::LifetimeExpired,
    };
    let (mut engine, until) = engine_of(set(1, "enforce", Some(limits)));
    assert_eq!(until, Some(after_opening(100)));
    engine.poll(nanos(70 * SECOND + OPENED));
    assert_eq!(warnings(&mut engine), [end]);
    let warned = Input::Warned {
        id: id(1),
        deadline: end,
    };
    engine.handle(warned, at(70)).unwrap();
    let record = drain(&mut engine)
        .into_iter()
        .find_map(|action| match action {
            Action::Record(record) => record.cause,
            _ => None,
        });
    assert!(record.unwrap().starts_with("SessionPolicy/night "));
    for now in 71..=100 {
        engine.poll(at(now));
        assert_eq!(warnings(&mut engine), []);
    }
    assert_eq!(engine.session(id(1)).unwrap().coming, None);
    engine.poll(at(101));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn a_policy_that_is_gone_before_its_window_opens_leaves_nothing() {
    let (mut engine, _) = engine_of(set(1, "enforce", Some("maxLifetime: 5s")));
    let gone = Input::Policies {
        set: set(2, "enforce", None),
        difference: everything(),
    };
    engine.handle(gone, at(10)).unwrap();
    let given = |action| match action {
        Action::SetLease { lease, .. } => Some(lease.until),
        _ => None,
    };
    let given: Vec<_> = drain(&mut engine).into_iter().filter_map(given).collect();
    assert_eq!(given, [Some(after_opening(12 * 3_600))]);
    engine.poll(at(90));
    assert_eq!(closes(&mut engine), []);
}

#[test]
fn nobody_is_warned_of_an_end_that_is_only_recorded() {
    let limits = "maxLifetime: 100s, warnBefore: 30s";
    let (mut engine, until) = engine_of(set(1, "audit", Some(limits)));
    assert_eq!(until, None);
    for now in 0..110 {
        engine.poll(at(now));
        let warned = |action: &Action| matches!(action, Action::Warn { .. });
        assert!(!drain(&mut engine).iter().any(warned));
    }
}
