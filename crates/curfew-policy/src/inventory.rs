//! What a policy set consists of, for those who list it. Nothing is decided here.

use std::{collections::BTreeMap, time::Duration};

use curfew_model::{Access, Mode, PolicyName, SegmentName, Sensitivity};

use crate::{compile::PolicySet, limits::Set};

/// A segment as its documents define it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentSummary<'a> {
    /// Its name.
    pub name: &'a SegmentName,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// How much it matters.
    pub sensitivity: Sensitivity,
    /// Whether its decisions act.
    pub mode: Mode,
    /// What a session needs to be admitted.
    pub access: Access,
    /// Where its name is written, `FILE:LINE`.
    pub place: String,
    /// From opening to the end; the default of the sensitivity unless the segment says otherwise.
    pub max_lifetime: Option<Duration>,
    /// Without payload.
    pub idle_timeout: Option<Duration>,
    /// From the subject's last proof.
    pub reauth_every: Option<Duration>,
    /// Open sessions of one subject.
    pub max_concurrent: Option<u32>,
    /// Before a deadline.
    pub warn_before: Option<Duration>,
}

impl PolicySet {
    /// Every segment, by name.
    pub fn segments(&self) -> impl Iterator<Item = SegmentSummary<'_>> {
        self.segments.iter().map(|segment| SegmentSummary {
            name: &segment.name,
            labels: &segment.labels,
            sensitivity: segment.sensitivity,
            mode: segment.mode,
            access: segment.access,
            place: format!("{}:{}", segment.place.file, segment.place.line),
            max_lifetime: value(&segment.limits.max_lifetime),
            idle_timeout: value(&segment.limits.idle_timeout),
            reauth_every: value(&segment.limits.reauth_every),
            max_concurrent: value(&segment.limits.max_concurrent),
            warn_before: value(&segment.limits.warn_before),
        })
    }

    /// Every session policy, by name.
    pub fn policies(&self) -> impl Iterator<Item = &PolicyName> {
        self.policies.iter().map(|policy| &policy.name)
    }
}

fn value<T: Copy>(set: &Set<T>) -> Option<T> {
    set.as_ref().map(|(value, _)| *value)
}
