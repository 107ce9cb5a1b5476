//! Sources to documents: every problem of every source is found in one pass. Names across documents are for `compile`.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fmt::Display,
    str::FromStr,
};

use curfew_model::{
    Access, LiveOnLoss, LossRule, Mode, NewOnLoss, OnAdopt, PolicyName, SegmentName, Sensitivity,
    ServiceName,
};

use crate::{
    document::{Documents, Member, Names, Segment},
    limits::{self, PlacedLimits},
    policy_document,
    problem::{Place, Problem, Severity},
    read::{Map, Source},
    room::with_room,
    sight::{Needed, Sight},
    tree::{Node, Value},
};

/// The version of the documents.
const API_VERSION: &str = "curfew.dev/v1alpha1";
/// Documents of one set.
const MAX_DOCUMENTS: usize = 100_000;

pub(crate) const SENSITIVITIES: [(&str, Sensitivity); 4] = [
    ("low", Sensitivity::Low),
    ("moderate", Sensitivity::Moderate),
    ("high", Sensitivity::High),
    ("critical", Sensitivity::Critical),
];

/// What was read, and what was found on the way.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The documents without an error in them.
    pub documents: Documents,
    /// Errors and warnings, by place.
    pub problems: Vec<Problem>,
}

impl Loaded {
    /// Whether an error was found.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems
            .iter()
            .any(|problem| problem.severity == Severity::Error)
    }

    /// Counts a source in that could not be read at all: any document may be in it.
    pub fn unread(&mut self, problem: Problem) {
        self.documents.names.miss_a_source();
        self.problems.push(problem);
    }
}

/// Reads documents from `(name, text)` sources: YAML or JSON, several documents each. Nesting is bounded, and needs no
/// stack of the caller's.
#[must_use]
pub fn load<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Loaded {
    let sources: Vec<(&str, &str)> = sources.into_iter().collect();
    with_room(|| load_here(&sources)).unwrap_or_else(|problem| Loaded {
        problems: vec![*problem],
        ..Loaded::default()
    })
}

/// Whether these sources hold no document: nothing but comments and separators. One that cannot be read counts as one.
#[must_use]
pub fn is_empty<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> bool {
    let sources: Vec<(&str, &str)> = sources.into_iter().collect();
    let empty = |(file, text): &(&str, &str)| {
        let nodes = Source::new((*file).into(), text).documents();
        nodes.is_some_and(|nodes| nodes.iter().all(is_blank))
    };
    with_room(|| sources.iter().all(empty)).unwrap_or(false)
}

/// Whether nothing stands between two separators.
fn is_blank(node: &Node) -> bool {
    matches!(node.value, Value::Null)
}

fn load_here(sources: &[(&str, &str)]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut count = 0usize;
    for &(file, text) in sources {
        let source = Source::new(file.into(), text);
        let nodes = source.documents();
        count = count.saturating_add(nodes.as_ref().map_or(0, Vec::len));
        match nodes {
            Some(nodes) if count <= MAX_DOCUMENTS => {
                for node in nodes.iter().filter(|node| !is_blank(node)) {
                    read_document(&source, node, &mut loaded.documents);
                }
            }
            unread => {
                if unread.is_some() {
                    source.report(Problem::error(
                        &source.whole(),
                        format!("more than {MAX_DOCUMENTS} documents in one set"),
                    ));
                }
                loaded.documents.names.miss_a_source();
            }
        }
        loaded.problems.extend(source.into_problems());
    }
    loaded.problems.sort_by(|a, b| a.place.cmp(&b.place));
    loaded
}

/// Whether a document is the configuration of a process, given by mistake.
fn is_configuration(node: &Node) -> bool {
    let Value::Map(entries) = &node.value else {
        return false;
    };
    let has = |names: &[&str]| {
        let is_one = |(key, _): &(Node, Node)| matches!(&key.value, Value::Text(name) if names.contains(&name.as_str()));
        entries.iter().any(is_one)
    };
    has(&["data_dir", "gateway"]) && !has(&["apiVersion", "kind"])
}

