//! What the engine makes of the door's snapshots. Long random runs are in `simulation.rs`.

#![cfg(test)]

mod support;

use curfew_engine::Input;
use curfew_model::*;
use support::*;

#[test]
fn a_snapshot_adopts_ends_and_closes_again() {
    let mut engine = engine(Rules::default());
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.open(open(2, "alice", "db", at(0)), at(0)).unwrap();
    engine
        .handle(
            Input::Cancel {
                id: id(2),
                cause: String::new(),
            },
            at(1),
        )
        .unwrap();
    drain(&mut engine);
    let sockets = vec![open(2, "alice", "db", at(0)), open(3, "bob", "db", at(0))];
    engine
        .handle(
            Input::Snapshot {
                taken_at: at(2).boot,
                sockets,
            },
            at(2),
        )
        .unwrap();
    assert_eq!(closes(&mut engine), [(id(2), EndReason::SessionCancelled)]);
    assert_eq!(engine.ids().count(), 2);
    assert!(engine.session(id(1)).is_none() && engine.session(id(3)).is_some());
}

#[test]
fn sockets_older_than_the_agent_are_leased_or_closed() {
    let close = Rules {
        adopt: OnAdopt::Close,
        ..Rules::default()
    };
    for (rules, kept) in [(Rules::default(), true), (close, false)] {
        let mut engine = engine(rules);
        let mut decided = open(2, "alice", "db", at(0));
        decided.decided_at = Some(Revision(1));
        let snapshot = Input::Snapshot {
            taken_at: at(1).boot,
            sockets: vec![open(1, "alice", "db", at(0)), decided],
        };
        engine.handle(snapshot, at(1)).unwrap();
        assert_eq!(engine.session(id(1)).is_some(), kept);
        assert!(engine.session(id(2)).is_some());
        let closed = closes(&mut engine);
        assert_eq!(closed.is_empty(), kept, "{closed:?}");
    }
}
