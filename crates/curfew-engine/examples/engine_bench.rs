//! Measures the engine: bytes a session by growth of RSS, and what it does in a second on a core. Prints names and
//! figures, which `scripts/bench` takes the medians of.
//!
//! Run in release: `cargo run --release -p curfew-engine --example engine_bench -- [SESSIONS]`.

use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Duration};

use curfew_engine::{Action, Activity, Bounds, Engine, Input, Open, Peer, Report};
use curfew_model::{
    Block, BootInstant, Bound, EndReason, Facts, Identity, Issuer, Kind, Lease, LossRule, Mode,
    Now, OnAdopt, PolicyName, Proof, Provenance, Revision, Revocation, RevocationId, Scope,
    SegmentName, Sensitivity, SessionId, Target, UpstreamAddress, WallInstant,
};
use curfew_policy::{Decide, Decision, MatchedSegment};
use rustix::time::{ClockId, clock_gettime};

const SUBJECTS: u64 = 100_000;
const SEGMENTS: u16 = 10_000;
const IDLE: Duration = Duration::from_secs(900);
/// Sessions that a door answers for at once.
const ANSWERED: usize = 256;
const LIFETIME: Duration = Duration::from_secs(3_600);

/// Ten thousand segments with three policies each, decided by the port of the target.
struct Policies(Vec<(MatchedSegment, Vec<PolicyName>, Arc<Provenance>)>);

impl Decide for Policies {
    fn revision(&self) -> Revision {
        Revision(1)
    }

    fn decide(&self, facts: &Facts, _: Now) -> Decision {
        let port = facts
            .target
            .addresses()
            .next()
            .map_or(0, |address| address.port());
        let Some((segment, policies, by)) = self.0.get(usize::from(port)) else {
            return Decision {
                segments: vec![],
                policies: vec![],
                lease: Lease::default(),
                refusal: None,
                shadow: None,
                coming: None,
                look_again_at: None,
            };
        };
        let at = facts.opened_at.after(LIFETIME);
        let expires_at = Some(Bound {
            at,
            reason: EndReason::LifetimeExpired,
            by: by.clone(),
        });
        let idle_timeout = Some((IDLE, by.clone()));
        Decision {
            segments: vec![segment.clone()],
            policies: policies.clone(),
            lease: Lease {
                expires_at,
                idle_timeout,
                ..Lease::default()
            },
            refusal: None,
            shadow: None,
            coming: None,
            look_again_at: None,
        }
    }
}

fn policies() -> Result<Policies, curfew_model::InvalidName> {
    let mut rows = Vec::new();
    for n in 0..SEGMENTS {
        let document = format!("SessionPolicy/policy-{n}-0");
        let by = Arc::new(Provenance::Document {
            document,
            field: "limits.maxLifetime".to_owned(),
            place: None,
            revision: Revision(1),
        });
        let segment = MatchedSegment {
            name: SegmentName::new(&format!("segment-{n}"))?,
            sensitivity: Sensitivity::High,
            mode: Mode::Enforce,
            max_concurrent: None,
            reconnect_wait: None,
            reconnect_proof: None,
            on_adopt: OnAdopt::default(),
            on_control_plane_loss: LossRule::default_for(Sensitivity::High),
        };
        let names: Result<Vec<_>, _> = (0..3)
            .map(|p| PolicyName::new(&format!("policy-{n}-{p}")))
            .collect();
        rows.push((segment, names?, by));
    }
    Ok(Policies(rows))
}

/// The subjects' names, which a door has from bindings.
fn names() -> Vec<String> {
    let name = |subject| format!("user-{subject}@example.org");
    (0..SUBJECTS).map(name).collect()
}

fn open(n: u64, names: &[String]) -> Open {
    let subject = n % SUBJECTS;
    let port = u16::try_from(n % u64::from(SEGMENTS)).unwrap_or(0);
    let host = u32::try_from(subject).unwrap_or(0);
    let identity = Identity {
        proof: Proof::Bound,
        kind: Kind::User,
        issuer: Issuer::local(),
        id: names.get(subject as usize).cloned().unwrap_or_default(),
        display: None,
    };
    let facts = Facts {
        identities: vec![identity],
        groups: vec!["staff".to_owned()],
        device: None,
        attributes: BTreeMap::new(),
        client: (host.to_be_bytes(), 40_000).into(),
        target: Target {
            service: None,
            upstreams: [UpstreamAddress::Tcp(([10, 1, 0, 1], port).into())].into(),
        },
        opened_at: opened_at(n),
        proved_at: None,
        credential_until: None,
        binding_until: None,
        ambiguous: false,
    };
    Open {
        id: id(n),
        facts,
        peer: Peer::default(),
        decided_at: None,
    }
}