fn read_document(source: &Source<'_>, node: &Node, into: &mut Documents) {
    if is_configuration(node) {
        into.names.some_segment = true;
        let problem = Problem::error(
            &source.place(node),
            "a configuration of `curfew run` where policy documents belong",
        );
        let check = format!(
            "check it with `curfew run --check -c {}`, which checks the policy that it names too",
            source.whole()
        );
        source.report(problem.or_else("nothing in it would be policy").help(check));
        return;
    }
    let fields = ["apiVersion", "kind", "metadata", "spec"];
    let Some(map) = source.map(node, "a document", &fields) else {
        into.names.some_segment = true;
        return;
    };
    if let Some(version) = map.need("apiVersion") {
        source.word(version, "`apiVersion`", &[(API_VERSION, ())]);
    }
    let kinds = [
        ("Segment", Kind::Segment),
        ("SessionPolicy", Kind::SessionPolicy),
        ("Defaults", Kind::Defaults),
    ];
    let kind = map
        .need("kind")
        .and_then(|node| source.word(node, "`kind`", &kinds));
    let spec = map.need("spec");
    match kind {
        Some(Kind::Segment) => {
            into.names.some_segment = true;
            let metadata = read_metadata(&map, &mut into.names.segments);
            let segment =
                spec.and_then(|spec| read_segment(source, metadata, spec, &mut into.names));
            into.segments.extend(segment);
        }
        Some(Kind::SessionPolicy) => {
            let metadata = read_metadata(&map, &mut into.names.policies);
            let names = &mut into.names;
            let policy = spec.and_then(|spec| policy_document::read(source, metadata, spec, names));
            into.policies.extend(policy);
        }
        Some(Kind::Defaults) => {
            // Nothing refers to it by its name.
            if map.get("metadata").is_some() {
                read_metadata::<PolicyName>(&map, &mut Vec::new());
            }
            if let Some(spec) = spec {
                read_defaults(source, spec, into);
            }
        }
        None => {
            into.names.some_segment = true;
            let metadata = read_metadata(&map, &mut Vec::new());
            into.names
                .unclear
                .extend(metadata.map(|metadata| metadata.name));
        }
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Segment,
    SessionPolicy,
    Defaults,
}

/// What a document's `metadata` says.
pub(crate) struct Metadata<N> {
    pub(crate) name: N,
    /// Where the name stands, without its text.
    pub(crate) place: Place,
    pub(crate) labels: BTreeMap<String, String>,
}

/// Reads `metadata`; the name is noted in `names`.
fn read_metadata<N: Clone + FromStr<Err: Display>>(
    map: &Map<'_, '_>,
    names: &mut Vec<(N, Place)>,
) -> Option<Metadata<N>> {
    let metadata = map
        .source
        .map(map.need("metadata")?, "`metadata`", &["name", "labels"])?;
    let labels = metadata
        .get("labels")
        .map(|node| read_labels(map.source, node, "`labels`"))
        .unwrap_or_default();
    let node = metadata.need("name")?;
    let name: N = map.source.parsed(node, "`name`")?;
    let place = map.source.place(node);
    names.push((name.clone(), place.clone()));
    Some(Metadata {
        name,
        place: place.bare(),
        labels,
    })
}

fn read_labels(source: &Source<'_>, node: &Node, what: &str) -> BTreeMap<String, String> {
    let Value::Map(entries) = &node.value else {
        source.error(
            node,
            format!(
                "{what} is {}: it has to be a map of texts",
                node.value.kind()
            ),
        );
        return BTreeMap::new();
    };
    let entry = |(key, value): &(Node, Node)| {
        Some((
            source.text(key, "a label")?.to_owned(),
            source.text(value, "a label's value")?.to_owned(),
        ))
    };
    entries.iter().filter_map(entry).collect()
}

const SEGMENT: [&str; 9] = [
    "sensitivity",
    "mode",
    "access",
    "members",
    "limits",
    "onAdopt",
    "onControlPlaneLoss",
    "onSignalLoss",
    "onPolicyEngineLoss",
];

fn read_segment(
    source: &Source<'_>,
    metadata: Option<Metadata<SegmentName>>,
    spec: &Node,
    names: &mut Names,
) -> Option<Segment> {
    let map = source.map(spec, "a segment's `spec`", &SEGMENT)?;
    let sensitivity = map
        .need("sensitivity")
        .and_then(|node| source.word(node, "`sensitivity`", &SENSITIVITIES));
    let mode = map.get("mode").map(|node| {
        source.word(
            node,
            "`mode`",
            &[("enforce", Mode::Enforce), ("audit", Mode::Audit)],
        )
    });
    let access = map.get("access").map(|node| {
        source.word(
            node,
            "`access`",
            &[("policy", Access::Policy), ("open", Access::Open)],
        )
    });
    let adopt = [("lease", OnAdopt::Lease), ("close", OnAdopt::Close)];
    let on_adopt = map
        .get("onAdopt")
        .map(|node| source.word(node, "`onAdopt`", &adopt));
    let members = map
        .need("members")
        .map(|node| {
            source
                .list(node, "`members`")
                .iter()
                .filter_map(|node| read_member(source, node, names))
                .collect()
        })
        .unwrap_or_default();
    let loss = |field: &str| {
        // Without a sensitivity there is no segment; what is written is checked all the same.
        let sensitivity = sensitivity.unwrap_or(Sensitivity::Low);
        map.get(field)
            .and_then(|node| read_loss(source, node, field, sensitivity))
    };
    let on_control_plane_loss = loss("onControlPlaneLoss");
    for (field, what) in [
        ("onSignalLoss", "no source of signals"),
        ("onPolicyEngineLoss", "no external policy engine"),
    ] {
        if loss(field).is_some()
            && let Some(node) = map.get(field)
        {
            let problem = Problem::warning(
                &source.place(node),
                format!("`{field}` is checked, but there is {what} yet"),
            );
            source.report(problem.or_else("it does not happen"));
        }
    }
    let name = metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str());
    let document = format!("Segment/{name}");
    let limits = map
        .get("limits")
        .map_or_else(PlacedLimits::default, |node| {
            limits::read(source, node, &document, "spec.limits")
        });
    let Metadata {
        name,
        place,
        labels,
    } = metadata?;
    Some(Segment {
        place,
        name,
        labels,
        sensitivity: sensitivity?,
        mode: mode.unwrap_or(Some(Mode::default()))?,
        access: access.unwrap_or(Some(Access::default()))?,
        members,
        limits,
        on_adopt: on_adopt.unwrap_or(Some(OnAdopt::default()))?,
        on_control_plane_loss,
    })
}

