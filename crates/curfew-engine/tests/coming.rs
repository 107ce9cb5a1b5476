//! Windows that open later and will end a session: the end is known, told and warned of beforehand, and no part of the
//! lease.

#![cfg(test)]

mod support;

use std::{sync::Arc, time::Duration};

use curfew_engine::{Action, Bounds, Engine, Input, Keeper};
use curfew_model::*;
use curfew_policy::PolicySet;
use curfew_testkit::{compiled, document};
use support::*;

/// On the clock of [`at`] 01:48 is second 80, and 01:50 second 200.
const NIGHT: &str = "01:48-03:00";
const LATER: &str = "01:50-03:00";
/// An hour, in milliseconds.
const HOUR: i64 = 3_600_000;
/// When sessions open: between two milliseconds, like most.
const OPENED: u64 = 300_700;

/// An open segment in this mode, with ceilings that have hours and limits.
fn set(revision: u64, mode: &str, ceilings: &[(&str, &str)]) -> Arc<PolicySet> {
    let spec = format!(
        "sensitivity: low, mode: {mode}, access: open, members: [{{service: db}}], limits: {{idleTimeout: 3h}}"
    );
    let mut text = document("Segment", "db", &spec);
    for (number, (hours, limits)) in ceilings.iter().enumerate() {
        let spec = format!(
            "admit: false, from: {{anyone: true}}, to: {{segments: [db]}}, limits: {{{limits}}}, \
             during: {{hours: '{hours}', timeZone: UTC}}"
        );
        text += &document("SessionPolicy", &format!("ceiling-{number}"), &spec);
    }
    Arc::new(compiled(&text, revision))
}

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

fn expired(at: BootInstant) -> Deadline {
    Deadline {
        at,
        reason: EndReason::LifetimeExpired,
    }
}

fn coming(engine: &Engine) -> Option<Deadline> {
    let coming = engine.session(id(1)).unwrap().coming;
    coming.as_ref().map(Bound::deadline)
}

fn warnings(engine: &mut Engine) -> Vec<Deadline> {
    let warned = |action| match action {
        Action::Warn { deadline, .. } => Some(deadline),
        _ => None,
    };
    drain(engine).into_iter().filter_map(warned).collect()
}

/// The door has warned of this at `now`: what goes on record as its cause.
fn told(engine: &mut Engine, deadline: Deadline, now: Now) -> String {
    let id = id(1);
    engine.handle(Input::Warned { id, deadline }, now).unwrap();
    let cause = |action| match action {
        Action::Record(record) => record.cause,
        _ => None,
    };
    drain(engine).into_iter().find_map(cause).unwrap()
}

fn bind(engine: &mut Engine, until: Option<Now>, now: Now) {
    let bound = binding("alice", "10.0.0.0/8", Some(now), until);
    engine
        .handle(Input::BindingSet(Keeper::State, bound), now)
        .unwrap();
}

#[test]
fn an_end_that_a_window_will_bring_is_known_warned_of_and_held_by_the_door() {
    let limits = "maxLifetime: 5s, warnBefore: 20s";
    let (mut engine, until) = engine_of(set(1, "enforce", &[(NIGHT, limits)]));
    let end = expired(at(80).boot);
    assert_eq!(until, Some(end.at));
    let view = engine.session(id(1)).unwrap();
    assert_eq!(view.lease.expires_at.unwrap().at, after_opening(12 * 3_600));
    assert!(format!("{:?}", view.coming).contains("SessionPolicy/ceiling-0"));
    assert_eq!(coming(&engine), Some(end));
    engine.poll(at(59));
    assert_eq!(warnings(&mut engine), []);
    let now = nanos(60 * SECOND + 900);
    engine.poll(now);
    assert_eq!(warnings(&mut engine), [end]);
    // Though the wall clock has jumped past the opening meanwhile.
    let cause = told(&mut engine, end, stepped(now, HOUR));
    assert!(cause.starts_with("SessionPolicy/ceiling-0 "), "{cause}");
    engine.poll(at(79));
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(80));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn a_look_in_between_warns_nobody_again() {
    let limits = "maxLifetime: 5s, warnBefore: 20s";
    let (mut engine, _) = engine_of(set(1, "enforce", &[(NIGHT, limits)]));
    engine.poll(at(60));
    assert_eq!(warnings(&mut engine).len(), 1);
    bind(&mut engine, None, nanos(61 * SECOND + 77));
    // Nor where the clock was set back a little.
    bind(&mut engine, None, stepped(at(63), -3));
    engine.poll(at(64));
    assert_eq!(warnings(&mut engine), []);
}

