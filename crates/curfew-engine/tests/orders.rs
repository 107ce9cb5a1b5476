//! Revocations: what they end, what they keep out, how long they are held. Long random runs are in `simulation.rs`.

#![cfg(test)]

mod support;

use curfew_engine::{Action, Bounds, Engine, EngineError, Input};
use curfew_model::*;
use curfew_testkit::BootClock;
use support::*;

#[test]
fn revoking_a_subject_does_not_scan() {
    let mut engine = engine(Rules::default());
    for n in 0..10_000 {
        engine
            .open(open(n, &format!("user{}", n % 1_000), "db", at(0)), at(0))
            .unwrap();
    }
    let scope = Scope::Subject {
        kind: Kind::User,
        issuer: None,
        id: "user7".to_owned(),
    };
    let report = engine
        .handle(Input::Revoke(order(1, scope.clone(), 2)), at(1))
        .unwrap();
    assert_eq!((report.matched, report.closed), (10, 10));
    assert!(
        report.visited <= report.matched + 2,
        "visited {}",
        report.visited
    );
    assert!(
        closes(&mut engine)
            .iter()
            .all(|(_, reason)| *reason == EndReason::SubjectRevoked)
    );
    assert_eq!(
        engine
            .handle(Input::Revoke(order(1, scope, 2)), at(2))
            .unwrap()
            .matched,
        0
    );
}

#[test]
fn an_order_that_nobody_needs_makes_room_for_a_block() {
    let bounds = Bounds {
        revocations: 3,
        ..Bounds::default()
    };
    let mut engine = Engine::new(Fake::one(1, Rules::default()), bounds, at(0));
    engine.open(open(1, "carol", "db", at(0)), at(0)).unwrap();
    let give = |engine: &mut Engine, n, who: &str, block| {
        let scope = Scope::Subject {
            kind: Kind::User,
            issuer: None,
            id: who.to_owned(),
        };
        let given = Revocation {
            block,
            ..order(n, scope, n)
        };
        let report = engine.handle(Input::Revoke(given), at(1));
        engine.handle(Input::Installed(Revision(n)), at(1)).unwrap();
        report
    };
    // They stay while a session is as old.
    for n in 2..=4 {
        give(&mut engine, n, "nobody", Block::None).unwrap();
    }
    assert_eq!(engine.orders(), 3);
    for (n, who) in [(5, "alice"), (6, "bob"), (7, "dave")] {
        give(&mut engine, n, who, Block::UntilLifted).unwrap();
        let refused = engine.open(open(n, who, "db", at(2)), at(2)).unwrap_err();
        assert_eq!(refused.reason, EndReason::SubjectRevoked, "{who}");
    }
    // No block is forgotten for another.
    let full = give(&mut engine, 8, "carol", Block::UntilLifted);
    assert!(matches!(full, Err(EngineError::Full { .. })), "{full:?}");
    assert!(closes(&mut engine).contains(&(id(1), EndReason::SubjectRevoked)));
    assert_eq!(engine.orders(), 3);
}

#[test]
fn a_block_keeps_new_sessions_out_until_it_is_lifted() {
    let mut engine = engine(Rules::default());
    engine
        .handle(Input::Revoke(order(1, alice(), 2)), at(1))
        .unwrap();
    let refused = engine
        .open(open(1, "alice", "db", at(2)), at(2))
        .unwrap_err();
    assert_eq!(refused.reason, EndReason::SubjectRevoked);
    engine.open(open(2, "bob", "db", at(2)), at(2)).unwrap();
    engine
        .handle(Input::Lift(order(1, alice(), 2).id), at(3))
        .unwrap();
    engine.open(open(3, "alice", "db", at(4)), at(4)).unwrap();
    // Another lift was missed: the order comes again as it is now.
    let mut again = order(2, alice(), 3);
    engine.handle(Input::Revoke(again.clone()), at(5)).unwrap();
    again.lifted_at = Some(at(6).wall);
    engine.handle(Input::Revoke(again), at(7)).unwrap();
    engine.open(open(4, "alice", "db", at(8)), at(8)).unwrap();
}

