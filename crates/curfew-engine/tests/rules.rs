//! The rules of the lease, one test a rule. Long random runs are in `simulation.rs`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests assert by panicking"
)]

mod support;

use std::time::Duration;

use curfew_engine::{
    Action, Activity, AuditLog, Bounds, Concerns, Engine, EngineError, Input, Keeper, State,
};
use curfew_model::*;
use support::*;

fn engine(rules: Rules) -> Engine {
    Engine::new(Fake::one(1, rules), Bounds::default(), at(0))
}

fn drain(engine: &mut Engine) -> Vec<Action> {
    engine.check().unwrap();
    std::iter::from_fn(|| engine.poll_action()).collect()
}

fn closes(engine: &mut Engine) -> Vec<(SessionId, EndReason)> {
    let close = |action| match action {
        Action::Close { id, reason, .. } => Some((id, reason)),
        _ => None,
    };
    drain(engine).into_iter().filter_map(close).collect()
}

fn order(n: u64, scope: Scope, revision: u64) -> Revocation {
    Revocation {
        id: RevocationId(uuid::Uuid::from_u64_pair(2, n)),
        block: scope.default_block(),
        scope,
        reason: "left".to_owned(),
        source: "admin".to_owned(),
        created_at: WallInstant(0),
        revision: Revision(revision),
        lifted_at: None,
    }
}

fn alice() -> Scope {
    Scope::Subject {
        kind: Kind::User,
        issuer: None,
        id: "alice".to_owned(),
    }
}

fn policies(revision: u64, rules: Rules) -> Input {
    Input::Policies {
        set: Fake::one(revision, rules),
        concerns: Concerns::All,
    }
}

fn binding(who: &str, net: &str, refreshed: Option<Now>, until: Option<Now>) -> Binding {
    Binding {
        key: BindingKey::Address(net.parse().unwrap()),
        identity: user(who),
        groups: vec![],
        until: until.map(|n| n.wall),
        refreshed_at: refreshed.map(|n| n.wall),
    }
}

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
        .handle(
            Input::Ended {
                id: id(1),
                reason: EndReason::ClosedByClient,
            },
            at(101),
        )
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
    engine.handle(Input::Activity(active(5)), at(10)).unwrap();
    assert!(engine.next_deadline().unwrap() <= at(15).boot);
    engine.poll(nanos(15 * SECOND - 1));
    assert_eq!(drain(&mut engine), []);
    engine.poll(at(15));
    assert_eq!(drain(&mut engine), [Action::Probe(vec![id(1)])]);
    engine.handle(Input::Activity(active(5)), at(15)).unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::IdleTimeout)]);
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
fn a_stricter_policy_ends_overdue_sessions_and_shortens_others() {
    let mut engine = engine(Rules::default());
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.open(open(2, "bob", "db", at(40)), at(40)).unwrap();
    let short = Rules {
        lifetime: 30 * SECOND,
        ..Rules::default()
    };
    engine.handle(policies(2, short), at(50)).unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::PolicyChanged)]);
    let long = Rules {
        lifetime: 900 * SECOND,
        ..Rules::default()
    };
    engine.handle(policies(3, long), at(51)).unwrap();
    engine.poll(at(70));
    assert_eq!(closes(&mut engine), [(id(2), EndReason::LifetimeExpired)]);
}

#[test]
fn only_concerned_sessions_are_looked_at() {
    let rules = || {
        [
            ("db".to_owned(), Rules::default()),
            ("web".to_owned(), Rules::default()),
        ]
    };
    let mut engine = Engine::new(Fake::new(1, rules()), Bounds::default(), at(0));
    for n in 0..50 {
        engine.open(open(n, "alice", "web", at(0)), at(0)).unwrap();
    }
    engine.open(open(99, "alice", "db", at(0)), at(0)).unwrap();
    let segments = vec![SegmentName::new("db").unwrap()];
    let concerns = Concerns::Only {
        segments,
        policies: vec![],
    };
    let report = engine
        .handle(
            Input::Policies {
                set: Fake::new(2, rules()),
                concerns,
            },
            at(1),
        )
        .unwrap();
    assert_eq!((report.matched, report.visited), (1, 1));
}

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
fn the_newest_is_refused_and_ends_first_when_the_limit_is_lowered() {
    let max = |max| Rules {
        max: Some(max),
        ..Rules::default()
    };
    let mut engine = engine(max(3));
    for n in 1..=3 {
        engine.open(open(n, "alice", "db", at(n)), at(n)).unwrap();
    }
    let refused = engine
        .open(open(4, "alice", "db", at(4)), at(4))
        .unwrap_err();
    assert_eq!(refused.reason, EndReason::ConcurrencyExceeded);
    engine.open(open(5, "bob", "db", at(4)), at(4)).unwrap();
    engine.handle(policies(2, max(1)), at(5)).unwrap();
    let over = EndReason::ConcurrencyExceeded;
    assert_eq!(closes(&mut engine), [(id(2), over), (id(3), over)]);
}