#[test]
fn what_was_warned_of_before_its_window_opened_is_not_warned_of_again() {
    let limits = "maxLifetime: 100s, warnBefore: 30s";
    let (mut engine, until) = engine_of(set(1, "enforce", &[(NIGHT, limits)]));
    let end = expired(after_opening(100));
    assert_eq!(until, Some(end.at));
    engine.poll(nanos(70 * SECOND + OPENED));
    assert_eq!(warnings(&mut engine), [end]);
    for now in 71..=100 {
        engine.poll(at(now));
        assert_eq!(warnings(&mut engine), []);
    }
    assert_eq!(coming(&engine), None);
    engine.poll(at(101));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn a_clock_set_back_puts_off_neither_of_two_windows() {
    let ceilings = [
        (NIGHT, "maxLifetime: 2h"),
        (LATER, "maxLifetime: 5s, warnBefore: 20s"),
    ];
    let (mut engine, until) = engine_of(set(1, "enforce", &ceilings));
    let end = expired(at(200).boot);
    assert_eq!(until, Some(end.at));
    engine.poll(at(40));
    let back = |seconds| stepped(at(seconds), -HOUR);
    drain(&mut engine);
    engine.poll(back(80));
    assert_eq!(coming(&engine), Some(end));
    engine.poll(back(180));
    assert_eq!(warnings(&mut engine), [end]);
    engine.poll(back(200));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn a_window_that_is_slept_or_jumped_over_ends_what_it_would_have_ended() {
    let ceilings = [("01:48-01:49", "maxLifetime: 5s")];
    for (mode, event) in [
        ("enforce", EventKind::SessionEnded),
        ("audit", EventKind::SessionWouldEnd),
    ] {
        for (seconds, jump) in [(1_000, 0), (80, 10 * HOUR)] {
            let (mut engine, _) = engine_of(set(1, mode, &ceilings));
            engine.poll(at(70));
            drain(&mut engine);
            engine.poll(stepped(at(seconds), jump));
            let actions = drain(&mut engine);
            let closed = actions.iter().find_map(|action| match action {
                Action::Close { deadline, .. } => *deadline,
                _ => None,
            });
            let ends = event == EventKind::SessionEnded;
            assert_eq!(closed, ends.then_some(at(80).boot), "{mode} {jump}");
            let told = actions.iter().find_map(|action| match action {
                Action::Record(record) if record.event == event => record.cause.as_deref(),
                _ => None,
            });
            let set_by = told.is_some_and(|cause| cause.starts_with("SessionPolicy/ceiling-0 "));
            assert!(set_by, "{mode} {jump} {told:?}");
        }
    }
}

#[test]
fn a_clock_that_jumps_over_a_window_moves_no_coming_end() {
    let ceilings = [("01:48-01:49", "maxLifetime: 100s")];
    for jump in [-HOUR, 10 * HOUR] {
        let (mut engine, until) = engine_of(set(1, "enforce", &ceilings));
        let end = expired(after_opening(100));
        assert_eq!(until, Some(end.at));
        let jumped = |seconds: u64| stepped(nanos(seconds * SECOND + OPENED), jump);
        engine.poll(at(40));
        drain(&mut engine);
        bind(&mut engine, None, jumped(50));
        assert_eq!(coming(&engine), Some(end));
        engine.poll(jumped(80));
        let moved = |action: &Action| matches!(action, Action::SetLease { .. });
        assert!(!drain(&mut engine).iter().any(moved));
        engine.poll(jumped(99));
        assert_eq!(closes(&mut engine), []);
        engine.poll(jumped(100));
        assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
    }
}

#[test]
fn a_look_after_a_clock_jumped_ends_nobody_by_another_window() {
    let mut text = document(
        "Segment",
        "db",
        "sensitivity: low, access: policy, members: [{service: db}]",
    );
    for (name, rest) in [
        ("office", "during: {hours: '01:40-03:00', timeZone: UTC}"),
        (
            "ceiling",
            "admit: false, limits: {maxLifetime: 2h}, during: {hours: '01:48-03:00', timeZone: UTC}",
        ),
    ] {
        let spec = format!("from: {{anyone: true}}, to: {{segments: [db]}}, {rest}");
        text += &document("SessionPolicy", name, &spec);
    }
    let (mut engine, until) = engine_of(Arc::new(compiled(&text, 1)));
    assert_eq!(until, Some(at(4_400).boot));
    engine.poll(stepped(at(80), 2 * HOUR));
    assert_eq!(closes(&mut engine), []);
    assert_eq!(
        engine.session(id(1)).unwrap().lease.expires_at.unwrap().at,
        at(4_400).boot
    );
}

#[test]
fn documents_that_come_after_a_clock_was_set_back_put_off_no_coming_end() {
    let ceilings = [(NIGHT, "maxLifetime: 5s")];
    let (mut engine, until) = engine_of(set(1, "enforce", &ceilings));
    engine.poll(at(40));
    let again = Input::Policies {
        set: set(2, "enforce", &ceilings),
        difference: everything(),
    };
    engine.handle(again, stepped(at(50), -HOUR)).unwrap();
    assert_eq!(coming(&engine).map(|end| end.at), until);
}

#[test]
fn what_windows_set_while_they_were_slept_through_stays() {
    let ceilings = [
        ("01:48-01:49", "maxLifetime: 3h"),
        ("01:50-01:51", "maxLifetime: 2h"),
        ("01:52-01:53", "idleTimeout: 1h"),
    ];
    let (mut engine, _) = engine_of(set(1, "enforce", &ceilings));
    engine.poll(at(70));
    engine.poll(at(1_000));
    assert!(engine.next_deadline().unwrap() > at(1_000).boot);
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.expires_at.unwrap().at, after_opening(2 * 3_600));
    assert_eq!(lease.idle_timeout.unwrap().0, Duration::from_hours(1));
    assert_eq!(closes(&mut engine), []);
}

#[test]
fn a_look_after_a_clock_was_set_back_moves_no_binding() {
    let (mut engine, _) = engine_of(set(1, "enforce", &[(NIGHT, "maxLifetime: 2h")]));
    bind(&mut engine, Some(at(1_000)), at(1));
    engine.poll(stepped(at(80), -HOUR));
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.expires_at.unwrap().at, after_opening(2 * 3_600));
    assert_eq!(lease.binding_until.unwrap().at, at(1_000).boot);
}

