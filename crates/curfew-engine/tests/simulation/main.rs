//! Seeded runs of the engine against a world that loses, repeats and delays, with an oracle of its own for who may be
//! open and why not. `CURFEW_SEEDS` sets how many seeds run.

#![cfg(test)]

mod oracle;
#[path = "../support/mod.rs"]
mod support;
mod world;

use std::collections::{BTreeMap, BTreeSet};

use curfew_model::EndReason;
use world::World;

const STEPS: u64 = 1_000;

fn run(seed: u64) -> World {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.step();
    }
    assert!(world.opened >= 50, "seed {seed}: too few sessions");
    for (id, reason) in &world.closed {
        let told = world.ended.get(id);
        assert!(
            told.is_none_or(|told| told == reason),
            "seed {seed}: I8 {id} closed {reason}, recorded {told:?}"
        );
    }
    world
}

#[test]
fn the_invariants_hold_whatever_happens() {
    let seeds = std::env::var("CURFEW_SEEDS").ok();
    let seeds = seeds.and_then(|n| n.parse().ok()).unwrap_or(40);
    let mut hits: BTreeMap<&'static str, u64> = BTreeMap::new();
    let (mut ended, mut refused, mut would) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for seed in 0..seeds {
        let world = run(seed);
        for (what, n) in world.hits {
            *hits.entry(what).or_default() += n;
        }
        ended.extend(world.ended.into_values());
        refused.extend(world.refused);
        would.extend(world.oracle.would.into_values());
    }
    let happenings = [
        "adopted",
        "audit mode would have ended it",
        "binding refreshed",
        "binding removed",
        "binding set",
        "clock accepted",
        "close lost",
        "control plane silent",
        "decided on an older revision",
        "door died",
        "input duplicated",
        "input lost",
        "input reordered",
        "late poll",
        "mode changed",
        "open duplicated",
        "open lost",
        "probe lost",
        "suspend",
        "wall clock step",
    ];
    let came: Vec<&str> = hits.into_keys().collect();
    assert_eq!(came, happenings, "a kind of happening never came");
    use EndReason::{
        AccessDenied, BindingExpired, ClosedByClient, ConcurrencyExceeded, ControlPlaneLost,
        CredentialExpired, IdleTimeout, LifetimeExpired, NetworkError, OutsideHours, PolicyChanged,
        ReauthOverdue, SessionCancelled, SubjectRevoked, Unattributed,
    };
    for reason in [
        SubjectRevoked,
        SessionCancelled,
        PolicyChanged,
        LifetimeExpired,
        OutsideHours,
        CredentialExpired,
        BindingExpired,
        ReauthOverdue,
        IdleTimeout,
        ConcurrencyExceeded,
        Unattributed,
        ControlPlaneLost,
        ClosedByClient,
        NetworkError,
    ] {
        assert!(ended.contains(&reason), "no session ended {reason}");
    }
    for reason in [
        SubjectRevoked,
        AccessDenied,
        LifetimeExpired,
        OutsideHours,
        ReauthOverdue,
        ConcurrencyExceeded,
        Unattributed,
        ControlPlaneLost,
    ] {
        assert!(refused.contains(&reason), "no session was refused {reason}");
    }
    for reason in [SubjectRevoked, LifetimeExpired, IdleTimeout, BindingExpired] {
        assert!(
            would.contains(&reason),
            "no session would have ended {reason}"
        );
    }
}

#[test]
fn the_same_seed_gives_the_same_run() {
    assert_eq!(run(7).log, run(7).log);
}
