//! What becomes due: lifetime, idle, warnings, windows. Long random runs are in `simulation.rs`.

#![cfg(test)]

mod support;

use std::slice::from_ref;

use curfew_engine::{Action, Activity, Engine, Input, State};
use curfew_model::*;
use support::*;

#[test]
fn a_session_ends_at_its_lifetime_and_not_before() {
    let mut engine = engine(Rules::default());
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    assert!(engine.next_deadline().unwrap() <= at(100).boot);
    engine.poll(nanos(100 * SECOND - 1));
    assert_eq!(closes(&mut engine), []);
    assert_eq!(engine.next_deadline(), Some(at(100).boot));
    engine.poll(at(100));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
    assert_eq!(
        engine.session(id(1)).unwrap().state,
        State::Closing(EndReason::LifetimeExpired)
    );
    engine
        .handle(Input::ended(id(1), EndReason::ClosedByClient), at(101))
        .unwrap();
    assert!(engine.is_empty());
    assert_eq!(drain(&mut engine), []);
}

#[test]
fn idle_asks_the_door_once_and_believes_its_answer() {
    let mut engine = engine(Rules {
        idle: Some(10 * SECOND),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    drain(&mut engine);
    engine.poll(at(10));
    assert_eq!(drain(&mut engine), [Action::Probe(vec![id(1)])]);
    let active = |last| Activity {
        id: id(1),
        last: at(last).boot,
        bytes_in: 1,
        bytes_out: 2,
    };
    engine
        .handle(Input::Activity(vec![active(5)]), at(10))
        .unwrap();
    assert!(engine.next_deadline().unwrap() <= at(15).boot);
    engine.poll(nanos(15 * SECOND - 1));
    assert_eq!(drain(&mut engine), []);
    engine.poll(at(15));
    assert_eq!(drain(&mut engine), [Action::Probe(vec![id(1)])]);
    engine
        .handle(Input::Activity(vec![active(5)]), at(15))
        .unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::IdleTimeout)]);
}

#[test]
fn many_answers_at_once_count_each_for_its_own_session() {
    let mut engine = engine(Rules {
        idle: Some(10 * SECOND),
        ..Rules::default()
    });
    for n in 1..=150 {
        engine.open(open(n, "alice", "db", at(0)), at(0)).unwrap();
    }
    drain(&mut engine);
    engine.poll(at(10));
    let seen = |n, last| Activity {
        id: id(n),
        last: at(last).boot,
        bytes_in: n,
        bytes_out: 0,
    };
    // One that nobody knows among them, one twice, and every third has moved nothing.
    let mut all: Vec<Activity> = (1..=150)
        .map(|n| seen(n, if n % 3 == 0 { 0 } else { 5 }))
        .collect();
    all.insert(70, seen(999, 5));
    all.push(seen(1, 4));
    drain(&mut engine);
    engine.handle(Input::Activity(all), at(10)).unwrap();
    let mut ended: Vec<SessionId> = closes(&mut engine).into_iter().map(|(id, _)| id).collect();
    ended.sort_unstable();
    let idle: Vec<SessionId> = (1..=150).filter(|n| n % 3 == 0).map(id).collect();
    assert_eq!(ended, idle);
    let moved = engine.session(id(149)).unwrap();
    assert_eq!((moved.bytes_in, moved.last_activity), (149, at(5).boot));
}

#[test]
fn an_unanswered_probe_counts_as_idle() {
    let mut engine = engine(Rules {
        idle: Some(10 * SECOND),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.poll(at(10));
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(11));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::IdleTimeout)]);
}

#[test]
fn a_probe_is_waited_for_exactly_a_second() {
    let mut engine = engine(Rules {
        idle: Some(10 * SECOND),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.poll(at(10));
    let idle = Rules {
        idle: Some(9 * SECOND),
        ..Rules::default()
    };
    let half = nanos(10 * SECOND + SECOND / 2);
    engine.handle(policies(2, idle), half).unwrap();
    engine.poll(nanos(11 * SECOND - 1));
    assert_eq!(closes(&mut engine), []);
    assert_eq!(engine.next_deadline(), Some(at(11).boot));
    engine.poll(at(11));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::IdleTimeout)]);
}