#[test]
fn a_binding_that_ends_before_hides_no_coming_end() {
    let limits = "maxLifetime: 5s, warnBefore: 60s";
    let (mut engine, _) = engine_of(set(1, "enforce", &[(NIGHT, limits)]));
    bind(&mut engine, Some(at(50)), at(1));
    let end = expired(at(80).boot);
    assert_eq!(coming(&engine), Some(end));
    engine.poll(at(20));
    assert_eq!(warnings(&mut engine), [end]);
}

#[test]
fn fresh_proof_puts_off_a_coming_reauthentication() {
    let limits = "reauthEvery: 100s";
    let (mut engine, until) = engine_of(set(1, "enforce", &[(NIGHT, limits)]));
    let due = |at| Deadline {
        at,
        reason: EndReason::ReauthOverdue,
    };
    assert_eq!(until, Some(after_opening(100)));
    assert_eq!(coming(&engine), Some(due(after_opening(100))));
    bind(&mut engine, None, at(50));
    assert_eq!(coming(&engine), Some(due(at(150).boot)));
    engine.poll(at(149));
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(150));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::ReauthOverdue)]);
}

#[test]
fn what_the_lease_ends_before_does_not_come() {
    let stricter = set(1, "enforce", &[("01:46-03:00", "maxLifetime: 60s")]);
    let (mut engine, until) = engine_of(stricter);
    assert_eq!(until, Some(after_opening(60)));
    // A looser policy leaves the lease as it is.
    let looser = Input::Policies {
        set: set(2, "enforce", &[(NIGHT, "maxLifetime: 5s")]),
        difference: everything(),
    };
    engine.handle(looser, at(10)).unwrap();
    assert_eq!(coming(&engine), None);
}

#[test]
fn a_policy_that_is_gone_before_its_window_opens_leaves_nothing() {
    let (mut engine, _) = engine_of(set(1, "enforce", &[(NIGHT, "maxLifetime: 5s")]));
    let gone = Input::Policies {
        set: set(2, "enforce", &[]),
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
fn a_segment_that_only_records_stops_no_door_and_warns_nobody() {
    let ceilings = [(NIGHT, "maxLifetime: 100s, warnBefore: 30s")];
    let (mut engine, until) = engine_of(set(1, "enforce", &ceilings));
    assert_eq!(until, Some(after_opening(100)));
    let audit = Input::Policies {
        set: set(2, "audit", &ceilings),
        difference: everything(),
    };
    engine.handle(audit, at(10)).unwrap();
    let lifted =
        |action: &Action| matches!(action, Action::SetLease { lease, .. } if lease.until.is_none());
    assert!(drain(&mut engine).iter().any(lifted));
    for now in 11..110 {
        engine.poll(at(now));
        assert_eq!(warnings(&mut engine), []);
    }
}
