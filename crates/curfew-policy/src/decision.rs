//! What a decision is: a grant with its lease and provenance, or a refusal. The contract between policy and engine.
//!
//! Parsing, matching and CEL may not live here.

use std::{sync::Arc, time::Duration};

use curfew_model::{
    BootInstant, Bound, EndReason, Facts, Lease, LossRule, Mode, Now, OnAdopt, PolicyName,
    Provenance, Revision, SegmentName, Sensitivity,
};

/// Whatever decides about sessions: a compiled policy set. The engine knows no more of policy than this.
pub trait Decide: Send + Sync {
    /// The revision of the desired state that holds this set.
    fn revision(&self) -> Revision;

    /// Decides about a session from its facts. Pure: the same facts, set and time give the same decision, at
    /// admission and at every later look (rule 16).
    fn decide(&self, facts: &Facts, now: Now) -> Decision;

    /// Whether a session policy leads to a segment, as one may have that the set has no more.
    fn leads_to(&self, _policy: &str, _segment: &SegmentName) -> bool {
        true
    }
}

/// What a decision says, and what it was made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Every destination segment that contains the target, the most sensitive first.
    pub segments: Vec<MatchedSegment>,
    /// Every session policy that matched, admitting or only limiting, sorted by name.
    pub policies: Vec<PolicyName>,
    /// The lease that the limits give, counted from `facts.opened_at`. It admits nobody: where there is a refusal that is
    /// not `audit_only`, it is no session's.
    pub lease: Lease,
    /// Why the session is not admitted; none if it is.
    pub refusal: Option<Refusal>,
    /// What the segments in audit mode would hold the session to, where others are enforced: recorded, not acted on.
    pub shadow: Option<Lease>,
    /// The first end that a policy will set whose window opens later: to be told and warned of. It is no part of the
    /// lease, since a change may come before.
    pub coming: Option<ComingEnd>,
    /// The earliest instant from which a time window or the end of a grant could change this decision.
    pub look_again_at: Option<BootInstant>,
}

/// An end by lifetime or re-authentication that is known before the window opens that brings it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ComingEnd {
    /// When and why, and what will set it: at the opening, where it is past by then.
    pub end: Bound,
    /// How long before it clients are warned by the policies whose windows open.
    pub warn_before: Option<Duration>,
}

/// A destination segment, with what the engine keeps to for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MatchedSegment {
    /// Its name.
    pub name: SegmentName,
    /// Its sensitivity.
    pub sensitivity: Sensitivity,
    /// Whether its decisions act.
    pub mode: Mode,
    /// The lowest limit of open sessions of one subject into it, and what set it.
    pub max_concurrent: Option<(u32, Arc<Provenance>)>,
    /// How long a reconnect after an end by lifetime has to wait, and what set it.
    pub reconnect_wait: Option<(Duration, Arc<Provenance>)>,
    /// What set that a reconnect after an end by lifetime needs proof later than that end; none where it needs none.
    pub reconnect_proof: Option<Arc<Provenance>>,
    /// What becomes of sockets older than the agent.
    pub on_adopt: OnAdopt,
    /// What a loss of the control plane does.
    pub on_control_plane_loss: LossRule,
}

/// Why a session is not admitted. In a set whose refusing segments are all in audit mode, it is only recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The reason.
    pub reason: EndReason,
    /// The segment or policy that refuses, in words for operators.
    pub cause: String,
    /// Whether only audit-mode segments refuse: recorded as `session.would_refuse`, not acted on.
    pub audit_only: bool,
}
