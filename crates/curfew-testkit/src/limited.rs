//! A policy of limits for tests: everyone is admitted into the segment `db` with them, but for one name.

use std::{sync::Arc, time::Duration};

use curfew_model::{
    Bound, EndReason, Facts, Lease, LossRule, Mode, Now, OnAdopt, Provenance, Reconnect, Revision,
    SegmentName, Sensitivity,
};
use curfew_policy::{Decide, Decision, MatchedSegment, Refusal};

/// The user, or the login name at any service, that is denied access.
pub const DENIED: &str = "mallory";

/// Admits everyone but [`DENIED`] with these limits; one that is none limits nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limited {
    /// From opening to the end.
    pub max_lifetime: Option<Duration>,
    /// Without payload.
    pub idle_timeout: Option<Duration>,
    /// From the subject's last proof.
    pub reauth_every: Option<Duration>,
    /// What a new session needs after one that ended by its lifetime.
    pub reconnect: Reconnect,
    /// Open sessions of one subject.
    pub max_concurrent: Option<u32>,
    /// Before a deadline, the client is warned.
    pub warn_before: Option<Duration>,
}

impl Decide for Limited {
    fn revision(&self) -> Revision {
        Revision(1)
    }

    fn decide(&self, facts: &Facts, _now: Now) -> Decision {
        let limits = *self;
        let by = Arc::new(Provenance::Order("test".to_owned()));
        let bound = |at, reason| Bound {
            at,
            reason,
            by: Arc::clone(&by),
        };
        let proved = facts.proved_at.unwrap_or(facts.opened_at);
        let lease = Lease {
            expires_at: limits
                .max_lifetime
                .map(|limit| bound(facts.opened_at.after(limit), EndReason::LifetimeExpired)),
            reauth_by: limits
                .reauth_every
                .map(|limit| bound(proved.after(limit), EndReason::ReauthOverdue)),
            idle_timeout: limits.idle_timeout.map(|limit| (limit, Arc::clone(&by))),
            warn_before: limits.warn_before,
            ..Lease::default()
        };
        let is_denied = |id: &str| id.rsplit('/').next() == Some(DENIED);
        let denied = facts.identities.iter().any(|who| is_denied(&who.id));
        let refusal = denied.then(|| Refusal {
            reason: EndReason::AccessDenied,
            cause: "test".to_owned(),
            audit_only: false,
        });
        let segments = SegmentName::new("db")
            .map(|name| MatchedSegment {
                name,
                sensitivity: Sensitivity::Low,
                mode: Mode::Enforce,
                max_concurrent: limits.max_concurrent.map(|limit| (limit, by.clone())),
                reconnect_wait: (!limits.reconnect.wait.is_zero())
                    .then(|| (limits.reconnect.wait, by.clone())),
                reconnect_proof: limits.reconnect.proof.then(|| by.clone()),
                on_adopt: OnAdopt::default(),
                on_control_plane_loss: LossRule::default_for(Sensitivity::Low),
            })
            .into_iter()
            .collect();
        Decision {
            segments,
            policies: Vec::new(),
            lease,
            refusal,
            shadow: None,
            coming: None,
            look_again_at: None,
        }
    }
}
