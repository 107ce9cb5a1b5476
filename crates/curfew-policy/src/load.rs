//! Sources to documents: every problem of every source is found in one pass. Names across documents are for `compile`.

use std::{collections::BTreeMap, fmt::Display, str::FromStr, sync::Arc};

use curfew_model::{
    Access, LiveOnLoss, LossRule, Mode, NewOnLoss, OnAdopt, Sensitivity, ServiceName,
};

use crate::{
    document::{Documents, Member, Segment},
    limits::{self, PlacedLimits},
    policy_document,
    problem::{Place, Problem, Severity},
    read::{Map, Source},
    room::with_room,
    tree::{self, Node, Value},
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
}

/// Reads documents from `(name, text)` sources: YAML or JSON, several documents each. Nesting is bounded, and needs no
/// stack of the caller's.
#[must_use]
pub fn load<'a>(sources: impl IntoIterator<Item = (&'a str, &'a str)>) -> Loaded {
    let sources: Vec<(&str, &str)> = sources.into_iter().collect();
    with_room(|| load_here(&sources)).unwrap_or_else(|error| Loaded {
        problems: vec![
            Problem::error(&Place::default(), format!("not read: {error}"))
                .help("the system has no thread left: try again later"),
        ],
        ..Loaded::default()
    })
}

fn load_here(sources: &[(&str, &str)]) -> Loaded {
    let mut loaded = Loaded::default();
    let mut count = 0usize;
    for &(file, text) in sources {
        let file: Arc<str> = file.into();
        let nodes = match tree::parse(&file, text) {
            Ok(nodes) => nodes,
            Err(problem) => {
                let source = Source::new(file, text);
                source.report(*problem);
                loaded.problems.extend(source.into_problems());
                continue;
            }
        };
        count = count.saturating_add(nodes.len());
        let source = Source::new(Arc::clone(&file), text);
        if count > MAX_DOCUMENTS {
            let whole = Place {
                file,
                line: 0,
                column: 0,
            };
            source.report(Problem::error(
                &whole,
                format!("more than {MAX_DOCUMENTS} documents in one set"),
            ));
        } else {
            for node in nodes
                .iter()
                .filter(|node| !matches!(node.value, Value::Null))
            {
                read_document(&source, node, &mut loaded.documents);
            }
        }
        loaded.problems.extend(source.into_problems());
    }
    loaded.problems.sort_by(|a, b| a.place.cmp(&b.place));
    loaded
}

