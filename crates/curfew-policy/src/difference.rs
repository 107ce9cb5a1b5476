//! What two policy sets decide differently, by content and without places, so that only the sessions that a change
//! concerns are looked at again. It may name too much, never too little. Looking at sessions is the engine's.

use std::collections::{HashMap, HashSet};

use curfew_model::{
    PolicyName, Provenance, Revision, SegmentName, Sensitivity, ServiceName, Target,
};
use ipnet::IpNet;

use crate::{
    compile::{CompiledSegment, PolicySet},
    document::{Member, SessionPolicy},
    limits::{PlacedLimits, Set},
};

/// Where two sets may decide differently about a session. An empty one: nowhere.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// Destination segments that changed, or that a policy leads to which changed, came or went.
    pub segments: Vec<SegmentName>,
    /// Services that came into a segment or left one.
    pub services: Vec<ServiceName>,
    /// Networks that came into a segment or left one.
    pub nets: Vec<IpNet>,
}

impl Difference {
    /// Whether a target may have come into a segment or left one.
    #[must_use]
    pub fn moves(&self, target: &Target) -> bool {
        let service = target.service.as_ref();
        service.is_some_and(|service| self.services.contains(service))
            || target.addresses().any(|address| {
                let ip = address.ip().to_canonical();
                self.nets.iter().any(|net| net.contains(&ip))
            })
    }
}

impl PolicySet {
    /// Where this set may decide differently than the one `before` it.
    #[must_use]
    pub fn difference(&self, before: &Self) -> Difference {
        let (new, old) = (self.memberships(), before.memberships());
        let moved: Vec<&(Member, &SegmentName)> = new.symmetric_difference(&old).collect();
        let mut difference = Difference::default();
        for (member, _) in &moved {
            match member {
                Member::Cidr { net, .. } => difference.nets.push(*net),
                Member::Service(service) => difference.services.push(service.clone()),
                // These tell where a session comes from, not where it goes.
                Member::Cgroup(_) | Member::Spiffe(_) | Member::Uid(_) | Member::Pods { .. } => {}
            }
        }
        let moved: HashSet<&SegmentName> = moved.iter().map(|(_, segment)| *segment).collect();
        let policies = changed_policies(self, before, &moved);
        let is_same_lead = |now: &[usize], then: &[usize]| {
            self.names(now).eq(before.names(then))
                && !self.names(now).any(|name| policies.contains(name))
        };
        let is_same =
            |of: &Sensitivity| is_same_lead(self.leading_to_all(*of), before.leading_to_all(*of));
        let same: Vec<Sensitivity> = Sensitivity::ALL.into_iter().filter(is_same).collect();
        let mut others: HashMap<&SegmentName, &CompiledSegment> =
            before.segments.iter().map(|s| (&s.name, s)).collect();
        for segment in &self.segments {
            let same = others.remove(&segment.name).is_some_and(|other| {
                is_same_segment(segment, other)
                    && same.contains(&segment.sensitivity)
                    && is_same_lead(&segment.named_by, &other.named_by)
            });
            if !same {
                difference.segments.push(segment.name.clone());
            }
        }
        difference.segments.extend(others.into_keys().cloned());
        difference
    }

    /// The names of policies.
    fn names<'s>(&'s self, policies: &'s [usize]) -> impl Iterator<Item = &'s PolicyName> {
        let policies = policies.iter();
        policies.filter_map(|number| self.policies.get(*number).map(|policy| &policy.name))
    }

    fn memberships(&self) -> HashSet<(Member, &SegmentName)> {
        let by_service = self.by_service.iter().flat_map(|(service, segments)| {
            let member = Member::Service(service.clone());
            segments
                .iter()
                .map(move |segment| (member.clone(), *segment))
        });
        let by_net = self.by_net.all().map(|(net, range)| {
            let ports = range.ports().to_vec();
            (Member::Cidr { net, ports }, range.segment)
        });
        by_service
            .chain(by_net)
            .chain(self.by_identity.iter().cloned())
            .filter_map(|(member, index)| Some((member, &self.segments.get(index)?.name)))
            .collect()
    }
}

/// The policies that came or went, that say something else, or that ask whether a session comes from a segment that has
/// other members now.
fn changed_policies<'s>(
    after: &'s PolicySet,
    before: &'s PolicySet,
    moved: &HashSet<&SegmentName>,
) -> HashSet<&'s PolicyName> {
    let mut others: HashMap<&PolicyName, &SessionPolicy> =
        before.policies.iter().map(|p| (&p.name, p)).collect();
    let mut changed = HashSet::new();
    for policy in &after.policies {
        let same = others.remove(&policy.name).is_some_and(|other| {
            is_same_policy(policy, other) && !sources(policy).any(|name| moved.contains(name))
        });
        if !same {
            changed.insert(&policy.name);
        }
    }
    changed.extend(others.into_keys());
    changed
}

/// The segments that a policy asks whether a session comes from.
fn sources(policy: &SessionPolicy) -> impl Iterator<Item = &SegmentName> {
    let selectors = [&policy.from.selector, &policy.from.except];
    selectors
        .into_iter()
        .flat_map(|selector| selector.segments.iter().flatten())
}

/// Whether two segments of one name are the same but for their members and the policies that lead there.
fn is_same_segment(one: &CompiledSegment, other: &CompiledSegment) -> bool {
    one.sensitivity == other.sensitivity
        && one.mode == other.mode
        && one.access == other.access
        && one.on_adopt == other.on_adopt
        && one.on_control_plane_loss == other.on_control_plane_loss
        && is_same_limits(&one.limits, &other.limits)
}

/// Whether two policies of one name say the same of a session; where they lead is compared by segment.
fn is_same_policy(one: &SessionPolicy, other: &SessionPolicy) -> bool {
    let same_condition = match (&one.when, &other.when) {
        (None, None) => true,
        (Some(one), Some(other)) => one.is_same(other),
        _ => false,
    };
    same_condition
        && one.admit == other.admit
        && one.from == other.from
        && one.validity == other.validity
        && is_same_limits(&one.limits, &other.limits)
}

fn is_same_limits(one: &PlacedLimits, other: &PlacedLimits) -> bool {
    is_same(&one.max_lifetime, &other.max_lifetime)
        && is_same(&one.idle_timeout, &other.idle_timeout)
        && is_same(&one.reauth_every, &other.reauth_every)
        && is_same(&one.reconnect, &other.reconnect)
        && is_same(&one.max_concurrent, &other.max_concurrent)
        && is_same(&one.warn_before, &other.warn_before)
        && is_same(&one.credential, &other.credential)
}

/// Whether two limits have one value from one field, wherever that stands.
fn is_same<T: PartialEq>(one: &Set<T>, other: &Set<T>) -> bool {
    match (one, other) {
        (None, None) => true,
        (Some((one, from)), Some((other, other_from))) => {
            one == other && written(from) == written(other_from)
        }
        _ => false,
    }
}

/// A provenance without its place and revision.
fn written(by: &Provenance) -> Provenance {
    match by {
        Provenance::Document {
            document, field, ..
        } => Provenance::Document {
            document: document.clone(),
            field: field.clone(),
            place: None,
            revision: Revision::default(),
        },
        other => other.clone(),
    }
}