#[test]
fn one_warning_a_deadline() {
    let mut engine = engine(Rules {
        warn: Some(10 * SECOND),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    drain(&mut engine);
    for second in 90..95 {
        engine.poll(at(second));
        let warnings = drain(&mut engine)
            .into_iter()
            .filter(|a| matches!(a, Action::Warn { .. }))
            .count();
        assert_eq!(warnings, usize::from(second == 90));
    }
}

#[test]
fn a_warning_is_on_record_once_the_door_gave_it() {
    let mut engine = engine(Rules {
        warn: Some(10 * SECOND),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    drain(&mut engine);
    engine.poll(at(90));
    let deadline = Deadline {
        at: at(100).boot,
        reason: EndReason::LifetimeExpired,
    };
    let id = id(1);
    assert_eq!(drain(&mut engine), [Action::Warn { id, deadline }]);
    engine
        .handle(Input::Warned { id, deadline }, at(90))
        .unwrap();
    let told = drain(&mut engine);
    let [Action::Record(record)] = told.as_slice() else {
        panic!("{told:?}");
    };
    assert_eq!(record.event, EventKind::SessionWarned);
    assert_eq!(record.cause.as_deref(), Some("SessionPolicy/p limits@1"));
}

#[test]
fn a_client_that_could_not_be_told_is_warned_when_it_can() {
    let mut engine = engine(Rules {
        warn: Some(10 * SECOND),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    let deadline = Deadline {
        at: at(100).boot,
        reason: EndReason::LifetimeExpired,
    };
    let id = id(1);
    let warning = Action::Warn { id, deadline };
    drain(&mut engine);
    engine.handle(Input::Hears(id), at(80)).unwrap();
    assert_eq!(drain(&mut engine), [], "it is not due");
    engine.poll(at(90));
    assert_eq!(drain(&mut engine), from_ref(&warning));
    for second in [91, 92] {
        engine.handle(Input::Hears(id), at(second)).unwrap();
        assert_eq!(drain(&mut engine), from_ref(&warning));
    }
    engine.poll(at(95));
    assert_eq!(drain(&mut engine), []);
    let cancel = Input::Cancel {
        id,
        cause: "by a test".to_owned(),
    };
    engine.handle(cancel, at(96)).unwrap();
    drain(&mut engine);
    engine.handle(Input::Hears(id), at(97)).unwrap();
    assert_eq!(drain(&mut engine), [], "it ends");
}

#[test]
fn a_window_that_opens_ends_the_newest_where_it_allows_fewer() {
    let mut engine = engine(Rules {
        max: Some(1),
        max_from: Some(50),
        ..Rules::default()
    });
    for n in 1..=3 {
        engine.open(open(n, "alice", "db", at(n)), at(n)).unwrap();
    }
    engine.open(open(4, "bob", "db", at(4)), at(4)).unwrap();
    engine.poll(at(49));
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(50));
    let over = EndReason::ConcurrencyExceeded;
    assert_eq!(closes(&mut engine), [(id(2), over), (id(3), over)]);
}

#[test]
fn a_window_that_ends_closes_with_its_deadline_and_its_reason() {
    let rules = Rules {
        window: Some((0, 30)),
        ..Rules::default()
    };
    let mut engine = engine(rules);
    engine.open(open(1, "alice", "db", at(5)), at(5)).unwrap();
    assert!(engine.next_deadline().unwrap() <= at(30).boot);
    drain(&mut engine);
    engine.poll(nanos(30 * SECOND - 1));
    assert_eq!(closes(&mut engine), []);
    // Late, and after the lifetime too: what came first is the reason.
    engine.poll(at(130));
    let close = Action::Close {
        id: id(1),
        reason: EndReason::OutsideHours,
        deadline: Some(at(30).boot),
    };
    assert_eq!(drain(&mut engine)[0], close);
    let refused = engine.open(open(2, "alice", "db", at(131)), at(131));
    assert_eq!(refused.unwrap_err().reason, EndReason::OutsideHours);
}

#[test]
fn a_lifetime_that_comes_before_the_end_of_the_window_is_the_reason() {
    let mut engine = engine(Rules {
        window: Some((0, 101)),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.poll(at(150));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn a_clock_set_back_does_not_put_a_window_off() {
    let mut engine = engine(Rules {
        window: Some((0, 30)),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(5)), at(5)).unwrap();
    drain(&mut engine);
    let back = stepped(at(30), -3_600_000);
    engine.poll(back);
    assert_eq!(closes(&mut engine), [(id(1), EndReason::OutsideHours)]);
}

#[test]
fn a_policy_whose_window_opens_tightens_live_sessions() {
    let mut engine = engine(Rules {
        ceiling: Some((20, 1_000, 40 * SECOND)),
        ..Rules::default()
    });
    let admitted = engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    // The door knows from the beginning.
    assert_eq!(admitted.for_door.until, Some(at(40).boot));
    let expires = |engine: &Engine| engine.session(id(1)).unwrap().lease.expires_at.unwrap().at;
    assert_eq!(expires(&engine), at(100).boot);
    drain(&mut engine);
    engine.poll(at(20));
    assert_eq!(expires(&engine), at(40).boot);
    assert_eq!(drain(&mut engine), []);
    engine.poll(at(40));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

#[test]
fn a_session_that_a_new_window_leaves_past_due_ends_at_that_look() {
    let mut engine = engine(Rules {
        ceiling: Some((50, 1_000, 40 * SECOND)),
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.poll(at(49));
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(50));
    // Late is what comes after the look: before it nothing was due.
    let close = Action::Close {
        id: id(1),
        reason: EndReason::LifetimeExpired,
        deadline: Some(at(50).boot),
    };
    assert!(drain(&mut engine).contains(&close));
}

#[test]
fn a_deadline_that_moves_is_warned_of_again() {
    let rules = |lifetime| Rules {
        lifetime: lifetime * SECOND,
        warn: Some(10 * SECOND),
        ..Rules::default()
    };
    let mut engine = engine(rules(100));
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.poll(at(90));
    engine.handle(policies(2, rules(98)), at(91)).unwrap();
    engine.poll(at(92));
    let warned = |action: &Action| matches!(action, Action::Warn { .. });
    assert_eq!(drain(&mut engine).iter().filter(|a| warned(a)).count(), 2);
}

#[test]
fn a_clock_set_back_revives_no_credential() {
    let mut engine = engine(Rules::default());
    engine.poll(at(50));
    let back = stepped(at(51), -3_600_000);
    let mut late = open(1, "alice", "db", back);
    late.facts.credential_until = Some(at(49).wall);
    let refused = engine.open(late, back).unwrap_err();
    assert_eq!(refused.reason, EndReason::CredentialExpired);
}

#[test]
fn a_clock_set_back_does_not_keep_a_window_open() {
    let rules = Rules {
        window: Some((0, 110)),
        ..Rules::default()
    };
    let mut engine = engine(rules);
    engine.poll(at(100));
    let enter = |engine: &mut Engine, n, seconds| {
        let back = stepped(at(seconds), -3_600_000);
        let opened = engine.open(open(n, "alice", "db", back), back);
        opened.map(drop).map_err(|refused| refused.reason)
    };
    // Time goes on at half its speed.
    assert_eq!(enter(&mut engine, 1, 119), Ok(()));
    assert_eq!(enter(&mut engine, 2, 120), Err(EndReason::OutsideHours));
    // Until the clock has caught up.
    engine.poll(stepped(at(7_400), -3_600_000));
    assert_eq!(engine.wall(), stepped(at(7_400), -3_600_000).wall);
}

#[test]
fn a_clock_that_was_wrong_ahead_is_judged_by_again_once_it_is_accepted() {
    let rules = Rules {
        window: Some((0, 1_000)),
        ..Rules::default()
    };
    let mut engine = engine(rules);
    engine.poll(stepped(at(50), 7_200_000));
    let enter = |engine: &mut Engine, n| {
        let opened = engine.open(open(n, "alice", "db", at(51)), at(51));
        opened.map(drop).map_err(|refused| refused.reason)
    };
    assert_eq!(enter(&mut engine, 1), Err(EndReason::OutsideHours));
    engine.handle(Input::AcceptClock, at(52)).unwrap();
    assert_eq!(engine.wall(), at(52).wall);
    assert_eq!(enter(&mut engine, 2), Ok(()));
}
