//! The documents as checked values: what was written, with its places. Matching and compiling may not live here.

use std::{collections::BTreeMap, sync::Arc};

use curfew_model::{
    Access, EndReason, Issuer, LossRule, Mode, OnAdopt, PolicyName, Provenance, Revision,
    SegmentName, Sensitivity, ServiceName, WallInstant,
};
use ipnet::IpNet;

use crate::{
    limits::PlacedLimits,
    named::{Named, Places},
    problem::Place,
    sight::Needed,
    when::Condition,
    window::Validity,
};

/// Every document of a set, and the warnings about them.
#[derive(Debug, Default)]
pub struct Documents {
    pub(crate) segments: Vec<Segment>,
    pub(crate) policies: Vec<SessionPolicy>,
    pub(crate) defaults: BTreeMap<Sensitivity, (Place, PlacedLimits)>,
    pub(crate) names: Names,
}

/// The names that documents have and use, those with an error in them included, so that what is wrong across documents
/// is found beside what is wrong in one.
#[derive(Debug, Default)]
pub(crate) struct Names {
    pub(crate) segments: Vec<(SegmentName, Place)>,
    pub(crate) policies: Vec<(PolicyName, Place)>,
    /// The segments that policies speak of.
    pub(crate) spoken_of: Vec<(SegmentName, Place)>,
    /// Whom policies name.
    pub(crate) named: Places,
    /// The members that need a door to see something.
    pub(crate) needed: Vec<Needed>,
    /// Documents whose kind cannot be told: each may be a segment.
    pub(crate) unclear: Vec<SegmentName>,
    /// Whether a segment is there, or may be in what cannot be told.
    pub(crate) some_segment: bool,
    /// Whether a whole source could not be read: any name may be in it.
    pub(crate) unread: bool,
}

impl Names {
    /// Any name may be in a source that could not be read, and a segment too.
    pub(crate) fn miss_a_source(&mut self) {
        self.unread = true;
        self.some_segment = true;
    }
}

impl Names {
    /// Notes whom a policy names; the first place is kept.
    pub(crate) fn name(&mut self, named: Named, name: String, place: Place) {
        self.named.entry((named, name)).or_insert(place);
    }
}

impl Documents {
    /// How many segments and policies there are.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        (self.segments.len(), self.policies.len())
    }
}

/// A segment as written.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) place: Place,
    pub(crate) name: SegmentName,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) sensitivity: Sensitivity,
    pub(crate) mode: Mode,
    pub(crate) access: Access,
    pub(crate) members: Vec<Member>,
    pub(crate) limits: PlacedLimits,
    pub(crate) on_adopt: OnAdopt,
    pub(crate) on_control_plane_loss: Option<LossRule>,
}

/// What belongs to a segment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Member {
    Cidr {
        net: IpNet,
        ports: Vec<u16>,
    },
    Service(ServiceName),
    Cgroup(String),
    Spiffe(String),
    Uid(u32),
    Pods {
        namespace: String,
        labels: BTreeMap<String, String>,
    },
}

/// A session policy as written.
#[derive(Debug)]
pub(crate) struct SessionPolicy {
    pub(crate) place: Place,
    pub(crate) name: PolicyName,
    pub(crate) admit: bool,
    pub(crate) from: From,
    pub(crate) to: To,
    pub(crate) when: Option<Arc<Condition>>,
    pub(crate) validity: Validity,
    pub(crate) ends_by: EndsBy,
    pub(crate) limits: PlacedLimits,
}

/// What sets the ends of a policy, where it has any.
#[derive(Debug)]
pub(crate) struct EndsBy {
    pub(crate) during: Arc<Provenance>,
    pub(crate) not_after: Arc<Provenance>,
}

impl EndsBy {
    /// What sets an end for this reason.
    pub(crate) fn reason(&self, reason: EndReason) -> &Arc<Provenance> {
        match reason {
            EndReason::GrantExpired => &self.not_after,
            _ => &self.during,
        }
    }

    /// The same as a set of this revision has them.
    pub(crate) fn stamped(&self, revision: Revision) -> Self {
        Self {
            during: Arc::new(self.during.stamped(revision)),
            not_after: Arc::new(self.not_after.stamped(revision)),
        }
    }
}

/// Whom a policy speaks of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct From {
    pub(crate) anyone: bool,
    pub(crate) allow_asserted: bool,
    pub(crate) selector: Selector,
    pub(crate) except: Selector,
}

/// Names, groups, places: inside a field any, between fields all (in `except`: any).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Selector {
    pub(crate) users: Option<Vec<Name>>,
    pub(crate) workloads: Option<Vec<Name>>,
    pub(crate) roles: Option<Vec<Name>>,
    pub(crate) groups: Option<Vec<String>>,
    pub(crate) segments: Option<Vec<SegmentName>>,
    pub(crate) cidrs: Option<Vec<IpNet>>,
}

/// `[ISSUER#]ID`; a bare name is local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Name {
    pub(crate) issuer: Issuer,
    pub(crate) id: String,
}

impl Name {
    /// None for half a name.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (issuer, id) = Issuer::of_name(text);
        let id = id.to_owned();
        (!issuer.0.is_empty() && !id.is_empty()).then_some(Self { issuer, id })
    }
}

/// Where to: where both are given, those of the segments that have one of the sensitivities.
#[derive(Clone, Debug, Default)]
pub(crate) struct To {
    pub(crate) segments: Vec<SegmentName>,
    pub(crate) sensitivities: Vec<Sensitivity>,
}

/// The earliest end of several, each with its reason.
pub(crate) type End = Option<(WallInstant, EndReason)>;
