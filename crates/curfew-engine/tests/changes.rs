//! What changes of policy, losses and limits do to live and new sessions. Long random runs are in `simulation.rs`.

#![cfg(test)]

mod support;

use curfew_engine::{Action, Activity, AuditLog, Bounds, Engine, EngineError, Input, Keeper};
use curfew_model::*;
use curfew_policy::Difference;
use std::time::Duration;
use support::*;

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
    let difference = Difference {
        segments,
        ..Difference::default()
    };
    let report = engine
        .handle(
            Input::Policies {
                set: Fake::new(2, rules()),
                difference,
            },
            at(1),
        )
        .unwrap();
    assert_eq!((report.matched, report.visited), (1, 1));
}

#[test]
fn sessions_whose_service_moves_are_looked_at() {
    let rules = |name: &str| [(name.to_owned(), Rules::default())];
    let mut engine = Engine::new(Fake::new(1, rules("db")), Bounds::default(), at(0));
    for (n, service) in [(1, "web"), (2, "db"), (3, "web")] {
        engine
            .open(open(n, "alice", service, at(0)), at(0))
            .unwrap();
    }
    let mut looked_at = |revision, difference| {
        let set = Fake::new(revision, rules("db"));
        engine
            .handle(Input::Policies { set, difference }, at(1))
            .unwrap()
            .matched
    };
    let services = vec![ServiceName::new("web").unwrap()];
    let nothing = Difference::default();
    assert_eq!(looked_at(2, nothing.clone()), 0);
    let moved = Difference {
        services,
        ..nothing
    };
    assert_eq!(looked_at(3, moved), 2);
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
    assert_eq!(waits.last_ends(at(100).boot), []);
    let kept = waits.last_ends(at(99).boot);
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
        assert_eq!(
            refused.cause,
            "segment db: reconnecting after an end by lifetime has to wait, SessionPolicy/p limits@1"
        );
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
    // It ends already.
    let cause = "asked again".to_owned();
    let again = engine.handle(Input::Cancel { id: id(1), cause }, at(202));
    assert_eq!(again, Err(EngineError::UnknownSession(id(1))));
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
fn a_report_of_policies_says_what_is_only_recorded() {
    let rules = |lifetime, mode| Rules {
        lifetime: lifetime * SECOND,
        mode,
        ..Rules::default()
    };
    let mut engine = engine(rules(100, Mode::Audit));
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    engine.open(open(2, "alice", "db", at(45)), at(45)).unwrap();
    drain(&mut engine);
    let set = policies(2, rules(30, Mode::Audit));
    let report = engine.handle(set, at(50)).unwrap();
    assert_eq!((report.matched, report.closed), (2, 0));
    assert_eq!(report.audit_only, 1);
    let would = (EventKind::SessionWouldEnd, Some(EndReason::PolicyChanged));
    assert_eq!(recorded(&mut engine), [would]);
    // Enforced at last, what is overdue ends.
    let set = policies(3, rules(30, Mode::Enforce));
    engine.handle(set, at(51)).unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::PolicyChanged)]);
}

#[test]
fn an_order_of_audit_mode_acts_when_the_segment_is_enforced() {
    let rules = |mode| Rules {
        mode,
        ..Rules::default()
    };
    let mut engine = engine(rules(Mode::Audit));
    engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
    let cut = Revocation {
        block: Block::None,
        ..order(1, alice(), 1)
    };
    engine.handle(Input::Revoke(cut), at(1)).unwrap();
    engine.handle(Input::Installed(Revision(1)), at(1)).unwrap();
    assert_eq!(closes(&mut engine), []);
    engine
        .handle(policies(2, rules(Mode::Enforce)), at(2))
        .unwrap();
    assert_eq!(closes(&mut engine), [(id(1), EndReason::SubjectRevoked)]);
}

