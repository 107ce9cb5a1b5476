//! What sessions share of their decisions, stored once: a decision without its instants, and what ties a session to
//! its proof. Deciding may not live here.

use std::{
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use curfew_model::{
    BootInstant, Bound, Deadline, EndReason, Lease, LiveOnLoss, Mode, PolicyName, Provenance,
    Revision, SegmentName,
};
use curfew_policy::{ComingEnd, MatchedSegment};

use crate::{
    index::Key,
    record::{NEVER, Record},
};

type Source = Option<(EndReason, Arc<Provenance>)>;

/// A decision that a class is sought for: nothing of it is copied unless none is kept yet.
pub(crate) struct Decided<'a> {
    pub(crate) segments: &'a [MatchedSegment],
    pub(crate) policies: &'a [PolicyName],
    pub(crate) lease: &'a Lease,
    pub(crate) coming: Option<&'a ComingEnd>,
}

impl Decided<'_> {
    /// Every key that the index would find it by.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        keys(self.segments, self.policies)
    }

    /// Whether it is of this class.
    pub(crate) fn is_of(&self, class: &Class) -> bool {
        let by = |bound: &Option<Bound>, source: &Source| match (bound, source) {
            (Some(bound), Some((reason, by))) => bound.reason == *reason && bound.by == *by,
            (None, None) => true,
            _ => false,
        };
        // Every field, so that none that comes is forgotten here.
        let Lease {
            expires_at,
            reauth_by,
            credential_until,
            binding_until,
            idle_timeout,
            warn_before: warn,
        } = self.lease;
        let Class {
            segments,
            policies,
            expires,
            reauth,
            credential,
            binding,
            idle,
            warn_before,
            ahead,
        } = class;
        self.segments == segments
            && *self.policies == **policies
            && by(expires_at, expires)
            && by(reauth_by, reauth)
            && by(credential_until, credential)
            && by(binding_until, binding)
            && idle_timeout == idle
            && warn == warn_before
            && self.coming.map(|coming| &coming.end.by) == ahead.as_ref()
    }
}

/// Equal for all decisions of one class.
impl Hash for Decided<'_> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        for segment in self.segments {
            segment.name.hash(state);
        }
        self.policies.hash(state);
        let idle = self.lease.idle_timeout.as_ref();
        idle.map(|(idle, _)| idle).hash(state);
    }
}

/// A decision without its instants.
#[derive(Debug)]
pub(crate) struct Class {
    pub(crate) segments: Vec<MatchedSegment>,
    pub(crate) policies: Arc<[PolicyName]>,
    expires: Source,
    reauth: Source,
    credential: Source,
    binding: Source,
    pub(crate) idle: Option<(Duration, Arc<Provenance>)>,
    pub(crate) warn_before: Option<Duration>,
    /// What will set the end that is [`Ties::ahead`].
    ahead: Option<Arc<Provenance>>,
}

impl Class {
    fn new(decided: &Decided<'_>) -> Self {
        let source = |bound: &Option<Bound>| bound.as_ref().map(|b| (b.reason, b.by.clone()));
        let &Decided {
            segments,
            policies,
            lease,
            coming,
        } = decided;
        Self {
            segments: segments.to_vec(),
            policies: policies.into(),
            expires: source(&lease.expires_at),
            reauth: source(&lease.reauth_by),
            credential: source(&lease.credential_until),
            binding: source(&lease.binding_until),
            idle: lease.idle_timeout.clone(),
            warn_before: lease.warn_before,
            ahead: coming.map(|coming| coming.end.by.clone()),
        }
    }

    /// An end that a window will bring which opens later, before what the lease has that a client is warned of.
    pub(crate) fn ahead(&self, ties: &Ties) -> Option<Bound> {
        let Deadline { at, reason } = ties.ahead?.end;
        let by = self.ahead.clone()?;
        Some(Bound { at, reason, by })
    }

    /// Whether what is decided is only recorded.
    pub(crate) fn is_audit(&self) -> bool {
        all_audit(&self.segments)
    }

    /// Every key that the index finds it by.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        keys(&self.segments, &self.policies)
    }

    /// After how long without the control plane its sessions end, or would end where all its segments only record.
    pub(crate) fn closes_on_loss(&self) -> Option<Duration> {
        let audit = self.is_audit();
        self.loss_of(|mode| audit || mode == Mode::Enforce)
    }

    /// Every such time: also after which segments in audit mode would end them where others act.
    pub(crate) fn losses(&self) -> impl Iterator<Item = Duration> {
        let recorded = self.loss_of(|mode| mode == Mode::Audit);
        self.closes_on_loss().into_iter().chain(recorded)
    }

    fn loss_of(&self, counts: impl Fn(Mode) -> bool) -> Option<Duration> {
        let segments = self.segments.iter();
        segments
            .filter(|segment| counts(segment.mode))
            .map(|segment| segment.on_control_plane_loss)
            .filter(|rule| rule.live == LiveOnLoss::Close)
            .map(|rule| rule.after)
            .min()
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

/// A class as it is kept, by its sessions and by those that ended not long ago.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) class: Class,
    /// The names of its segments, for the records of its sessions.
    pub(crate) names: Arc<[SegmentName]>,
}

