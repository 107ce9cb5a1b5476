//! Documents to a policy set: names resolved, limits merged with their defaults, indexes built. Deciding is elsewhere.

use std::{
    collections::{BTreeMap, HashMap, HashSet, hash_map::Entry},
    fmt::Display,
    hash::Hash,
    sync::Arc,
};

use curfew_model::{
    Access, LossRule, Mode, OnAdopt, Provenance, Revision, SegmentName, Sensitivity, ServiceName,
};

use crate::{
    document::{Documents, Member, Names, Segment, SessionPolicy, To},
    limits::PlacedLimits,
    named::Places,
    net::NetIndex,
    problem::{Place, Problem, nearest},
    sight::Needed,
    when::{AttributeSet, Condition},
};

/// Unknown segments that a known one is looked for: each takes a look at all names.
const MAX_GUESSES: usize = 100;

/// A segment ready to be decided about.
#[derive(Debug)]
pub(crate) struct CompiledSegment {
    pub(crate) name: SegmentName,
    pub(crate) place: Place,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) sensitivity: Sensitivity,
    pub(crate) mode: Mode,
    pub(crate) access: Access,
    pub(crate) on_adopt: OnAdopt,
    pub(crate) on_control_plane_loss: LossRule,
    /// The sensitivity's defaults, replaced by the segment's own.
    pub(crate) limits: PlacedLimits,
    /// What sets that a reconnect needs proof where the sensitivity asks for it and the subject can give it.
    proof_by_default: Option<Arc<Provenance>>,
    /// The policies that name it, by index, in the order of their names.
    pub(crate) named_by: Vec<usize>,
}

impl CompiledSegment {
    /// What sets that a reconnect needs proof by default: neither the segment nor the set's defaults say otherwise.
    pub(crate) fn proof_by_default(&self) -> Option<&Arc<Provenance>> {
        let by_default = self.proof_by_default.as_ref();
        by_default.filter(|_| self.limits.reconnect.is_none())
    }
}

/// A compiled policy set: immutable, and stamped with the revision of the desired state that holds it.
#[derive(Debug)]
pub struct PolicySet {
    pub(crate) revision: Revision,
    /// In the order of their names.
    pub(crate) segments: Vec<CompiledSegment>,
    /// In the order of their names.
    pub(crate) policies: Vec<SessionPolicy>,
    /// The policies that lead to every segment of a sensitivity, by index, in the order of their names.
    by_sensitivity: HashMap<Sensitivity, Vec<usize>>,
    pub(crate) by_service: HashMap<ServiceName, Vec<usize>>,
    pub(crate) by_net: NetIndex,
    /// Members that are told by an identity: SPIFFE ids, cgroups, uids.
    pub(crate) by_identity: Vec<(Member, usize)>,
    /// The attributes that any condition reads.
    pub(crate) conditions_read: AttributeSet,
    /// Whom the policies name.
    pub(crate) named: Places,
    /// The members that need a door to see something.
    pub(crate) needed: Vec<Needed>,
}

impl PolicySet {
    /// The policies that lead to every segment of a sensitivity.
    pub(crate) fn leading_to_all(&self, sensitivity: Sensitivity) -> &[usize] {
        self.by_sensitivity
            .get(&sensitivity)
            .map_or(&[], Vec::as_slice)
    }

    /// The policies that lead to a segment, in the order of their names.
    pub(crate) fn leading_to(&self, segment: &CompiledSegment) -> impl Iterator<Item = usize> {
        let mut named = segment.named_by.iter().copied().peekable();
        let all = self.leading_to_all(segment.sensitivity);
        let mut all = all.iter().copied().peekable();
        std::iter::from_fn(move || match (named.peek(), all.peek()) {
            (Some(one), Some(other)) if one < other => named.next(),
            (Some(_), None) => named.next(),
            _ => all.next(),
        })
    }
}

/// Compiles documents.
///
/// # Errors
/// Every problem across documents: names given twice, segments that do not exist, a set without documents.
pub fn compile(mut documents: Documents, revision: Revision) -> Result<PolicySet, Vec<Problem>> {
    let mut names = std::mem::take(&mut documents.names);
    let named = std::mem::take(&mut names.named);
    let needed = std::mem::take(&mut names.needed);
    let problems = across(names);
    if !problems.is_empty() {
        return Err(problems);
    }
    documents.segments.sort_by(|a, b| a.name.cmp(&b.name));
    documents.policies.sort_by(|a, b| a.name.cmp(&b.name));
    let leads = lead(&documents);
    Ok(PolicySet {
        named,
        needed,
        ..build(documents, leads, revision)
    })
}