fn read_document(source: &Source<'_>, node: &Node, into: &mut Documents) {
    let Some(map) = source.map(
        node,
        "a document",
        &["apiVersion", "kind", "metadata", "spec"],
    ) else {
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
    let Some((kind, spec)) = kind.zip(map.need("spec")) else {
        return;
    };
    match kind {
        Kind::Segment => into.segments.extend(read_segment(source, &map, spec)),
        Kind::SessionPolicy => into
            .policies
            .extend(policy_document::read(source, &map, spec)),
        Kind::Defaults => read_defaults(source, spec, into),
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
    /// Where the name stands.
    pub(crate) place: Place,
    pub(crate) labels: BTreeMap<String, String>,
}

pub(crate) fn read_metadata<N: FromStr<Err: Display>>(map: &Map<'_, '_>) -> Option<Metadata<N>> {
    let metadata = map
        .source
        .map(map.need("metadata")?, "`metadata`", &["name", "labels"])?;
    let labels = metadata
        .get("labels")
        .map(|node| read_labels(map.source, node, "`labels`"))
        .unwrap_or_default();
    let node = metadata.need("name")?;
    Some(Metadata {
        name: map.source.parsed(node, "`name`")?,
        place: map.source.place(node),
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

fn read_segment(source: &Source<'_>, document: &Map<'_, '_>, spec: &Node) -> Option<Segment> {
    let metadata = read_metadata(document);
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
                .filter_map(|node| read_member(source, node))
                .collect()
        })
        .unwrap_or_default();
    let loss = |field: &str| {
        map.get(field)
            .and_then(|node| read_loss(source, node, field, sensitivity?))
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
    let Metadata {
        name,
        place,
        labels,
    } = metadata?;
    let document = format!("Segment/{name}");
    let limits = map
        .get("limits")
        .map_or_else(PlacedLimits::default, |node| {
            limits::read(source, node, &document, "spec.limits")
        });
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

fn read_member(source: &Source<'_>, node: &Node) -> Option<Member> {
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
    match *field {
        "cidr" => {
            let ports = map
                .get("ports")
                .map(|node| read_ports(source, node))
                .unwrap_or_default();
            Some(Member::Cidr {
                net: read_cidr(source, value)?,
                ports,
            })
        }
        "service" => source
            .parsed::<ServiceName>(value, "`service`")
            .map(Member::Service),
        "cgroup" => {
            let path = source.text(value, "`cgroup`")?;
            if !path.starts_with('/') {
                source.error(value, format!("`cgroup` is {path:?}: it is a path from the root, like /system.slice/x.service"));
                return None;
            }
            Some(Member::Cgroup(path.to_owned()))
        }
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
        "uid" => match value.value {
            Value::Int(uid) if u32::try_from(uid).is_ok() => {
                u32::try_from(uid).ok().map(Member::Uid)
            }
            ref other => {
                source.error(
                    value,
                    format!("`uid` is {}: it has to be a user's number", other.kind()),
                );
                None
            }
        },
        _ => {
            let pods = source.map(value, "`pods`", &["namespace", "matchLabels"])?;
            let namespace = pods
                .need("namespace")
                .and_then(|node| source.text(node, "`namespace`"))?
                .to_owned();
            let labels = pods
                .get("matchLabels")
                .map(|node| read_labels(source, node, "`matchLabels`"))
                .unwrap_or_default();
            Some(Member::Pods { namespace, labels })
        }
    }
}

/// A range, or a single address; host bits that are set are an error.
pub(crate) fn read_cidr(source: &Source<'_>, node: &Node) -> Option<ipnet::IpNet> {
    let text = source.text(node, "a cidr")?;
    let net = text.parse::<ipnet::IpNet>().or_else(|error| {
        text.parse::<std::net::IpAddr>()
            .map(ipnet::IpNet::from)
            .map_err(|_| error)
    });
    match net {
        Ok(net) if net.addr() == net.network() => Some(net),
        Ok(net) => {
            let problem = Problem::error(
                &source.place(node),
                format!("{text:?} has bits set behind its prefix"),
            );
            source.report(problem.help(format!(
                "write {} for the range, or {} for the address",
                net.trunc(),
                net.addr()
            )));
            None
        }
        Err(_) => {
            source.error(
                node,
                format!("{text:?} is neither a range like 10.20.0.0/24 nor an address"),
            );
            None
        }
    }
}

fn read_ports(source: &Source<'_>, node: &Node) -> Vec<u16> {
    let port = |node: &Node| match node.value {
        Value::Int(port) if (1..=65535).contains(&port) => u16::try_from(port).ok(),
        ref other => {
            source.error(
                node,
                format!("a port is {}: it has to be 1 to 65535", other.kind()),
            );
            None
        }
    };
    source
        .list(node, "`ports`")
        .iter()
        .filter_map(port)
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
    Some(LossRule {
        after: map.get("after").map_or(Some(default.after), |node| {
            limits::read_duration(source, node, "after")
        })?,
        live: map.get("live").map_or(Some(default.live), |node| {
            source.word(node, "`live`", &live)
        })?,
        new: map
            .get("new")
            .map_or(Some(default.new), |node| source.word(node, "`new`", &new))?,
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
        if into.defaults.insert(sensitivity, read).is_some() {
            source.error(
                node,
                format!("the defaults of `{word}` are given twice in this set"),
            );
        }
    }
}
