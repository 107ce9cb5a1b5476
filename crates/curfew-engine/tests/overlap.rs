//! Segments in audit mode that overlap enforced ones: the enforced limits act, and what the others would have done is on
//! record, once (rule 13).

#![cfg(test)]

mod support;

use std::sync::Arc;

use curfew_engine::{Action, Activity, Bounds, Engine, Input};
use curfew_model::*;
use curfew_policy::PolicySet;
use curfew_testkit::{compiled, document};
use support::*;

/// The service in an enforced segment and in one in audit mode, with these limits.
fn set(revision: u64, enforced: &str, audited: &str) -> Arc<PolicySet> {
    modes(revision, ("enforce", enforced), ("audit", audited))
}

/// The service in two segments, each with a mode and limits; open ones, unless the mode says more.
fn modes(revision: u64, db: (&str, &str), trial: (&str, &str)) -> Arc<PolicySet> {
    let segment = |name: &str, mode: &str, limits: &str| {
        let access = if mode.contains("access") {
            ""
        } else {
            ", access: open"
        };
        let spec = format!(
            "sensitivity: low, mode: {mode}{access}, members: [{{service: db}}], limits: {{{limits}}}"
        );
        document("Segment", name, &spec)
    };
    let text = segment("db", db.0, db.1) + &segment("trial", trial.0, trial.1);
    Arc::new(compiled(&text, revision))
}

fn engine_of(set: Arc<PolicySet>) -> Engine {
    let mut engine = Engine::new(set, Bounds::default(), at(0));
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    drain(&mut engine);
    engine
}

/// What is on record, with its cause.
fn told(engine: &mut Engine) -> Vec<(EventKind, EndReason, String)> {
    let told = |action| match action {
        Action::Record(record) => Some((record.event, record.reason?, record.cause?)),
        _ => None,
    };
    drain(engine).into_iter().filter_map(told).collect()
}

fn answers(engine: &mut Engine, last: u64, now: u64) {
    let activity = Activity {
        id: id(1),
        last: at(last).boot,
        bytes_in: 1,
        bytes_out: 1,
    };
    engine
        .handle(Input::Activity(vec![activity]), at(now))
        .unwrap();
}

#[test]
fn a_lifetime_that_is_only_recorded_is_told_once_and_the_enforced_one_ends() {
    let mut engine = engine_of(set(
        1,
        "maxLifetime: 60s, idleTimeout: 10m",
        "maxLifetime: 20s, idleTimeout: 10m",
    ));
    engine.poll(at(19));
    assert_eq!(told(&mut engine), []);
    engine.poll(at(20));
    let would = (
        EventKind::SessionWouldEnd,
        EndReason::LifetimeExpired,
        "Segment/trial spec.limits.maxLifetime (p.yaml:10)@1".to_owned(),
    );
    assert_eq!(told(&mut engine), [would]);
    // The same said again by a later look is no news.
    let again = set(2, "maxLifetime: 60s, idleTimeout: 10m", "maxLifetime: 10s");
    let difference = everything();
    let input = Input::Policies {
        set: again,
        difference,
    };
    engine.handle(input, at(30)).unwrap();
    engine.poll(at(59));
    assert_eq!(told(&mut engine), []);
    engine.poll(at(60));
    let ended = told(&mut engine).remove(0);
    assert_eq!(
        (ended.0, ended.1),
        (EventKind::SessionEnded, EndReason::LifetimeExpired)
    );
    assert!(ended.2.starts_with("Segment/db "), "{}", ended.2);
}

#[test]
fn whom_an_audit_segment_would_refuse_it_would_end_too() {
    let limits = "maxLifetime: 20s";
    let set = modes(
        1,
        ("enforce", "maxLifetime: 60s"),
        ("audit, access: policy", limits),
    );
    let mut engine = Engine::new(set, Bounds::default(), at(0));
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.poll(at(59));
    let told: Vec<_> = told(&mut engine)
        .into_iter()
        .map(|(event, reason, _)| (event, reason))
        .collect();
    let expected = [
        (EventKind::SessionWouldRefuse, EndReason::AccessDenied),
        (EventKind::SessionWouldEnd, EndReason::LifetimeExpired),
    ];
    assert_eq!(told, expected);
}

