//! Whose the sockets of clients on the same host are, by uid and cgroup, and what becomes of those of whom that is not
//! known.

#![cfg(test)]

mod support;

use curfew_engine::{Engine, Input, Keeper, Owner, Peer};
use curfew_model::*;
use support::*;

fn by_uid(who: &str) -> Binding {
    Binding {
        key: BindingKey::Uid(1_000),
        ..binding(who, "10.0.0.0/8", None, None)
    }
}

#[test]
fn processes_are_bound_by_uid_and_cgroup() {
    let mut engine = engine(Rules::default());
    let key = |key| Binding {
        key,
        ..binding("alice", "10.0.0.0/8", None, None)
    };
    let (path, uid) = ("/app.slice".to_owned(), 1_000);
    let mut local = open(1, "", "db", at(0));
    local.peer = Peer {
        owner: Owner::Uid(uid),
        cgroup: Some(path.clone()),
    };
    engine.open(local, at(0)).unwrap();
    bind(
        &mut engine,
        Keeper::Config,
        key(BindingKey::Uid(uid)),
        at(1),
    );
    assert_eq!(identities(&engine, 1), [user("alice")]);
    let mut workload = key(BindingKey::Cgroup(path.clone()));
    workload.identity.kind = Kind::Workload;
    bind(&mut engine, Keeper::Config, workload.clone(), at(2));
    assert_eq!(identities(&engine, 1), [user("alice"), workload.identity]);
    assert_eq!(closes(&mut engine), []);
    let gone = Input::BindingRemoved(Keeper::Config, BindingKey::Cgroup(path));
    engine.handle(gone, at(3)).unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::BindingExpired)]);
}

#[test]
fn who_could_not_be_learnt_is_let_in_only_while_nobody_is_bound_by_uid() {
    let mut engine = engine(Rules::default());
    let unknown = |engine: &mut Engine, n| {
        let mut local = open(n, "", "db", at(n));
        local.peer.owner = Owner::Unknown;
        engine.open(local, at(n)).map_err(|refused| refused.reason)
    };
    unknown(&mut engine, 1).unwrap();
    bind(&mut engine, Keeper::Config, by_uid("alice"), at(2));
    assert_eq!(unknown(&mut engine, 3).err(), Some(EndReason::Unattributed));
    // Of others the address says enough.
    engine.open(open(4, "", "db", at(4)), at(4)).unwrap();
    // Nor does the one live on that was there before.
    assert_eq!(closes(&mut engine), [(id(1), EndReason::Unattributed)]);
    let gone = Input::BindingRemoved(Keeper::Config, BindingKey::Uid(1_000));
    engine.handle(gone, at(5)).unwrap();
    unknown(&mut engine, 6).unwrap();
    engine.check().unwrap();
}

#[test]
fn who_was_not_asked_about_is_whose_the_door_says_before_the_first_binding_by_uid() {
    let mut engine = engine(Rules::default());
    let unasked = |engine: &mut Engine, n| {
        let mut local = open(n, "", "db", at(n));
        local.peer.owner = Owner::Unasked;
        engine.open(local, at(n)).unwrap();
    };
    for n in 1..=3 {
        unasked(&mut engine, n);
    }
    let owners = Input::Owners(vec![(id(1), Owner::Uid(1_000)), (id(2), Owner::Uid(7))]);
    engine.handle(owners, at(4)).unwrap();
    let report = bind(&mut engine, Keeper::Config, by_uid("alice"), at(5));
    assert_eq!((report.matched, report.closed), (1, 0));
    assert_eq!(identities(&engine, 1), [user("alice")]);
    assert_eq!(identities(&engine, 2), []);
    // The others are still being opened, and the door says of them before it passes a byte on.
    unasked(&mut engine, 6);
    assert_eq!(closes(&mut engine), []);
    let owners = Input::Owners(vec![
        (id(3), Owner::Uid(1_000)),
        (id(6), Owner::Unknown),
        (id(7), Owner::Uid(7)),
    ]);
    let report = engine.handle(owners, at(7)).unwrap();
    assert_eq!((report.matched, report.closed), (2, 1));
    assert_eq!(identities(&engine, 3), [user("alice")]);
    assert_eq!(closes(&mut engine), [(id(6), EndReason::Unattributed)]);
    // Whose it is stays so.
    engine
        .handle(Input::Owners(vec![(id(1), Owner::Uid(7))]), at(8))
        .unwrap();
    assert_eq!(identities(&engine, 1), [user("alice")]);
    engine.check().unwrap();
}

#[test]
fn whose_the_socket_of_a_closing_session_is_changes_nothing() {
    let mut engine = engine(Rules {
        max: Some(3),
        ..Rules::default()
    });
    for n in 1..=2 {
        let mut local = open(n, "alice", "db", at(n));
        local.peer.owner = Owner::Unasked;
        engine.open(local, at(n)).unwrap();
    }
    let cause = String::new();
    engine
        .handle(Input::Cancel { id: id(2), cause }, at(3))
        .unwrap();
    let owners = [1, 2].map(|n| (id(n), Owner::Uid(7)));
    engine
        .handle(Input::Owners(owners.to_vec()), at(4))
        .unwrap();
    engine.check().unwrap();
    let ended = Input::ended(id(2), EndReason::SessionCancelled);
    engine.handle(ended, at(5)).unwrap();
    let report = engine
        .handle(Input::Revoke(order(1, alice(), 2)), at(6))
        .unwrap();
    assert_eq!((report.matched, report.closed), (1, 1));
    engine.check().unwrap();
}