/// One session opened every ten microseconds.
fn opened_at(n: u64) -> BootInstant {
    BootInstant(n * 10_000)
}

fn id(n: u64) -> SessionId {
    SessionId(uuid::Uuid::from_u64_pair(
        n.wrapping_mul(0x9e37_79b9_7f4a_7c15),
        n,
    ))
}

/// Resident memory in bytes; zero where there is no procfs.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}

/// Seconds on a core that `work` takes, which is what counts on a machine that is busy with others.
fn timed(work: impl FnOnce()) -> f64 {
    let on_core = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
    };
    let before = on_core();
    work();
    on_core() - before
}

/// Everything reaches the end of its lifetime, looked at every hundred microseconds, and the door answers for it.
fn end_all(engine: &mut Engine, mut now: Now) {
    // Nothing is idle before that.
    let ids: Vec<SessionId> = engine.ids().collect();
    now.boot = BootInstant(0).after(LIFETIME);
    let seen = ids.into_iter().map(|id| moved(id, now.boot));
    let _ = engine.handle(Input::Activity(seen.collect()), now);
    while let Some(due) = engine.next_deadline() {
        now.boot = due.after(Duration::from_micros(100));
        engine.poll(now);
        let mut answers = Vec::new();
        while let Some(action) = engine.poll_action() {
            if let Action::Close { id, reason, .. } = action {
                answers.push(Input::Ended {
                    id,
                    reason,
                    cause: None,
                    moved: Some(moved(id, now.boot)),
                    late: None,
                });
            }
        }
        for answer in answers {
            let _ = engine.handle(answer, now);
        }
    }
}

fn moved(id: SessionId, last: BootInstant) -> Activity {
    Activity {
        id,
        last,
        bytes_in: 1,
        bytes_out: 1,
    }
}

fn main() -> ExitCode {
    let sessions = std::env::args()
        .nth(1)
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000u64);
    let Ok(policies) = policies() else {
        return ExitCode::FAILURE;
    };
    let now = Now {
        boot: opened_at(sessions),
        wall: WallInstant(0),
    };
    let mut engine = Engine::new(Arc::new(policies), Bounds::default(), now);
    let names = names();
    let before = resident();
    let count = sessions as f64;
    let opens = timed(|| {
        for n in 0..sessions {
            let _ = engine.open(open(n, &names), now);
            while engine.poll_action().is_some() {}
        }
    });
    let grown = resident().saturating_sub(before);
    let make = |n| drop(std::hint::black_box(open(n, &names)));
    let inputs = timed(|| (0..sessions).for_each(make));
    println!("sessions\t{}", engine.len());
    println!(
        "bytes a session, by growth of RSS\t{:.1}",
        grown as f64 / count
    );
    println!("opens a second\t{:.0}", count / opens);
    let alone = count / (opens - inputs);
    println!("opens a second, without making the inputs\t{alone:.0}");
    let activity = timed(|| {
        for first in (0..sessions).step_by(ANSWERED) {
            let some = first..sessions.min(first + ANSWERED as u64);
            let seen = some.map(|n| moved(id(n), opened_at(n))).collect();
            let _ = engine.handle(Input::Activity(seen), now);
        }
    });
    println!("activity answers a second\t{:.0}", count / activity);
    let order = Revocation {
        id: RevocationId(uuid::Uuid::nil()),
        scope: Scope::Subject {
            kind: Kind::User,
            issuer: None,
            id: "user-7@example.org".to_owned(),
        },
        block: Block::UntilLifted,
        reason: "benchmark".to_owned(),
        source: "benchmark".to_owned(),
        created_at: WallInstant(0),
        revision: Revision(2),
        lifted_at: None,
    };
    let mut report = Ok(Report::default());
    let revoking = timed(|| report = engine.handle(Input::Revoke(order), now));
    let report = report.unwrap_or_default();
    println!("sessions of a revoked subject\t{}", report.matched);
    println!("entries visited to revoke it\t{}", report.visited);
    println!("revoking it, µs\t{:.1}", revoking * 1e6);
    let ends = timed(|| end_all(&mut engine, now));
    println!("ends a second\t{:.0}", count / ends);
    ExitCode::SUCCESS
}