#[test]
fn idleness_that_is_only_recorded_is_asked_of_the_door_first() {
    let mut engine = engine_of(set(
        1,
        "maxLifetime: 1h, idleTimeout: 100s",
        "maxLifetime: 1h, idleTimeout: 10s",
    ));
    engine.poll(at(10));
    let probe = |action: &Action| matches!(action, Action::Probe(ids) if *ids == [id(1)]);
    assert!(drain(&mut engine).iter().any(probe));
    answers(&mut engine, 5, 10);
    assert_eq!(told(&mut engine), []);
    engine.poll(at(14));
    assert_eq!(drain(&mut engine), []);
    engine.poll(at(15));
    assert!(drain(&mut engine).iter().any(probe));
    answers(&mut engine, 5, 15);
    let would = told(&mut engine).remove(0);
    assert_eq!(
        (would.0, would.1),
        (EventKind::SessionWouldEnd, EndReason::IdleTimeout)
    );
    // From here on the enforced limit alone asks.
    engine.poll(at(104));
    assert_eq!(drain(&mut engine), []);
    engine.poll(at(105));
    answers(&mut engine, 5, 105);
    assert_eq!(closes_of(&mut engine), [EndReason::IdleTimeout]);
}

#[test]
fn a_door_that_does_not_answer_counts_as_idle() {
    let mut engine = engine_of(set(
        1,
        "maxLifetime: 1h, idleTimeout: 100s",
        "maxLifetime: 1h, idleTimeout: 10s",
    ));
    engine.poll(at(10));
    engine.poll(at(11));
    let would = told(&mut engine).remove(0);
    assert_eq!(
        (would.0, would.1),
        (EventKind::SessionWouldEnd, EndReason::IdleTimeout)
    );
}

#[test]
fn what_a_loss_does_is_the_enforced_segments_to_say() {
    let text = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\n\
        spec: {sensitivity: low, access: open, members: [{service: db}]}\n---\n\
        apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: trial}\n\
        spec: {sensitivity: critical, mode: audit, access: open, members: [{service: db}],\n\
        onControlPlaneLoss: {after: 5s, live: close, new: refuse}}\n";
    let loaded = curfew_policy::load([("p.yaml", text)]);
    let set = curfew_policy::compile(loaded.documents, Revision(1)).unwrap();
    let mut engine = engine_of(Arc::new(set));
    engine.poll(at(4));
    assert_eq!(told(&mut engine), []);
    for seconds in [5, 30] {
        engine.poll(at(seconds));
    }
    let cause = "the control plane was not heard".to_owned();
    let would = (
        EventKind::SessionWouldEnd,
        EndReason::ControlPlaneLost,
        cause,
    );
    assert_eq!(told(&mut engine), [would]);
}

fn applies(set: Arc<PolicySet>) -> Input {
    Input::Policies {
        set,
        difference: everything(),
    }
}

#[test]
fn what_a_segment_set_before_it_only_recorded_acts_no_more() {
    let long = "maxLifetime: 1h, idleTimeout: 1h";
    // Enforced both, then one of them in audit mode.
    let both =
        |mode: &str, revision| modes(revision, ("enforce", long), (mode, "maxLifetime: 60s"));
    let mut engine = engine_of(both("enforce", 1));
    engine.handle(applies(both("audit", 2)), at(10)).unwrap();
    engine.poll(at(60));
    let would: Vec<_> = told(&mut engine)
        .into_iter()
        .map(|told| (told.0, told.1))
        .collect();
    let lifetime = (EventKind::SessionWouldEnd, EndReason::LifetimeExpired);
    assert_eq!(would, [lifetime]);
    engine.poll(at(3_599));
    assert_eq!(drain(&mut engine), []);
    // Both in audit mode, past due and told, then one of them enforced: nothing is new, and nothing ends.
    let audited =
        |mode: &str, revision| modes(revision, (mode, long), ("audit", "maxLifetime: 60s"));
    let mut engine = engine_of(audited("audit", 1));
    engine.poll(at(70));
    assert_eq!(told(&mut engine).len(), 1);
    engine
        .handle(applies(audited("enforce", 2)), at(80))
        .unwrap();
    engine.poll(at(90));
    assert_eq!((told(&mut engine), engine.len()), (vec![], 1));
    // And back.
    engine
        .handle(applies(audited("audit", 3)), at(100))
        .unwrap();
    engine.poll(at(4_000));
    assert_eq!((told(&mut engine), engine.len()), (vec![], 1));
}

