//! Who a session belongs to while bindings come, move and go. Long random runs are in `simulation.rs`.

#![cfg(test)]

mod support;

use curfew_engine::{Bounds, Engine, EngineError, Input, Keeper, Report};
use curfew_model::*;
use support::*;

#[test]
fn bindings_attribute_renew_and_end() {
    let mut engine = engine(Rules {
        reauth: Some(20 * SECOND),
        ..Rules::default()
    });
    engine
        .handle(
            Input::BindingSet(
                Keeper::State,
                binding("alice", "10.0.0.0/8", Some(at(1)), Some(at(60))),
            ),
            at(1),
        )
        .unwrap();
    engine.open(open(1, "", "db", at(2)), at(2)).unwrap();
    let view = engine.session(id(1)).unwrap();
    assert_eq!(view.facts.identities, [user("alice")]);
    assert_eq!(view.lease.reauth_by.unwrap().at, at(21).boot);
    assert_eq!(
        engine.handle(Input::Renew(id(1)), at(3)),
        Err(EngineError::ProofRequired(id(1)))
    );
    engine
        .handle(
            Input::BindingSet(
                Keeper::State,
                binding("alice", "10.0.0.0/8", Some(at(10)), Some(at(90))),
            ),
            at(10),
        )
        .unwrap();
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.reauth_by.clone().unwrap().at, at(30).boot);
    assert_eq!(lease.binding_until.clone().unwrap().at, at(90).boot);
    // The refresh renewed it: whoever asks is told so, once.
    engine.handle(Input::Renew(id(1)), at(10)).unwrap();
    assert_eq!(engine.session(id(1)).unwrap().lease, lease);
    assert_eq!(
        engine.handle(Input::Renew(id(1)), at(10)),
        Err(EngineError::ProofRequired(id(1)))
    );
    engine
        .handle(
            Input::BindingSet(Keeper::State, binding("bob", "10.0.0.5/32", None, None)),
            at(11),
        )
        .unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::BindingExpired)]);
    engine.open(open(2, "", "db", at(12)), at(12)).unwrap();
    assert_eq!(
        engine.session(id(2)).unwrap().facts.identities,
        [user("bob")]
    );
    engine
        .handle(
            Input::BindingRemoved(
                Keeper::State,
                BindingKey::Address("10.0.0.5/32".parse().unwrap()),
            ),
            at(13),
        )
        .unwrap();
    assert_eq!(closes(&mut engine), [(id(2), EndReason::BindingExpired)]);
}

fn unbind(engine: &mut Engine, keeper: Keeper, net: &str, now: Now) -> Report {
    let key = BindingKey::Address(net.parse().unwrap());
    engine
        .handle(Input::BindingRemoved(keeper, key), now)
        .unwrap()
}

#[test]
fn a_session_without_a_binding_is_decided_again_when_one_appears() {
    let mut engine = engine(Rules {
        reauth: Some(50 * SECOND),
        max: Some(1),
        ..Rules::default()
    });
    engine.open(open(1, "", "db", at(10)), at(10)).unwrap();
    drain(&mut engine);
    let report = bind(
        &mut engine,
        Keeper::State,
        binding("alice", "10.0.0.0/24", Some(at(5)), Some(at(80))),
        at(20),
    );
    assert_eq!((report.matched, report.closed), (1, 0));
    assert_eq!(identities(&engine, 1), [user("alice")]);
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.binding_until.unwrap().at, at(80).boot);
    // Proof from before the opening is stricter than the opening itself.
    assert_eq!(lease.reauth_by.unwrap().at, at(55).boot);
    // She is now the one who is counted and revoked.
    let refused = engine.open(open(2, "alice", "db", at(21)), at(21));
    assert_eq!(refused.unwrap_err().reason, EndReason::ConcurrencyExceeded);
    let report = engine
        .handle(Input::Revoke(order(1, alice(), 2)), at(22))
        .unwrap();
    assert_eq!(report.closed, 1);
}

#[test]
fn a_binding_to_a_blocked_subject_ends_the_session_at_once() {
    let mut engine = engine(Rules::default());
    engine
        .handle(Input::Revoke(order(1, alice(), 2)), at(1))
        .unwrap();
    engine.open(open(1, "", "db", at(2)), at(2)).unwrap();
    bind(
        &mut engine,
        Keeper::State,
        binding("alice", "10.0.0.5/32", None, None),
        at(3),
    );
    assert_eq!(closes(&mut engine), [(id(1), EndReason::SubjectRevoked)]);
}