#[test]
fn an_end_and_a_refusal_by_an_order_name_its_revision() {
    let mut engine = engine(Rules::default());
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine
        .handle(Input::Revoke(order(1, alice(), 4)), at(1))
        .unwrap();
    let reason = EndReason::SubjectRevoked;
    engine.handle(Input::ended(id(1), reason), at(1)).unwrap();
    engine
        .open(open(2, "alice", "db", at(2)), at(2))
        .unwrap_err();
    let revisions: Vec<(EventKind, Revision)> = drain(&mut engine)
        .into_iter()
        .filter_map(|action| match action {
            Action::Record(recorded) if recorded.reason == Some(reason) => {
                Some((recorded.event, recorded.revision))
            }
            _ => None,
        })
        .collect();
    assert_eq!(
        revisions,
        [
            (EventKind::SessionEnded, Revision(4)),
            (EventKind::SessionRefused, Revision(4))
        ]
    );
}

#[test]
fn a_withdrawn_order_keeps_nobody_out_and_what_it_ended_stays_ended() {
    let until = Block::Until(WallInstant(at(1_000).wall.0));
    for block in [Block::None, until, Block::UntilLifted] {
        let mut engine = engine(Rules::default());
        engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
        let cut = Revocation {
            block,
            ..order(1, alice(), 2)
        };
        engine.handle(Input::Revoke(cut.clone()), at(1)).unwrap();
        engine.handle(Input::Withdraw(cut.id), at(2)).unwrap();
        assert_eq!(closes(&mut engine), [(id(1), EndReason::SubjectRevoked)]);
        assert_eq!(engine.orders(), 0);
        engine.open(open(2, "alice", "db", at(3)), at(3)).unwrap();
        // Twice does nothing more, and given again it acts again.
        engine.handle(Input::Withdraw(cut.id), at(4)).unwrap();
        assert_eq!(engine.handle(Input::Revoke(cut), at(5)).unwrap().closed, 1);
    }
}

#[test]
fn a_door_that_decided_before_an_order_is_overruled() {
    let mut engine = engine(Rules::default());
    let none = Revocation {
        block: Block::None,
        ..order(1, alice(), 5)
    };
    engine.handle(Input::Revoke(none), at(1)).unwrap();
    let mut early = open(1, "alice", "db", at(1));
    early.decided_at = Some(Revision(4));
    assert_eq!(
        engine.open(early, at(1)).unwrap_err().reason,
        EndReason::SubjectRevoked
    );
    assert_eq!(closes(&mut engine), [(id(1), EndReason::SubjectRevoked)]);
    let mut late = open(2, "alice", "db", at(1));
    late.decided_at = Some(Revision(5));
    engine.open(late, at(1)).unwrap();
}

#[test]
fn an_order_that_arrives_late_spares_sessions_opened_after_it() {
    let mut engine = engine(Rules::default());
    engine.handle(policies(9, Rules::default()), at(0)).unwrap();
    engine.open(open(1, "alice", "db", at(1)), at(1)).unwrap();
    assert_eq!(
        engine
            .handle(Input::Revoke(order(1, alice(), 5)), at(2))
            .unwrap()
            .matched,
        0
    );
}

#[test]
fn an_order_is_dropped_when_no_session_can_match_it() {
    let mut engine = engine(Rules::default());
    let installed = |engine: &mut Engine, revision, now| {
        engine
            .handle(Input::Installed(Revision(revision)), now)
            .unwrap();
    };
    let cut = |n, revision| Revocation {
        block: Block::None,
        ..order(n, alice(), revision)
    };
    engine.open(open(1, "bob", "db", at(0)), at(0)).unwrap();
    engine.handle(Input::Revoke(cut(1, 2)), at(1)).unwrap();
    installed(&mut engine, 2, at(1));
    assert_eq!(engine.orders(), 1, "bob's session is older");
    engine.handle(policies(3, Rules::default()), at(2)).unwrap();
    engine.open(open(2, "bob", "db", at(2)), at(2)).unwrap();
    engine.poll(at(100));
    assert_eq!(engine.orders(), 0, "the older session ended");

    engine.handle(Input::Revoke(cut(2, 4)), at(101)).unwrap();
    engine.poll(at(102));
    assert_eq!(
        engine.orders(),
        1,
        "the door may still decide on revision 3"
    );
    installed(&mut engine, 4, at(103));
    assert_eq!(engine.orders(), 0);

    engine
        .handle(Input::Revoke(order(3, alice(), 5)), at(104))
        .unwrap();
    installed(&mut engine, 5, at(104));
    assert_eq!(engine.orders(), 1, "it blocks");
    engine
        .handle(Input::Lift(order(3, alice(), 5).id), at(105))
        .unwrap();
    assert_eq!(engine.orders(), 0);

    let timed = Revocation {
        block: Block::Until(at(110).wall),
        ..order(4, alice(), 6)
    };
    engine.handle(Input::Revoke(timed), at(106)).unwrap();
    installed(&mut engine, 6, at(107));
    let refused = engine.open(open(3, "alice", "db", at(109)), at(109));
    assert_eq!(refused.unwrap_err().reason, EndReason::SubjectRevoked);
    engine
        .open(open(4, "alice", "db", at(110)), at(110))
        .unwrap();
    engine.poll(at(209));
    assert_eq!(engine.orders(), 1, "a session of its own revision is open");
    engine.poll(at(210));
    assert_eq!(engine.orders(), 0);
    engine.check().unwrap();
}