#[test]
fn a_policy_that_only_records_is_told_as_the_reason_once_it_makes_a_session_overdue() {
    let long = "maxLifetime: 1h, idleTimeout: 1h";
    let mut engine = engine_of(set(1, long, long));
    engine
        .handle(applies(set(2, long, "maxLifetime: 30s")), at(50))
        .unwrap();
    let (event, reason, cause) = told(&mut engine).remove(0);
    assert_eq!(
        (event, reason),
        (EventKind::SessionWouldEnd, EndReason::PolicyChanged)
    );
    assert!(cause.ends_with("@2"), "{cause}");
    engine.poll(at(60));
    assert_eq!(told(&mut engine), []);
}

#[test]
fn what_came_due_first_is_told_first_though_nobody_looked_meanwhile() {
    let mut engine = engine_of(set(
        1,
        "maxLifetime: 60s, idleTimeout: 1h",
        "maxLifetime: 20s",
    ));
    engine.poll(at(70));
    let events: Vec<_> = told(&mut engine).into_iter().map(|told| told.0).collect();
    assert_eq!(
        events,
        [EventKind::SessionWouldEnd, EventKind::SessionEnded]
    );
    // At the same instant the enforced limit alone ends it.
    let mut engine = engine_of(set(
        1,
        "maxLifetime: 60s, idleTimeout: 1h",
        "maxLifetime: 60s",
    ));
    engine.poll(at(70));
    let events: Vec<_> = told(&mut engine).into_iter().map(|told| told.0).collect();
    assert_eq!(events, [EventKind::SessionEnded]);
}

#[test]
fn what_would_be_refused_would_not_be_ended_as_well() {
    let set = set(
        1,
        "maxLifetime: 60s, idleTimeout: 10m",
        "maxLifetime: 1h, idleTimeout: 10m, reauthEvery: 10s",
    );
    let mut engine = Engine::new(set, Bounds::default(), at(100));
    let mut open = open(1, "alice", "db", at(100));
    open.facts.proved_at = Some(at(80).boot);
    engine.open(open, at(100)).unwrap();
    let would: Vec<_> = told(&mut engine).into_iter().map(|told| told.0).collect();
    assert_eq!(would, [EventKind::SessionWouldRefuse]);
    engine.poll(at(120));
    assert_eq!(told(&mut engine), []);
}

fn closes_of(engine: &mut Engine) -> Vec<EndReason> {
    closes(engine)
        .into_iter()
        .map(|(_, reason)| reason)
        .collect()
}

/// Alice's next session, and what it is told of it: in audit mode it is let in.
fn opens(engine: &mut Engine, n: u8) -> Vec<(EventKind, EndReason)> {
    let later = open(n.into(), "alice", "db", at(n.into()));
    engine.open(later, at(n.into())).unwrap();
    let told = told(engine).into_iter();
    told.map(|(event, reason, _)| (event, reason)).collect()
}

#[test]
fn of_whom_a_lowered_limit_of_a_segment_in_audit_mode_would_end_it_is_told_once() {
    let limit = |max: u32| format!("maxLifetime: 1h, maxConcurrent: {max}");
    let (would_end, would_refuse) = (EventKind::SessionWouldEnd, EventKind::SessionWouldRefuse);
    let excess = EndReason::ConcurrencyExceeded;
    // In audit mode alone, and beside an enforced one, where it is on record only.
    for (beside, counted) in [("audit", 1), ("enforce", 0)] {
        let set = |revision, max| {
            let audited = limit(max);
            modes(revision, (beside, "maxLifetime: 1h"), ("audit", &audited))
        };
        let mut engine = engine_of(set(1, 3));
        for n in 2..=3 {
            assert_eq!(opens(&mut engine, n), []);
        }
        assert_eq!(opens(&mut engine, 4), [(would_refuse, excess)]);
        let lower = |engine: &mut Engine, revision, max| {
            let now = at(10 * revision);
            let report = engine.handle(applies(set(revision, max)), now).unwrap();
            assert_eq!((report.closed, engine.len()), (0, 4));
            let told = drain(engine).into_iter().filter_map(|action| match action {
                Action::Record(record) if record.event == would_end => {
                    Some((record.session?, record.reason?))
                }
                _ => None,
            });
            (told.collect::<Vec<_>>(), report.audit_only)
        };
        // The fourth would never have come in, the third is the newest.
        assert_eq!(lower(&mut engine, 2, 3), (vec![], 0), "{beside}");
        assert_eq!(lower(&mut engine, 3, 2), (vec![(id(3), excess)], counted));
        assert_eq!(lower(&mut engine, 4, 2), (vec![], 0));
        assert_eq!(lower(&mut engine, 5, 1), (vec![(id(2), excess)], counted));
        // Where the first has left, there is room for one.
        let gone = Input::ended(id(1), EndReason::ClosedByClient);
        engine.handle(gone, at(60)).unwrap();
        drain(&mut engine);
        assert_eq!(opens(&mut engine, 61), [], "{beside}");
        assert_eq!(opens(&mut engine, 62), [(would_refuse, excess)]);
    }
}

