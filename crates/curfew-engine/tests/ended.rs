//! What is known of sessions after their end.

#![cfg(test)]

mod support;

use std::time::Duration;

use curfew_engine::{Activity, Bounds, Engine, Input, State};
use curfew_model::*;
use support::*;

fn activity(n: u64, bytes: u64) -> Activity {
    Activity {
        id: id(n),
        last: at(1).boot,
        bytes_in: bytes,
        bytes_out: 2 * bytes,
    }
}

fn moved(n: u64, bytes: u64) -> Input {
    Input::Activity(vec![activity(n, bytes)])
}

fn ended(n: u64) -> Input {
    Input::ended(id(n), EndReason::ClosedByClient)
}

#[test]
fn an_ended_session_is_known_as_it_was_with_the_doors_last_word() {
    let mut engine = engine(Rules::default());
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    let lived = engine.session(id(1)).unwrap();
    engine.handle(moved(1, 5), at(1)).unwrap();
    engine.poll(at(100));
    // At the door it is still closing: it is one session, not two.
    assert_eq!((engine.past(id(1)), engine.ended_ids().count()), (None, 0));
    engine.handle(moved(1, 6), at(101)).unwrap();
    let late = Some(Duration::from_micros(5));
    let closed = Input::Ended {
        id: id(1),
        reason: EndReason::LifetimeExpired,
        cause: None,
        moved: Some(activity(1, 7)),
        late,
    };
    engine.handle(closed, at(102)).unwrap();
    // A duplicate, or a word from before.
    engine.handle(ended(1), at(103)).unwrap();
    engine.handle(moved(1, 6), at(103)).unwrap();
    drain(&mut engine);
    assert!(engine.session(id(1)).is_none());
    assert_eq!((engine.len(), engine.ids().count()), (0, 0));
    assert_eq!(engine.ended_ids().collect::<Vec<_>>(), [id(1)]);
    let view = engine.past(id(1)).unwrap();
    let end = view.end.unwrap();
    assert_eq!(end.at, at(100).wall);
    assert_eq!(end.cause.as_deref(), Some("SessionPolicy/p limits@1"));
    assert_eq!(end.late, late);
    let state = State::Ended(EndReason::LifetimeExpired);
    assert_eq!(view.state, state);
    assert_eq!((view.bytes_in, view.bytes_out), (7, 14));
    assert_eq!(view.facts, lived.facts);
    assert_eq!(view.lease, lived.lease);
    assert_eq!(view.segments, lived.segments);
    assert_eq!(view.policies, lived.policies);
}

#[test]
fn what_the_door_reports_is_kept_and_the_oldest_end_is_forgotten_first() {
    let bounds = Bounds {
        ended: 2,
        ..Bounds::default()
    };
    let mut engine = Engine::new(Fake::one(1, Rules::default()), bounds, at(0));
    for n in 1..=3 {
        engine.open(open(n, "alice", "db", at(0)), at(0)).unwrap();
    }
    for n in [2, 3, 1] {
        engine.handle(ended(n), at(1)).unwrap();
    }
    drain(&mut engine);
    assert_eq!(engine.ended_ids().collect::<Vec<_>>(), [id(3), id(1)]);
    assert!(engine.past(id(2)).is_none());
    let view = engine.past(id(3)).unwrap();
    let state = State::Ended(EndReason::ClosedByClient);
    assert_eq!((view.state, view.end.unwrap().cause), (state, None));
    // A refused one never was a session, and is known as that.
    engine
        .handle(
            policies(
                2,
                Rules {
                    admits: false,
                    ..Rules::default()
                },
            ),
            at(2),
        )
        .unwrap();
    assert!(engine.open(open(4, "alice", "db", at(2)), at(2)).is_err());
    let refused = engine.past(id(4)).unwrap();
    assert_eq!(refused.state, State::Refused(EndReason::AccessDenied));
    assert!(refused.end.unwrap().cause.is_some());
    assert_eq!(engine.ended_ids().collect::<Vec<_>>(), [id(3), id(1)]);
    assert_eq!(engine.refused_ids().collect::<Vec<_>>(), [id(4)]);
    // One that comes with the same id and is admitted is a session.
    let admitting = policies(3, Rules::default());
    engine.handle(admitting, at(3)).unwrap();
    engine.open(open(4, "alice", "db", at(3)), at(3)).unwrap();
    assert_eq!(
        (engine.past(id(4)), engine.refused_ids().count()),
        (None, 0)
    );
}