#[test]
fn two_bindings_of_one_address_leave_it_unattributed() {
    let mut engine = engine(Rules::default());
    bind(
        &mut engine,
        Keeper::Config,
        binding("alice", "10.0.0.5/32", None, None),
        at(0),
    );
    engine.open(open(1, "", "db", at(1)), at(1)).unwrap();
    drain(&mut engine);
    // The same subject twice is no conflict, the same address written as IPv6 is one.
    bind(
        &mut engine,
        Keeper::State,
        binding("alice", "10.0.0.5/32", None, None),
        at(2),
    );
    assert_eq!(closes(&mut engine), []);
    bind(
        &mut engine,
        Keeper::State,
        binding("bob", "::ffff:10.0.0.5/128", None, None),
        at(3),
    );
    assert_eq!(closes(&mut engine), [(id(1), EndReason::Unattributed)]);
    let refused = engine.open(open(2, "", "db", at(4)), at(4));
    assert_eq!(refused.unwrap_err().reason, EndReason::Unattributed);
    unbind(&mut engine, Keeper::Config, "10.0.0.5/32", at(5));
    engine.open(open(3, "", "db", at(6)), at(6)).unwrap();
    assert_eq!(identities(&engine, 3), [user("bob")]);
}

#[test]
fn a_later_end_of_a_binding_moves_only_the_binding() {
    let mut engine = engine(Rules {
        reauth: Some(50 * SECOND),
        ..Rules::default()
    });
    let until = |end| binding("alice", "10.0.0.0/24", Some(at(1)), Some(at(end)));
    bind(&mut engine, Keeper::State, until(40), at(1));
    engine.open(open(1, "", "db", at(2)), at(2)).unwrap();
    bind(&mut engine, Keeper::State, until(45), at(3));
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.binding_until.unwrap().at, at(45).boot);
    assert_eq!(lease.reauth_by.unwrap().at, at(51).boot);
    // Nor does it let a looser policy in: that takes proof.
    let looser = Rules {
        reauth: Some(80 * SECOND),
        ..Rules::default()
    };
    engine.handle(policies(2, looser), at(3)).unwrap();
    bind(&mut engine, Keeper::State, until(46), at(3));
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.binding_until.unwrap().at, at(46).boot);
    assert_eq!(lease.reauth_by.unwrap().at, at(51).boot);
    bind(&mut engine, Keeper::State, until(30), at(4));
    drain(&mut engine);
    engine.poll(at(30));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::BindingExpired)]);
}

#[test]
fn a_binding_that_ended_hides_no_wider_one() {
    let mut engine = engine(Rules::default());
    bind(
        &mut engine,
        Keeper::State,
        binding("alice", "10.0.0.5/32", None, Some(at(10))),
        at(0),
    );
    bind(
        &mut engine,
        Keeper::State,
        binding("team", "10.0.0.0/8", None, None),
        at(0),
    );
    engine.open(open(1, "", "db", at(1)), at(1)).unwrap();
    assert_eq!(identities(&engine, 1), [user("alice")]);
    engine.poll(at(10));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::BindingExpired)]);
    engine.open(open(2, "", "db", at(11)), at(11)).unwrap();
    assert_eq!(identities(&engine, 2), [user("team")]);
    // Narrower again: the address went to another subject.
    bind(
        &mut engine,
        Keeper::State,
        binding("bob", "10.0.0.5/32", None, None),
        at(12),
    );
    assert_eq!(closes(&mut engine), [(id(2), EndReason::BindingExpired)]);
}

#[test]
fn only_sessions_of_the_address_are_looked_at() {
    let mut engine = engine(Rules::default());
    for n in 0..1_000 {
        let mut open = open(n, "", "db", at(0));
        open.facts.client = format!("10.0.{}.{}:9", n / 250, n % 250).parse().unwrap();
        engine.open(open, at(0)).unwrap();
    }
    let report = bind(
        &mut engine,
        Keeper::State,
        binding("a", "10.0.1.0/25", None, None),
        at(1),
    );
    assert_eq!((report.matched, report.visited), (128, 128));
    engine.check().unwrap();
}