#[test]
fn a_block_that_ends_by_itself_does_not_end_early_because_the_clock_was_wrong_ahead() {
    let mut engine = engine(Rules::default());
    engine.poll(stepped(at(100), 3_600_000));
    let timed = Revocation {
        block: Block::Until(at(110).wall),
        ..order(1, alice(), 2)
    };
    engine.handle(Input::Revoke(timed), at(101)).unwrap();
    let refused = engine.open(open(1, "alice", "db", at(109)), at(109));
    assert_eq!(refused.unwrap_err().reason, EndReason::SubjectRevoked);
    engine
        .open(open(2, "alice", "db", at(110)), at(110))
        .unwrap();
}

#[test]
fn a_block_that_ends_by_itself_does_not_end_early_because_the_clock_is_set_back() {
    let mut engine = engine(Rules::default());
    let timed = |block| Revocation {
        block: Block::Until(block),
        ..order(1, alice(), 2)
    };
    // Given while the clock was ten seconds ahead.
    let revoke = Input::Revoke(timed(stepped(at(110), 10_000).wall));
    engine.handle(revoke, stepped(at(101), 10_000)).unwrap();
    let mut enter = |n, now: Now| {
        engine.poll(now);
        let opened = engine.open(open(n, "alice", "db", now), now);
        opened.map(drop).map_err(|refused| refused.reason)
    };
    let blocked = Err(EndReason::SubjectRevoked);
    assert_eq!(
        enter(1, at(111)),
        blocked,
        "the clock shows a time before its end"
    );
    assert_eq!(enter(2, at(119)), blocked);
    assert_eq!(enter(3, at(120)), Ok(()));
    engine.check().unwrap();
}

#[test]
fn many_people_under_one_role_are_found_by_it_and_without_it() {
    let mut engine = engine(Rules::default());
    for n in 0..2_000 {
        let mut open = open(n, &format!("user{n}"), "db", at(0));
        open.facts.identities.push(Identity {
            proof: Proof::Asserted,
            kind: Kind::Role,
            ..user("db/app")
        });
        engine.open(open, at(0)).unwrap();
    }
    let scope = |kind, id: &str| Scope::Subject {
        kind,
        issuer: None,
        id: id.to_owned(),
    };
    let one = order(1, scope(Kind::User, "user7"), 2);
    let report = engine.handle(Input::Revoke(one), at(1)).unwrap();
    assert_eq!((report.closed, report.visited), (1, 1));
    let all = order(2, scope(Kind::Role, "db/app"), 3);
    let report = engine.handle(Input::Revoke(all), at(1)).unwrap();
    assert_eq!((report.closed, report.visited), (1_999, 1_999));
    engine.check().unwrap();
}

#[test]
fn a_refusal_takes_no_longer_for_many_orders() {
    const MANY: u64 = 50_000;
    let mut engine = engine(Rules::default());
    // The shortest of several, so that what else the machine does counts for little.
    let refusal = |engine: &mut Engine| {
        let took = (0..20).map(|n| {
            let facts = open(n, "alice", "db", at(1));
            let start = BootClock.now().boot;
            let refused = engine.open(facts, at(1)).unwrap_err();
            let took = BootClock.now().boot.since(start);
            assert_eq!(refused.reason, EndReason::SubjectRevoked);
            took
        });
        took.min().unwrap()
    };
    let give = |engine: &mut Engine, orders: std::ops::Range<u64>| {
        for n in orders {
            let order = order(n, alice(), n + 1);
            engine.handle(Input::Revoke(order), at(0)).unwrap();
        }
    };
    give(&mut engine, 0..1);
    let one = refusal(&mut engine);
    give(&mut engine, 1..MANY);
    let many = refusal(&mut engine);
    assert!(
        many < one * 50,
        "{many:?} with {MANY} orders, {one:?} with one"
    );
}