/// What is wrong across documents, those with an error in them included. Of what could not be read, nothing is said.
fn across(names: Names) -> Vec<Problem> {
    let mut problems = Vec::new();
    if !names.some_segment {
        problems.push(
            Problem::error(&Place::whole("policy set"), "the set has no segment")
                .or_else("nothing would be limited or refused")
                .help("name the folder that holds the policy documents"),
        );
    }
    unique("segment", &names.segments, &mut problems);
    unique("policy", &names.policies, &mut problems);
    if !names.unread {
        let named = names.segments.iter().map(|(name, _)| name);
        let known: HashSet<&SegmentName> = named.chain(&names.unclear).collect();
        let missing = names
            .spoken_of
            .iter()
            .filter(|(name, _)| !known.contains(name));
        for (number, (name, place)) in missing.enumerate() {
            let guesses = (number < MAX_GUESSES).then(|| known.iter().map(|name| name.as_str()));
            let near = guesses.and_then(|guesses| nearest(name.as_str(), guesses));
            problems.push(unknown_segment(name, place, near));
        }
    }
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    problems
}

fn unique<N: Display + Eq + Hash>(what: &str, names: &[(N, Place)], problems: &mut Vec<Problem>) {
    let mut seen: HashMap<&N, &Place> = HashMap::new();
    for (name, place) in names {
        match seen.entry(name) {
            Entry::Vacant(free) => drop(free.insert(place)),
            Entry::Occupied(first) => problems.push(
                Problem::twice(place, format_args!("the {what} `{name}` is"), first.get())
                    .help("names are unique in a set: rename one of them"),
            ),
        }
    }
}

/// Where policies lead. One that names no segment is listed by sensitivity, not once more for every segment.
#[derive(Debug)]
struct Leads {
    /// For each segment, the policies that name it.
    named: Vec<Vec<usize>>,
    /// The policies that lead to all segments of a sensitivity.
    by_sensitivity: HashMap<Sensitivity, Vec<usize>>,
}

fn lead(documents: &Documents) -> Leads {
    let index: HashMap<&SegmentName, usize> = documents
        .segments
        .iter()
        .enumerate()
        .map(|(index, segment)| (&segment.name, index))
        .collect();
    let mut named: Vec<Vec<usize>> = documents.segments.iter().map(|_| Vec::new()).collect();
    let mut by_sensitivity: HashMap<Sensitivity, Vec<usize>> = HashMap::new();
    let add = |lead: &mut Vec<usize>, number| {
        if lead.last() != Some(&number) {
            lead.push(number);
        }
    };
    for (number, policy) in documents.policies.iter().enumerate() {
        let To {
            segments,
            sensitivities,
        } = &policy.to;
        let is_of = |index: &&usize| {
            let segment = documents.segments.get(**index);
            sensitivities.is_empty()
                || segment.is_some_and(|segment| sensitivities.contains(&segment.sensitivity))
        };
        let indexes = segments.iter().filter_map(|name| index.get(name));
        for segment in indexes.filter(is_of) {
            if let Some(lead) = named.get_mut(*segment) {
                add(lead, number);
            }
        }
        for word in sensitivities.iter().filter(|_| segments.is_empty()) {
            add(by_sensitivity.entry(*word).or_default(), number);
        }
    }
    Leads {
        named,
        by_sensitivity,
    }
}

fn unknown_segment(name: &SegmentName, place: &Place, near: Option<&str>) -> Problem {
    Problem::error(place, format!("there is no segment `{name}` in this set"))
        .or_else("the policy would never match there")
        .help("add the segment, or correct the name")
        .meant(near)
}