#[test]
fn a_lost_subject_in_audit_mode_is_recorded_and_gone() {
    let mut engine = engine(Rules {
        mode: Mode::Audit,
        ..Rules::default()
    });
    bind(
        &mut engine,
        Keeper::State,
        binding("alice", "10.0.0.5/32", None, None),
        at(0),
    );
    engine.open(open(1, "", "db", at(1)), at(1)).unwrap();
    drain(&mut engine);
    let report = unbind(&mut engine, Keeper::State, "10.0.0.5/32", at(2));
    assert_eq!((report.closed, report.audit_only), (0, 1));
    let would = (EventKind::SessionWouldEnd, Some(EndReason::BindingExpired));
    assert_eq!(recorded(&mut engine), [would]);
    assert_eq!(identities(&engine, 1), []);
}

#[test]
fn bindings_are_bounded_and_ended_ones_make_room() {
    let bounds = Bounds {
        bindings: 2,
        ..Bounds::default()
    };
    let mut engine = Engine::new(Fake::one(1, Rules::default()), bounds, at(0));
    bind(
        &mut engine,
        Keeper::State,
        binding("a", "10.0.0.1/32", None, Some(at(5))),
        at(0),
    );
    bind(
        &mut engine,
        Keeper::State,
        binding("b", "10.0.0.2/32", None, None),
        at(0),
    );
    let third = || Input::BindingSet(Keeper::State, binding("c", "10.0.0.3/32", None, None));
    let full = EngineError::Full {
        what: "bindings",
        limit: 2,
    };
    assert_eq!(engine.handle(third(), at(4)), Err(full));
    engine.handle(third(), at(5)).unwrap();
}

#[test]
fn each_proof_is_on_record_once_whatever_else_the_binding_says() {
    let mut engine = engine(Rules {
        reauth: Some(20 * SECOND),
        ..Rules::default()
    });
    let says = |refreshed: u64, groups: &[&str]| {
        let mut binding = binding("alice", "10.0.0.0/8", Some(at(refreshed)), Some(at(90)));
        binding.groups = groups.iter().map(|&group| group.to_owned()).collect();
        Input::BindingSet(Keeper::State, binding)
    };
    engine.handle(says(1, &[]), at(1)).unwrap();
    engine.open(open(1, "", "db", at(2)), at(2)).unwrap();
    let renewals = |engine: &mut Engine, input, seconds| {
        engine.handle(input, at(seconds)).unwrap();
        let renewed = (EventKind::SessionRenewed, None);
        recorded(engine)
            .into_iter()
            .filter(|told| *told == renewed)
            .count()
    };
    assert_eq!(renewals(&mut engine, says(10, &[]), 10), 1);
    assert_eq!(renewals(&mut engine, Input::Renew(id(1)), 10), 0);
    assert_eq!(renewals(&mut engine, says(10, &["dba"]), 11), 0);
    assert_eq!(renewals(&mut engine, says(12, &["ops"]), 12), 1);
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.reauth_by.unwrap().at, at(32).boot);
}

#[test]
fn a_binding_ends_when_it_says_once_a_clock_that_was_wrong_is_accepted() {
    let mut engine = engine(Rules {
        named: true,
        ..Rules::default()
    });
    engine.poll(stepped(at(1), 7_200_000));
    let until = Some(at(500));
    let bound = binding("alice", "10.0.0.5/32", None, until);
    engine
        .handle(Input::BindingSet(Keeper::State, bound), at(2))
        .unwrap();
    let enter = |engine: &mut Engine, n, seconds| {
        let opened = engine.open(open(n, "", "db", at(seconds)), at(seconds));
        opened.map(drop).map_err(|refused| refused.reason)
    };
    assert!(enter(&mut engine, 1, 3).is_err());
    engine.handle(Input::AcceptClock, at(4)).unwrap();
    assert_eq!(enter(&mut engine, 2, 5), Ok(()));
    let lease = engine.session(id(2)).unwrap().lease;
    assert_eq!(lease.binding_until.unwrap().at, at(500).boot);
    engine.check().unwrap();
}