#[test]
fn whom_all_segments_act_on_and_let_live_counts_again() {
    let set = |revision, mode: &str, max: u32| {
        let limit = format!("maxLifetime: 1h, maxConcurrent: {max}");
        modes(revision, ("enforce", "maxLifetime: 1h"), (mode, &limit))
    };
    let excess = [(
        EventKind::SessionWouldRefuse,
        EndReason::ConcurrencyExceeded,
    )];
    let mut engine = engine_of(set(1, "audit", 1));
    assert_eq!(opens(&mut engine, 2), excess);
    for (revision, mode) in [(2, "enforce"), (3, "audit")] {
        engine
            .handle(applies(set(revision, mode, 2)), at(10))
            .unwrap();
    }
    drain(&mut engine);
    assert_eq!(opens(&mut engine, 11), excess);
}

#[test]
fn of_two_waits_the_longer_one_is_named() {
    let waits = |of: &str| ["maxLifetime: 100s, reconnect: ", of].concat();
    for (db, trial) in [("60s", "90s"), ("90s", "60s")] {
        let set = modes(1, ("enforce", &waits(db)), ("enforce", &waits(trial)));
        let mut engine = engine_of(set);
        engine.poll(at(100));
        let refused = engine
            .open(open(2, "alice", "db", at(110)), at(110))
            .unwrap_err();
        assert_eq!(refused.reason, EndReason::LifetimeExpired);
        assert_eq!(refused.retry_at, Some(at(190).boot));
        let longer = if db == "90s" { "db" } else { "trial" };
        let cause = format!("segment {longer}: ");
        assert!(refused.cause.starts_with(&cause), "{}", refused.cause);
    }
}

#[test]
fn what_the_enforced_one_set_before_acts_on_though_the_other_only_records() {
    let set = |revision, db: &str, mode: &str| {
        let db = format!("maxLifetime: {db}");
        modes(revision, ("enforce", &db), (mode, "maxLifetime: 100s"))
    };
    let mut engine = engine_of(set(1, "60s", "enforce"));
    // A looser policy leaves a live lease as it is, and so does it where the other segment only records from then on.
    engine
        .handle(applies(set(2, "1h", "enforce")), at(10))
        .unwrap();
    engine
        .handle(applies(set(3, "1h", "audit")), at(20))
        .unwrap();
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(60));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn what_a_policy_set_acts_on_where_it_leads_to_one_that_is_enforced() {
    let set = |revision, to: &str, lifetime: &str, mode: &str| {
        let segment = |name: &str, mode: &str| {
            let spec =
                format!("sensitivity: low, mode: {mode}, access: open, members: [{{service: db}}]");
            document("Segment", name, &spec)
        };
        let spec = format!(
            "admit: false, from: {{anyone: true}}, to: {{segments: [{to}]}}, limits: {{maxLifetime: {lifetime}}}"
        );
        let text = segment("db", "enforce")
            + &segment("trial", mode)
            + &document("SessionPolicy", "p", &spec);
        Arc::new(compiled(&text, revision))
    };
    for (to, ends) in [("db", true), ("trial", false)] {
        let mut engine = engine_of(set(1, to, "60s", "enforce"));
        engine
            .handle(applies(set(2, to, "1h", "audit")), at(10))
            .unwrap();
        engine.poll(at(60));
        assert_eq!(closes(&mut engine).len(), usize::from(ends), "{to}");
    }
}