fn build(documents: Documents, leads: Leads, revision: Revision) -> PolicySet {
    let conditions = documents.policies.iter().filter_map(|p| p.when.as_deref());
    let mut set = PolicySet {
        revision,
        conditions_read: conditions.map(Condition::reads).collect(),
        segments: Vec::with_capacity(documents.segments.len()),
        policies: documents.policies,
        by_sensitivity: leads.by_sensitivity,
        by_service: HashMap::new(),
        by_net: NetIndex::default(),
        by_identity: Vec::new(),
        named: Places::new(),
        needed: Vec::new(),
    };
    let mut defaults: HashMap<Sensitivity, PlacedLimits> = HashMap::new();
    for sensitivity in Sensitivity::ALL {
        let built_in = PlacedLimits::built_in(sensitivity);
        let limits = match documents.defaults.get(&sensitivity) {
            None => built_in,
            Some((_, over)) => built_in.replaced_by(over),
        };
        defaults.insert(sensitivity, limits.stamped(revision));
    }
    for policy in &mut set.policies {
        policy.limits = std::mem::take(&mut policy.limits).stamped(revision);
        policy.ends_by = policy.ends_by.stamped(revision);
    }
    let segments = documents.segments.into_iter().zip(leads.named);
    for (number, (segment, named_by)) in segments.enumerate() {
        for member in &segment.members {
            match member {
                Member::Cidr { net, ports } => set.by_net.add(*net, ports, number),
                Member::Service(service) => match set.by_service.entry(service.clone()) {
                    Entry::Occupied(mut there) => there.get_mut().push(number),
                    Entry::Vacant(free) => drop(free.insert(vec![number])),
                },
                other => set.by_identity.push((other.clone(), number)),
            }
        }
        let default = defaults
            .get(&segment.sensitivity)
            .cloned()
            .unwrap_or_default();
        set.segments
            .push(compiled(segment, &default, named_by, revision));
    }
    set
}

fn compiled(
    segment: Segment,
    default: &PlacedLimits,
    named_by: Vec<usize>,
    revision: Revision,
) -> CompiledSegment {
    let loss = || LossRule::default_for(segment.sensitivity);
    CompiledSegment {
        limits: default.replaced_by(&segment.limits.stamped(revision)),
        proof_by_default: (segment.sensitivity >= Sensitivity::High)
            .then(|| PlacedLimits::built_in_by(segment.sensitivity, "reconnect"))
            .map(|by| Arc::new(by.stamped(revision))),
        on_control_plane_loss: segment.on_control_plane_loss.unwrap_or_else(loss),
        name: segment.name,
        place: segment.place,
        labels: segment.labels,
        sensitivity: segment.sensitivity,
        mode: segment.mode,
        access: segment.access,
        on_adopt: segment.on_adopt,
        named_by,
    }
}

#[cfg(test)]
mod tests {
    use curfew_testkit::document;

    use super::*;
    use crate::load;

    #[test]
    fn a_policy_by_sensitivity_is_not_listed_for_every_segment() {
        const MANY: usize = 10_000;
        let many = |kind: &str, spec: &str| -> String {
            let one = |n| document(kind, &format!("n{n}"), &spec.replace('#', &format!("{n}")));
            (0..MANY).map(one).collect()
        };
        let segments = many(
            "Segment",
            "sensitivity: low, access: open, members: [{service: s#}]",
        );
        let policies = many(
            "SessionPolicy",
            "from: {anyone: true}, to: {sensitivities: [low, high]}",
        );
        let loaded = load([("segments", &*segments), ("policies", &*policies)]);
        assert_eq!(loaded.problems, []);
        let set = compile(loaded.documents, Revision(1)).unwrap();
        let named: usize = set.segments.iter().map(|s| s.named_by.len()).sum();
        let by_sensitivity: usize = set.by_sensitivity.values().map(Vec::len).sum();
        assert_eq!((named, by_sensitivity), (0, 2 * MANY));
        assert!(set.vain().is_empty() && set.unprovable(&[]).is_empty());
        assert!(set.difference(&set).segments.is_empty());
        let all = set.segments.first().map(|s| set.leading_to(s).count());
        assert_eq!(all, Some(MANY));
    }

    #[test]
    fn policies_stand_in_the_order_of_their_names_however_they_lead() {
        let (named, all) = ("segments: [x]", "sensitivities: [low]");
        let mut text = document("Segment", "x", "sensitivity: low, members: [{service: x}]");
        for (name, to) in [("a", all), ("b", named), ("c", named), ("d", all)] {
            let spec = format!("from: {{anyone: true}}, to: {{{to}}}");
            text += &document("SessionPolicy", name, &spec);
        }
        let set = compile(load([("p.yaml", &*text)]).documents, Revision(1)).unwrap();
        let segment = set.segments.first().unwrap();
        assert_eq!(set.leading_to(segment).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }
}