#[test]
fn proof_is_as_old_as_the_clock_says_that_noted_it() {
    let rules = Rules {
        reauth: Some(60 * SECOND),
        ..Rules::default()
    };
    let proved = |noted, skew| {
        let mut engine = engine(rules.clone());
        engine.poll(stepped(at(100), skew));
        let bound = binding("alice", "10.0.0.5/32", Some(noted), None);
        engine
            .handle(Input::BindingSet(Keeper::State, bound), at(101))
            .unwrap();
        let opened = engine.open(open(1, "", "db", at(102)), at(102));
        opened.map(drop).map_err(|refused| refused.reason)
    };
    assert_eq!(proved(at(99), 0), Ok(()));
    // A record from the future makes no fresh proof old.
    assert_eq!(proved(at(99), 7_200_000), Ok(()));
    // What a clock noted that was wrong ahead is no proof.
    assert_eq!(proved(at(161), 0), Ok(()));
    assert_eq!(proved(at(162), 0), Err(EndReason::ReauthOverdue));
}

#[test]
fn proof_that_is_told_again_is_no_fresher_whatever_became_of_the_clock() {
    let mut engine = engine(Rules {
        reauth: Some(60 * SECOND),
        ..Rules::default()
    });
    let told = || {
        Input::BindingSet(
            Keeper::State,
            binding("alice", "10.0.0.5/32", Some(at(9)), None),
        )
    };
    engine.handle(told(), nanos(10 * SECOND + 1)).unwrap();
    engine.open(open(1, "", "db", at(11)), at(11)).unwrap();
    let reauth_by = |engine: &Engine| engine.session(id(1)).unwrap().lease.reauth_by.unwrap().at;
    assert_eq!(reauth_by(&engine), at(69).boot);
    for now in [nanos(12 * SECOND + 999_999), stepped(at(13), -5_000)] {
        engine.handle(told(), now).unwrap();
        assert_eq!(reauth_by(&engine), at(69).boot);
        assert_eq!(
            engine.handle(Input::Renew(id(1)), now),
            Err(EngineError::ProofRequired(id(1)))
        );
    }
}

#[test]
fn proof_from_before_the_machine_was_started_keeps_its_age() {
    let mut engine = engine(Rules {
        reauth: Some(60 * SECOND),
        ..Rules::default()
    });
    let boot = BootInstant::at_uptime(1);
    let now = Now { boot, ..at(100) };
    for (noted, expected) in [(41, Ok(())), (39, Err(EndReason::ReauthOverdue))] {
        let bound = binding("alice", "10.0.0.5/32", Some(at(noted)), None);
        engine
            .handle(Input::BindingSet(Keeper::State, bound), now)
            .unwrap();
        let opened = engine.open(open(noted, "", "db", now), now);
        assert_eq!(opened.map(drop).map_err(|refused| refused.reason), expected);
    }
}

#[test]
fn another_identity_beside_the_subject_proves_nothing_of_it() {
    let mut engine = engine(Rules {
        reauth: Some(60 * SECOND),
        ..Rules::default()
    });
    let alice = binding("alice", "10.0.0.5/32", Some(at(1)), None);
    bind(&mut engine, Keeper::Config, alice, at(1));
    engine.open(open(1, "", "db", at(2)), at(2)).unwrap();
    let mut vpn = binding("vpn", "10.0.0.5/32", Some(at(30)), None);
    vpn.identity.kind = Kind::Workload;
    bind(&mut engine, Keeper::State, vpn, at(30));
    assert_eq!(identities(&engine, 1).len(), 2);
    let lease = engine.session(id(1)).unwrap().lease;
    assert_eq!(lease.reauth_by.unwrap().at, at(61).boot);
    engine.poll(at(61));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::ReauthOverdue)]);
}

#[test]
fn proof_that_a_slow_clock_took_for_the_future_heals() {
    let mut engine = engine(Rules {
        reauth: Some(60 * SECOND),
        ..Rules::default()
    });
    let mut enter = |n, now: Now| {
        let told = binding("alice", "10.0.0.5/32", Some(at(99)), None);
        bind(&mut engine, Keeper::State, told, now);
        let opened = engine.open(open(n, "", "db", now), now);
        opened.map(drop).map_err(|refused| refused.reason)
    };
    let slow = stepped(at(100), -200_000);
    assert_eq!(enter(1, slow), Err(EndReason::ReauthOverdue));
    assert_eq!(enter(2, at(101)), Ok(()));
}