impl Kept {
    pub(crate) fn new(decided: &Decided<'_>) -> Self {
        let class = Class::new(decided);
        let names = class.segments.iter().map(|s| s.name.clone()).collect();
        Self { class, names }
    }
}

fn keys<'a>(
    segments: &'a [MatchedSegment],
    policies: &'a [PolicyName],
) -> impl Iterator<Item = Key<'a>> {
    let segments = segments.iter().map(|s| Key::Segment(&s.name));
    segments.chain(policies.iter().map(Key::Policy))
}

pub(crate) fn all_audit(segments: &[MatchedSegment]) -> bool {
    !segments.is_empty() && segments.iter().all(|s| s.mode == Mode::Audit)
}

/// Instants that come from proof and windows: sessions of one subject often share them. `NEVER` is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ties {
    /// The last proof.
    pub(crate) proved: u64,
    pub(crate) credential: u64,
    /// The end of what the door itself knew the subject by.
    pub(crate) own: u64,
    /// The end of the binding, the door's own included.
    pub(crate) binding: u64,
    /// When a window or a grant makes another decision possible.
    pub(crate) look_again: u64,
    /// What the wall clock showed when the boot clock began, in milliseconds, as the session was leased: windows come to it
    /// on that clock, whatever becomes of the wall clock meanwhile.
    pub(crate) clock: i64,
    pub(crate) lease_credential: u64,
    pub(crate) lease_binding: u64,
    pub(crate) ahead: Option<Ahead>,
    /// The state that the last decision was made on.
    pub(crate) decided_on: Revision,
}

/// An end that a window will bring which opens later, before what the lease has that a client is warned of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Ahead {
    pub(crate) end: Deadline,
    /// When its client is warned of it.
    pub(crate) warn_at: Option<BootInstant>,
}

pub(crate) fn nanos(at: Option<BootInstant>) -> u64 {
    at.map_or(NEVER, |at| at.0)
}

pub(crate) fn bound_at(bound: &Option<Bound>) -> u64 {
    bound.as_ref().map_or(NEVER, |bound| bound.at.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(reason: EndReason) -> Option<Bound> {
        Some(Bound {
            at: BootInstant(7),
            reason,
            by: Arc::new(Provenance::Binding),
        })
    }

    fn decided<'a>(
        lease: &'a Lease,
        policies: &'a [PolicyName],
        coming: Option<&'a ComingEnd>,
    ) -> Decided<'a> {
        Decided {
            segments: &[],
            policies,
            lease,
            coming,
        }
    }

    #[test]
    fn a_decision_is_of_a_class_if_nothing_but_instants_differs() {
        let by = Arc::new(Provenance::Credential);
        let coming = |by: Provenance| ComingEnd {
            end: Bound {
                at: BootInstant(9),
                reason: EndReason::LifetimeExpired,
                by: Arc::new(by),
            },
            warn_before: None,
        };
        let (one, other) = (coming(Provenance::Binding), coming(Provenance::Credential));
        let names = [PolicyName::new("a").unwrap()];
        let lease = Lease {
            expires_at: bound(EndReason::LifetimeExpired),
            ..Lease::default()
        };
        let class = Class::new(&decided(&lease, &names, Some(&one)));
        let mut later = lease.clone();
        later.expires_at.as_mut().unwrap().at = BootInstant(8);
        assert!(decided(&later, &names, Some(&one)).is_of(&class));
        assert!(!decided(&lease, &[], Some(&one)).is_of(&class));
        assert!(!decided(&lease, &names, Some(&other)).is_of(&class));
        assert!(!decided(&lease, &names, None).is_of(&class));
        let vary: [fn(&mut Lease, Arc<Provenance>); 7] = [
            |lease, _| lease.expires_at = None,
            |lease, _| lease.expires_at = bound(EndReason::GrantExpired),
            |lease, by| lease.expires_at.as_mut().unwrap().by = by,
            |lease, _| lease.reauth_by = bound(EndReason::ReauthOverdue),
            |lease, _| lease.credential_until = bound(EndReason::CredentialExpired),
            |lease, by| lease.idle_timeout = Some((Duration::from_secs(1), by)),
            |lease, _| lease.warn_before = Some(Duration::from_secs(1)),
        ];
        for (number, vary) in vary.into_iter().enumerate() {
            let mut lease = lease.clone();
            vary(&mut lease, Arc::clone(&by));
            assert!(
                !decided(&lease, &names, Some(&one)).is_of(&class),
                "{number}"
            );
        }
    }
}
