//! A small policy that the tests state in full, and a seeded source of numbers. No assertion may live here.

#![cfg(test)]
#![allow(dead_code, reason = "each test file uses its part")]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use curfew_engine::{Action, Bounds, Engine, Input, Keeper, Open, Peer, Report};
use curfew_model::{
    Binding, BindingKey, BootInstant, Bound, EndReason, EventKind, Facts, Identity, Issuer, Kind,
    Lease, LiveOnLoss, LossRule, Mode, NewOnLoss, Now, OnAdopt, PolicyName, Proof, Provenance,
    Reconnect, Revision, Revocation, RevocationId, Scope, SegmentName, Sensitivity, ServiceName,
    SessionId, Target, WallInstant,
};
use curfew_policy::{ComingEnd, Decide, Decision, Difference, MatchedSegment, Refusal};

pub const SECOND: u64 = 1_000_000_000;

/// splitmix64.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

/// What the policy says of a segment, which is a service of the same name.
#[derive(Clone, Debug)]
pub struct Rules {
    pub lifetime: u64,
    pub idle: Option<u64>,
    pub reauth: Option<u64>,
    pub warn: Option<u64>,
    pub max: Option<u32>,
    /// Since when `max` holds, in seconds of [`at`] on the wall clock.
    pub max_from: Option<u64>,
    pub reconnect: Reconnect,
    pub loss: LossRule,
    pub mode: Mode,
    /// The lifetime in a segment in audit mode that overlaps this one where it is enforced.
    pub shadow: Option<u64>,
    pub admits: bool,
    pub adopt: OnAdopt,
    /// When it admits, in seconds of [`at`] on the wall clock: outside it refuses `outside_hours`.
    pub window: Option<(u64, u64)>,
    /// From when until when another policy limits the lifetime, as above, and to what.
    pub ceiling: Option<(u64, u64, u64)>,
    /// Whether it refuses who has no identity.
    pub named: bool,
    pub sensitivity: Sensitivity,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            lifetime: 100 * SECOND,
            idle: None,
            reauth: None,
            warn: None,
            max: None,
            max_from: None,
            reconnect: Reconnect::default(),
            loss: LossRule {
                after: Duration::from_secs(1_000_000),
                live: LiveOnLoss::Keep,
                new: NewOnLoss::Allow,
            },
            mode: Mode::Enforce,
            shadow: None,
            admits: true,
            adopt: OnAdopt::Lease,
            window: None,
            ceiling: None,
            named: false,
            sensitivity: Sensitivity::High,
        }
    }
}

pub struct Fake {
    pub revision: Revision,
    pub segments: BTreeMap<String, Rules>,
    pub by: Arc<Provenance>,
}

impl Fake {
    pub fn new(revision: u64, segments: impl IntoIterator<Item = (String, Rules)>) -> Arc<Self> {
        let document = "SessionPolicy/p".to_owned();
        let by = Arc::new(Provenance::Document {
            document,
            field: "limits".to_owned(),
            place: None,
            revision: Revision(revision),
        });
        Arc::new(Self {
            revision: Revision(revision),
            segments: segments.into_iter().collect(),
            by,
        })
    }

    pub fn one(revision: u64, rules: Rules) -> Arc<Self> {
        Self::new(revision, [("db".to_owned(), rules)])
    }
}