#[test]
fn reconnecting_waits_or_needs_proof() {
    let wait = Reconnect {
        wait: Duration::from_secs(60),
        proof: false,
    };
    let mut waits = engine(Rules {
        reconnect: wait,
        ..Rules::default()
    });
    waits.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    waits.poll(at(100));
    let kept = waits.last_ends();
    let mut restarted = engine(Rules {
        reconnect: wait,
        ..Rules::default()
    });
    kept.into_iter()
        .for_each(|end| restarted.restore_last_end(end));
    for engine in [&mut waits, &mut restarted] {
        let refused = engine
            .open(open(2, "alice", "db", at(159)), at(159))
            .unwrap_err();
        assert_eq!(refused.reason, EndReason::LifetimeExpired);
        engine
            .open(open(3, "alice", "db", at(160)), at(160))
            .unwrap();
    }
    let proof = Reconnect {
        wait: Duration::ZERO,
        proof: true,
    };
    let mut proves = engine(Rules {
        reconnect: proof,
        ..Rules::default()
    });
    proves.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    proves.poll(at(100));
    let refused = proves
        .open(open(2, "alice", "db", at(101)), at(101))
        .unwrap_err();
    assert_eq!(refused.reason, EndReason::ReauthOverdue);
    let mut fresh = open(3, "alice", "db", at(102));
    fresh.facts.proved_at = Some(at(101).boot);
    proves.open(fresh, at(102)).unwrap();
}

#[test]
fn a_lost_control_plane_closes_and_refuses_where_the_rule_says_so() {
    let loss = LossRule::default_for(Sensitivity::Critical);
    let mut engine = engine(Rules {
        loss,
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.handle(Input::Contact, at(10)).unwrap();
    assert_eq!(
        engine.next_deadline().unwrap().min(at(70).boot),
        engine.next_deadline().unwrap()
    );
    engine.poll(at(69));
    assert_eq!(closes(&mut engine), []);
    engine.poll(at(70));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::ControlPlaneLost)]);
    let refused = engine
        .open(open(2, "alice", "db", at(71)), at(71))
        .unwrap_err();
    assert_eq!(refused.reason, EndReason::ControlPlaneLost);
    engine.handle(Input::Contact, at(72)).unwrap();
    engine.open(open(3, "alice", "db", at(73)), at(73)).unwrap();
}

#[test]
fn audit_mode_records_and_ends_nothing_but_a_cancel() {
    let mut engine = engine(Rules {
        mode: Mode::Audit,
        admits: false,
        ..Rules::default()
    });
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.poll(at(200));
    let report = engine
        .handle(Input::Revoke(order(1, alice(), 2)), at(201))
        .unwrap();
    assert_eq!((report.closed, report.audit_only), (0, 1));
    let kinds: Vec<EventKind> = drain(&mut engine)
        .into_iter()
        .filter_map(|a| {
            if let Action::Record(e) = a {
                e.session.map(|_| e.event)
            } else {
                None
            }
        })
        .collect();
    use EventKind::{SessionOpened, SessionWouldEnd, SessionWouldRefuse};
    assert_eq!(kinds, [SessionOpened, SessionWouldRefuse, SessionWouldEnd]);
    engine
        .handle(
            Input::Cancel {
                id: id(1),
                cause: "asked".to_owned(),
            },
            at(202),
        )
        .unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::SessionCancelled)]);
}

#[test]
fn a_full_audit_log_refuses_new_sessions_and_still_closes() {
    let mut engine = engine(Rules::default());
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.handle(Input::Audit(AuditLog::Full), at(1)).unwrap();
    assert_eq!(
        engine
            .open(open(2, "bob", "db", at(1)), at(1))
            .unwrap_err()
            .reason,
        EndReason::Overloaded
    );
    engine.poll(at(100));
    assert_eq!(closes(&mut engine), [(id(1), EndReason::LifetimeExpired)]);
}

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
    assert_eq!(lease.reauth_by.unwrap().at, at(30).boot);
    assert_eq!(lease.binding_until.unwrap().at, at(90).boot);
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