#[test]
fn an_order_older_than_the_session_does_not_act_when_the_segment_is_enforced() {
    let rules = |mode| Rules {
        mode,
        ..Rules::default()
    };
    let mut engine = engine(rules(Mode::Audit));
    let cut = |n, who: &str| Revocation {
        block: Block::None,
        scope: Scope::Subject {
            kind: Kind::User,
            issuer: None,
            id: who.to_owned(),
        },
        ..order(n, Scope::All, n)
    };
    let bind = |who, net| Input::BindingSet(Keeper::State, binding(who, net, None, None));
    engine.handle(bind("bob", "10.0.0.0/8"), at(0)).unwrap();
    engine
        .handle(Input::Revoke(cut(1, "carol")), at(0))
        .unwrap();
    engine.open(open(1, "", "db", at(1)), at(1)).unwrap();
    engine.handle(Input::Revoke(cut(2, "bob")), at(2)).unwrap();
    // Whoever it belongs to now was ordered out before it was opened.
    engine.handle(bind("carol", "10.0.0.5/32"), at(3)).unwrap();
    let set = policies(3, rules(Mode::Enforce));
    engine.handle(set, at(4)).unwrap();
    assert_eq!(closes(&mut engine), []);
}

#[test]
fn an_idle_limit_that_comes_too_short_ends_by_the_change_and_is_not_late() {
    let rules = |idle| Rules {
        idle: Some(idle * SECOND),
        ..Rules::default()
    };
    let mut engine = engine(rules(90));
    for n in 1..=3 {
        engine.open(open(n, "alice", "db", at(0)), at(0)).unwrap();
    }
    let moved = |n, second| Activity {
        id: id(n),
        last: at(second).boot,
        bytes_in: 1,
        bytes_out: 1,
    };
    drain(&mut engine);
    engine.handle(policies(2, rules(10)), at(40)).unwrap();
    engine.poll(at(40));
    let asked = drain(&mut engine);
    assert!(
        matches!(&asked[..], [.., Action::Probe(ids)] if ids.len() == 3),
        "{asked:?}"
    );
    let seen = Input::Activity(vec![moved(1, 5), moved(2, 35), moved(3, 30)]);
    let report = engine.handle(seen, at(40)).unwrap();
    assert_eq!(report.closed, 2);
    let ends = drain(&mut engine)
        .into_iter()
        .filter_map(|action| match action {
            Action::Close {
                id,
                reason,
                deadline,
            } => Some((id, reason, deadline)),
            _ => None,
        });
    let changed = EndReason::PolicyChanged;
    assert_eq!(
        ends.collect::<Vec<_>>(),
        [(id(1), changed, None), (id(3), changed, None)]
    );
    // By its own silence.
    engine.poll(at(45));
    engine
        .handle(Input::Activity(vec![moved(2, 35)]), at(45))
        .unwrap();
    assert_eq!(closes(&mut engine), [(id(2), EndReason::IdleTimeout)]);
}

#[test]
fn concurrency_counts_the_subject_wherever_it_comes_from() {
    let mut engine = engine(Rules {
        max: Some(2),
        ..Rules::default()
    });
    let from = |n: u64, who: &str, client: &str| {
        let mut open = open(n, who, "db", at(n));
        open.facts.client = client.parse().unwrap();
        open
    };
    engine.open(from(1, "alice", "10.0.0.1:1"), at(1)).unwrap();
    engine.open(from(2, "alice", "10.0.0.2:1"), at(2)).unwrap();
    engine.open(from(3, "", "10.0.0.3:1"), at(3)).unwrap();
    engine.open(from(4, "", "10.0.0.3:2"), at(4)).unwrap();
    engine.open(from(5, "", "10.0.0.4:1"), at(5)).unwrap();
    for over in [
        from(6, "alice", "10.0.0.5:1"),
        from(7, "", "[::ffff:10.0.0.3]:3"),
    ] {
        let refused = engine.open(over, at(7)).unwrap_err();
        assert_eq!(refused.reason, EndReason::ConcurrencyExceeded);
    }
    let reason = EndReason::ClosedByClient;
    engine.handle(Input::ended(id(1), reason), at(8)).unwrap();
    engine.open(from(8, "alice", "10.0.0.5:1"), at(8)).unwrap();
}

#[test]
fn what_was_due_before_a_loss_is_the_reason() {
    let loss = LossRule::default_for(Sensitivity::Critical);
    for (lifetime, reason) in [
        (50, EndReason::LifetimeExpired),
        (60, EndReason::LifetimeExpired),
        (61, EndReason::ControlPlaneLost),
    ] {
        let mut engine = engine(Rules {
            lifetime: lifetime * SECOND,
            loss,
            ..Rules::default()
        });
        engine.open(open(1, "alice", "db", at(0)), at(0)).unwrap();
        engine.poll(at(200));
        assert_eq!(closes(&mut engine), [(id(1), reason)]);
    }
}
