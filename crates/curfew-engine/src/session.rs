//! What sessions share, stored once: identity sets, classes of equal decisions, and what ties a session to its proof.
//! Deciding may not live here.

use std::{
    collections::BTreeMap,
    hash::{Hash, Hasher},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use curfew_model::{
    BindingKey, BootInstant, Bound, DeviceId, EndReason, Facts, Identity, Kind, Lease, Mode,
    PolicyName, Provenance, Revision, SegmentName, SessionId, Target,
};
use curfew_policy::{Decision, MatchedSegment};

use crate::record::{NEVER, Record};

/// What an index or a block is looked up by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Key {
    Everything,
    Identity(Kind, String),
    Device(DeviceId),
    Binding(BindingKey),
    Segment(SegmentName),
    Policy(PolicyName),
    Session(SessionId),
}

/// Everything about who holds a session; equal for all sessions of one person on one device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Who {
    pub(crate) identities: Box<[Identity]>,
    pub(crate) groups: Box<[String]>,
    pub(crate) device: Option<DeviceId>,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) ambiguous: bool,
    pub(crate) bindings: Box<[BindingKey]>,
}

impl Who {
    pub(crate) fn subject(&self) -> Option<&Identity> {
        self.identities.iter().min()
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let identity = |i: &Identity| Key::Identity(i.kind, i.id.clone());
        let mut keys: Vec<Key> = self.identities.iter().map(identity).collect();
        keys.extend(self.device.clone().map(Key::Device));
        keys.extend(self.bindings.iter().cloned().map(Key::Binding));
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// The subject as text, by which concurrency and reconnecting count (rule 7).
pub(crate) fn subject_text(subject: Option<&Identity>, client: SocketAddr) -> String {
    match subject {
        Some(subject) => format!("{}:{}#{}", subject.kind, subject.issuer.0, subject.id),
        None => format!("address:{}", client.ip().to_canonical()),
    }
}

type Source = Option<(EndReason, Arc<Provenance>)>;

/// A decision without its instants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) segments: Box<[MatchedSegment]>,
    pub(crate) policies: Box<[PolicyName]>,
    pub(crate) revision: Revision,
    expires: Source,
    reauth: Source,
    credential: Source,
    binding: Source,
    pub(crate) idle: Option<(Duration, Arc<Provenance>)>,
    pub(crate) warn_before: Option<Duration>,
}

impl Hash for Class {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for segment in &self.segments {
            segment.name.hash(state);
        }
        self.policies.hash(state);
        self.revision.hash(state);
        self.idle.as_ref().map(|(idle, _)| idle).hash(state);
    }
}

impl Class {
    pub(crate) fn new(decision: &Decision, revision: Revision, lease: &Lease) -> Self {
        let source = |bound: &Option<Bound>| bound.as_ref().map(|b| (b.reason, b.by.clone()));
        Self {
            segments: decision.segments.clone().into(),
            policies: decision.policies.clone().into(),
            revision,
            expires: source(&lease.expires_at),
            reauth: source(&lease.reauth_by),
            credential: source(&lease.credential_until),
            binding: source(&lease.binding_until),
            idle: lease.idle_timeout.clone(),
            warn_before: lease.warn_before,
        }
    }

    pub(crate) fn is_audit(&self) -> bool {
        all_audit(&self.segments)
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        let segments = self.segments.iter().map(|s| Key::Segment(s.name.clone()));
        let policies = self.policies.iter().cloned().map(Key::Policy);
        let mut keys: Vec<Key> = segments.chain(policies).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    pub(crate) fn lease(&self, record: &Record, ties: &Ties) -> Lease {
        let bound = |at: u64, source: &Source| {
            source.as_ref().map(|(reason, by)| Bound {
                at: BootInstant(at),
                reason: *reason,
                by: by.clone(),
            })
        };
        Lease {
            expires_at: bound(record.expires, &self.expires),
            reauth_by: bound(record.reauth, &self.reauth),
            credential_until: bound(ties.lease_credential, &self.credential),
            binding_until: bound(ties.lease_binding, &self.binding),
            idle_timeout: self.idle.clone(),
            warn_before: self.warn_before,
        }
    }
}

pub(crate) fn all_audit(segments: &[MatchedSegment]) -> bool {
    !segments.is_empty() && segments.iter().all(|s| s.mode == Mode::Audit)
}

/// Instants that come from proof and windows: sessions of one subject often share them. `NEVER` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ties {
    pub(crate) proved: u64,
    pub(crate) credential: u64,
    pub(crate) binding: u64,
    pub(crate) look_again: u64,
    pub(crate) lease_credential: u64,
    pub(crate) lease_binding: u64,
}

pub(crate) fn nanos(at: Option<BootInstant>) -> u64 {
    at.map_or(NEVER, |at| at.0)
}

pub(crate) fn bound_at(bound: &Option<Bound>) -> u64 {
    bound.as_ref().map_or(NEVER, |bound| bound.at.0)
}

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may pass.
    Open,
    /// It was ordered to end for this reason, and the door has not reported the end yet.
    Closing(EndReason),
}

/// One session, for inventory and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Where it stands.
    pub state: State,
    /// What is known of it, as `decide` sees it.
    pub facts: Facts,
    /// What it leads to.
    pub target: Target,
    /// Its segments, the most sensitive first.
    pub segments: Vec<SegmentName>,
    /// The policies that matched.
    pub policies: Vec<PolicyName>,
    /// The revision that it was last decided on.
    pub revision: Revision,
    /// Its lease with the provenance of each bound.
    pub lease: Lease,
    /// The last payload that is known of.
    pub last_activity: BootInstant,
    /// Payload from the client, in bytes.
    pub bytes_in: u64,
    /// Payload to the client, in bytes.
    pub bytes_out: u64,
}