fn read_member(source: &Source<'_>, node: &Node, names: &mut Names) -> Option<Member> {
    let fields = [
        "cidr", "ports", "service", "cgroup", "spiffe", "uid", "pods",
    ];
    let map = source.map(node, "a member", &fields)?;
    let given: Vec<&str> = fields
        .iter()
        .copied()
        .filter(|field| *field != "ports" && map.get(field).is_some())
        .collect();
    let [field] = given.as_slice() else {
        source.error(
            node,
            "a member needs exactly one of cidr, service, cgroup, spiffe, uid and pods",
        );
        return None;
    };
    if *field != "cidr" && map.get("ports").is_some() {
        source.error(node, "`ports` go with `cidr` only");
    }
    let value = map.get(field)?;
    if let Some(sight) = Sight::of(field) {
        let pattern = match &value.value {
            Value::Text(text) => Some(text.clone()),
            _ => None,
        };
        let place = source.place(value);
        names.needed.push(Needed {
            sight,
            pattern,
            place,
        });
    }
    match *field {
        "cidr" => {
            let ports = map
                .get("ports")
                .map(|node| read_ports(source, node))
                .unwrap_or_default();
            Some(Member::Cidr {
                net: source.cidr(value, "`cidr`")?,
                ports,
            })
        }
        "service" => source
            .parsed::<ServiceName>(value, "`service`")
            .map(Member::Service),
        "cgroup" => source.cgroup(value).map(Member::Cgroup),
        "spiffe" => {
            let id = source.text(value, "`spiffe`")?;
            let domain = id
                .strip_prefix("spiffe://")
                .and_then(|rest| rest.split('/').next());
            if domain.is_none_or(|domain| domain.is_empty() || domain.contains('*')) {
                source.error(value, format!("`spiffe` is {id:?}: it starts with spiffe:// and a trust domain without `*`"));
                return None;
            }
            Some(Member::Spiffe(id.to_owned()))
        }
        "uid" => source.uid(value).map(Member::Uid),
        _ => {
            let pods = source.map(value, "`pods`", &["namespace", "matchLabels"])?;
            let namespace = pods
                .need("namespace")
                .and_then(|node| source.filled(node, "`namespace`"))
                .map(str::to_owned);
            let labels = pods
                .get("matchLabels")
                .map(|node| read_labels(source, node, "`matchLabels`"))
                .unwrap_or_default();
            Some(Member::Pods {
                namespace: namespace?,
                labels,
            })
        }
    }
}

fn read_ports(source: &Source<'_>, node: &Node) -> Vec<u16> {
    source
        .list(node, "`ports`")
        .iter()
        .filter_map(|node| source.number(node, "a port", 1..=u16::MAX))
        .collect()
}

/// A loss rule, with what it leaves out taken from the sensitivity's.
fn read_loss(
    source: &Source<'_>,
    node: &Node,
    field: &str,
    sensitivity: Sensitivity,
) -> Option<LossRule> {
    let map = source.map(node, &format!("`{field}`"), &["after", "live", "new"])?;
    let default = LossRule::default_for(sensitivity);
    let live = [("keep", LiveOnLoss::Keep), ("close", LiveOnLoss::Close)];
    let new = [("allow", NewOnLoss::Allow), ("refuse", NewOnLoss::Refuse)];
    let after = map
        .get("after")
        .map_or(Some(default.after), |node| source.duration(node, "`after`"));
    let live = map.get("live").map_or(Some(default.live), |node| {
        source.word(node, "`live`", &live)
    });
    let new = map
        .get("new")
        .map_or(Some(default.new), |node| source.word(node, "`new`", &new));
    Some(LossRule {
        after: after?,
        live: live?,
        new: new?,
    })
}

fn read_defaults(source: &Source<'_>, spec: &Node, into: &mut Documents) {
    let words = SENSITIVITIES.map(|(word, _)| word);
    let Some(by) = source
        .map(spec, "a `spec` of defaults", &["sensitivities"])
        .and_then(|map| source.map(map.need("sensitivities")?, "`sensitivities`", &words))
    else {
        return;
    };
    for (word, sensitivity) in SENSITIVITIES {
        let Some(node) = by.get(word) else { continue };
        let read = limits::read(
            source,
            node,
            &format!("Defaults/{word}"),
            &format!("spec.sensitivities.{word}"),
        );
        let place = source.place(node);
        match into.defaults.entry(sensitivity) {
            Entry::Vacant(free) => drop(free.insert((place, read))),
            Entry::Occupied(first) => {
                let what = format_args!("the defaults of `{word}` are");
                source.report(Problem::twice(&place, what, &first.get().0));
            }
        }
    }
}