impl Decide for Fake {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn decide(&self, facts: &Facts, now: Now) -> Decision {
        let name = facts
            .target
            .service
            .as_ref()
            .map(ServiceName::as_str)
            .unwrap_or_default();
        let Some(rules) = self.segments.get(name) else {
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
        let nanos = Duration::from_nanos;
        let bound = |at: BootInstant, reason| {
            Some(Bound {
                at,
                reason,
                by: self.by.clone(),
            })
        };
        let since = facts.proved_at.unwrap_or(facts.opened_at);
        let lease = Lease {
            expires_at: bound(
                facts.opened_at.after(nanos(rules.lifetime)),
                EndReason::LifetimeExpired,
            ),
            reauth_by: rules
                .reauth
                .and_then(|r| bound(since.after(nanos(r)), EndReason::ReauthOverdue)),
            credential_until: facts
                .credential_until
                .and_then(|w| bound(now.boot_at(w), EndReason::CredentialExpired)),
            binding_until: facts
                .binding_until
                .and_then(|w| bound(now.boot_at(w), EndReason::BindingExpired)),
            idle_timeout: rules.idle.map(|idle| (nanos(idle), self.by.clone())),
            warn_before: rules.warn.map(nanos),
        };
        let mut lease = lease;
        let mut edges = Vec::new();
        let mut passed = |seconds: u64| {
            let wall = at(seconds).wall;
            edges.push(wall);
            wall <= now.wall
        };
        let mut coming = None;
        if let Some((from, to, lifetime)) = rules.ceiling
            && !passed(to)
        {
            let end = facts.opened_at.after(nanos(lifetime));
            if passed(from) {
                lease.tighten(Lease {
                    expires_at: bound(end, EndReason::LifetimeExpired),
                    ..Lease::default()
                });
            } else {
                let end = end.max(now.boot_at(at(from).wall));
                let warn_before = lease.warn_before;
                coming = bound(end, EndReason::LifetimeExpired)
                    .map(|end| ComingEnd { end, warn_before });
            }
        }
        let max = rules.max.filter(|_| rules.max_from.is_none_or(&mut passed));
        let outside = |(from, to)| (!passed(from)) | passed(to);
        let refused = if !rules.admits {
            Some(EndReason::AccessDenied)
        } else if facts.ambiguous || rules.named && facts.identities.is_empty() {
            Some(EndReason::Unattributed)
        } else if rules.window.is_some_and(outside) {
            Some(EndReason::OutsideHours)
        } else {
            None
        };
        let refusal = refused.map(|reason| Refusal {
            reason,
            cause: "no policy admits".to_owned(),
            audit_only: rules.mode == Mode::Audit,
        });
        let shadow = rules.shadow.filter(|_| rules.mode == Mode::Enforce);
        let shadow = shadow.map(|lifetime| Lease {
            expires_at: bound(
                facts.opened_at.after(nanos(lifetime)),
                EndReason::LifetimeExpired,
            ),
            ..Lease::default()
        });
        let next = edges.into_iter().filter(|wall| *wall > now.wall).min();
        Decision {
            segments: vec![MatchedSegment {
                name: SegmentName::new(name).unwrap(),
                sensitivity: rules.sensitivity,
                mode: rules.mode,
                max_concurrent: max.map(|max| (max, self.by.clone())),
                reconnect_wait: (!rules.reconnect.wait.is_zero())
                    .then(|| (rules.reconnect.wait, self.by.clone())),
                reconnect_proof: rules.reconnect.proof.then(|| self.by.clone()),
                on_adopt: rules.adopt,
                on_control_plane_loss: rules.loss,
            }],
            policies: vec![PolicyName::new("p").unwrap()],
            lease,
            refusal,
            shadow,
            coming,
            look_again_at: next.map(|wall| now.boot_at(wall)),
        }
    }
}

pub fn at(seconds: u64) -> Now {
    nanos(seconds * SECOND)
}

pub fn nanos(boot: u64) -> Now {
    Now {
        boot: BootInstant(boot),
        wall: WallInstant(1_000_000_000_000 + i64::try_from(boot / 1_000_000).unwrap()),
    }
}

/// The same instant where the wall clock was set forward, or back, by so many milliseconds.
pub fn stepped(mut now: Now, millis: i64) -> Now {
    now.wall.0 += millis;
    now
}

pub fn id(n: u64) -> SessionId {
    SessionId(uuid::Uuid::from_u64_pair(1, n))
}

pub fn user(name: &str) -> Identity {
    Identity {
        proof: Proof::Bound,
        kind: Kind::User,
        issuer: Issuer::local(),
        id: name.to_owned(),
        display: None,
    }
}

pub fn open(n: u64, who: &str, service: &str, now: Now) -> Open {
    let facts = Facts {
        identities: if who.is_empty() {
            vec![]
        } else {
            vec![user(who)]
        },
        groups: vec![],
        device: None,
        attributes: BTreeMap::new(),
        client: "10.0.0.5:4000".parse().unwrap(),
        target: Target {
            service: Some(ServiceName::new(service).unwrap()),
            upstreams: [].into(),
        },
        opened_at: now.boot,
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

pub fn engine(rules: Rules) -> Engine {
    Engine::new(Fake::one(1, rules), Bounds::default(), at(0))
}

pub fn drain(engine: &mut Engine) -> Vec<Action> {
    engine.check().unwrap();
    std::iter::from_fn(|| engine.poll_action()).collect()
}

pub fn closes(engine: &mut Engine) -> Vec<(SessionId, EndReason)> {
    let close = |action| match action {
        Action::Close { id, reason, .. } => Some((id, reason)),
        _ => None,
    };
    drain(engine).into_iter().filter_map(close).collect()
}

pub fn order(n: u64, scope: Scope, revision: u64) -> Revocation {
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

pub fn alice() -> Scope {
    Scope::Subject {
        kind: Kind::User,
        issuer: None,
        id: "alice".to_owned(),
    }
}

/// What is on record of sessions.
pub fn recorded(engine: &mut Engine) -> Vec<(EventKind, Option<EndReason>)> {
    let event = |action| match action {
        Action::Record(recorded) if recorded.session.is_some() => {
            Some((recorded.event, recorded.reason))
        }
        _ => None,
    };
    drain(engine).into_iter().filter_map(event).collect()
}

pub fn policies(revision: u64, rules: Rules) -> Input {
    Input::Policies {
        set: Fake::one(revision, rules),
        difference: everything(),
    }
}

/// A difference that concerns every session of these tests.
pub fn everything() -> Difference {
    Difference {
        segments: vec![SegmentName::new("db").unwrap()],
        services: ["db", "web"]
            .map(|name| ServiceName::new(name).unwrap())
            .to_vec(),
        nets: ["0.0.0.0/0", "::/0"]
            .map(|net| net.parse().unwrap())
            .to_vec(),
    }
}

pub fn binding(who: &str, net: &str, refreshed: Option<Now>, until: Option<Now>) -> Binding {
    Binding {
        key: BindingKey::Address(net.parse().unwrap()),
        identity: user(who),
        groups: vec![],
        until: until.map(|n| n.wall),
        refreshed_at: refreshed.map(|n| n.wall),
    }
}

pub fn bind(engine: &mut Engine, keeper: Keeper, binding: Binding, now: Now) -> Report {
    engine
        .handle(Input::BindingSet(keeper, binding), now)
        .unwrap()
}

pub fn identities(engine: &Engine, n: u64) -> Vec<Identity> {
    engine.session(id(n)).unwrap().facts.identities
}
