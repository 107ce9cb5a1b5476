//! Reading a `SessionPolicy`. What it means is decided elsewhere.

use std::sync::Arc;

use curfew_model::{PolicyName, SegmentName, ServiceName};

use crate::{
    document::{EndsBy, From, Name, Names, Selector, SessionPolicy, To},
    limits::{self, PlacedLimits},
    load::{Metadata, SENSITIVITIES},
    named::{self, Named},
    problem::Problem,
    read::{Map, Source},
    tree::Node,
    when::Condition,
    window::{self, Validity},
};

const SPEC: [&str; 8] = [
    "admit", "from", "to", "when", "during", "notAfter", "limits", "onSignal",
];
const SELECTOR: [&str; 6] = ["users", "workloads", "roles", "groups", "segments", "cidrs"];
const FROM: [&str; 9] = [
    "users",
    "workloads",
    "roles",
    "groups",
    "segments",
    "cidrs",
    "anyone",
    "allowAsserted",
    "except",
];
const SIGNALS: [&str; 14] = [
    "session-revoked",
    "credential-change",
    "token-claims-change",
    "assurance-lowered",
    "device-not-compliant",
    "risk-raised",
    "account-disabled",
    "account-enabled",
    "account-purged",
    "account-deleted",
    "credential-compromised",
    "identifier-changed",
    "logout",
    "token-inactive",
];

/// Reads a policy; none if something in it is an error, which is reported. Whom and what it names is noted.
pub(crate) fn read(
    source: &Source<'_>,
    metadata: Option<Metadata<PolicyName>>,
    spec: &Node,
    names: &mut Names,
) -> Option<SessionPolicy> {
    let map = source.map(spec, "a policy's `spec`", &SPEC)?;
    let from = map
        .need("from")
        .and_then(|node| read_from(source, node, names));
    let to = map.need("to").and_then(|node| read_to(source, node, names));
    let when = map.get("when").map(|node| read_when(source, node));
    let during = map.get("during").map(|node| window::read(source, node));
    let not_after = map.get("notAfter").map(|node| read_instant(source, node));
    if let Some(node) = map.get("onSignal") {
        read_on_signal(source, node);
    }
    let admit = map.flag("admit").unwrap_or(true);
    let name = metadata
        .as_ref()
        .map_or("", |metadata| metadata.name.as_str());
    let document = format!("SessionPolicy/{name}");
    let by = |field: &str| {
        let node = map.get(field).unwrap_or(spec);
        limits::written(source, node, &document, &format!("spec.{field}"))
    };
    let ends_by = EndsBy {
        during: by("during"),
        not_after: by("notAfter"),
    };
    let limits = map
        .get("limits")
        .map_or_else(PlacedLimits::default, |node| {
            limits::read(source, node, &document, "spec.limits")
        });
    if !admit && map.get("limits").is_none() {
        let problem = Problem::warning(
            &source.place(map.get("admit").unwrap_or(spec)),
            "this policy neither admits nor limits",
        );
        source.report(
            problem
                .or_else("it changes nothing")
                .help("give it `limits`, or leave `admit: false` out"),
        );
    }
    let Metadata { name, place, .. } = metadata?;
    let validity = Validity {
        during: flattened(during)?,
        not_after: flattened(not_after)?,
    };
    Some(SessionPolicy {
        place,
        name,
        admit,
        from: from?,
        to: to?,
        when: flattened(when)?,
        validity,
        ends_by,
        limits,
    })
}

/// A field that was given has to have been readable.
fn flattened<T>(given: Option<Option<T>>) -> Option<Option<T>> {
    match given {
        None => Some(None),
        Some(read) => read.map(Some),
    }
}

fn read_from(source: &Source<'_>, node: &Node, names: &mut Names) -> Option<From> {
    let map = source.map(node, "`from`", &FROM)?;
    let anyone = map.flag("anyone").unwrap_or(false);
    let selector = read_selector(&map, names);
    let selects = SELECTOR.iter().any(|field| map.get(field).is_some());
    if anyone && selects {
        let problem = Problem::error(
            &source.place(node),
            "`anyone` stands beside a narrower selection",
        );
        source.report(
            problem
                .or_else("everyone would be meant")
                .help("leave one of the two out"),
        );
    }
    if !anyone && !selects {
        let problem = Problem::error(&source.place(node), "`from` selects nobody");
        source.report(problem.help(
            "name users, workloads, roles, groups, segments or cidrs, or write `anyone: true`",
        ));
    }
    let except = map
        .get("except")
        .and_then(|node| source.map(node, "`except`", &SELECTOR))
        .map(|map| read_selector(&map, names))
        .unwrap_or_default();
    Some(From {
        anyone,
        allow_asserted: map.flag("allowAsserted").unwrap_or(false),
        selector,
        except,
    })
}

fn read_selector(map: &Map<'_, '_>, names: &mut Names) -> Selector {
    let source = map.source;
    let mut subjects = |field: &str, named: Option<Named>| {
        let texts = source.placed_texts(map.get(field)?, &format!("`{field}`"));
        let subject = |(text, node): (&str, &Node)| {
            let Some(name) = Name::parse(text) else {
                let message = format!("`{field}`: {text:?} is half a name: write ID or ISSUER#ID");
                source.error(node, message);
                return None;
            };
            match named {
                Some(named) => names.name(
                    named,
                    named::name(&name.issuer, &name.id),
                    source.place(node),
                ),
                None => check_role(source, node, &name.id),
            }
            Some(name)
        };
        Some(texts.into_iter().filter_map(subject).collect())
    };
    let users = subjects("users", Some(Named::User));
    let workloads = subjects("workloads", Some(Named::Workload));
    let roles = subjects("roles", None);
    let groups = map.get("groups").map(|node| {
        let group = |(text, node): (&str, &Node)| {
            names.name(Named::Group, text.to_owned(), source.place(node));
            text.to_owned()
        };
        let texts = source.placed_texts(node, "`groups`");
        texts.into_iter().map(group).collect()
    });
    Selector {
        users,
        workloads,
        roles,
        groups,
        segments: map
            .get("segments")
            .map(|node| read_segments(source, node, names)),
        cidrs: map.get("cidrs").map(|node| {
            source
                .list(node, "`cidrs`")
                .iter()
                .filter_map(|node| source.cidr(node, "a cidr"))
                .collect()
        }),
    }
}

/// Doors give roles by service.
fn check_role(source: &Source<'_>, node: &Node, role: &str) {
    let parts = role.split_once('/');
    if parts.is_none_or(|(service, name)| ServiceName::new(service).is_err() || name.is_empty()) {
        let message = format!("the role {role:?} is of no service: write it SERVICE/NAME");
        let problem = Problem::error(&source.place(node), message);
        source.report(
            problem
                .or_else("no session would ever have it")
                .help("name the service that the role logs in to, like payments-db/postgres"),
        );
    }
}

fn read_segments(source: &Source<'_>, node: &Node, names: &mut Names) -> Vec<SegmentName> {
    let mut segment = |node: &Node| {
        let name: SegmentName = source.parsed(node, "a segment's name")?;
        names.spoken_of.push((name.clone(), source.place(node)));
        Some(name)
    };
    source
        .list(node, "`segments`")
        .iter()
        .filter_map(&mut segment)
        .collect()
}

fn read_to(source: &Source<'_>, node: &Node, names: &mut Names) -> Option<To> {
    let map = source.map(node, "`to`", &["segments", "sensitivities"])?;
    if map.get("segments").is_none() && map.get("sensitivities").is_none() {
        source.error(node, "`to` leads nowhere: name segments or sensitivities");
        return None;
    }
    let word = |node: &Node| source.word(node, "a sensitivity", &SENSITIVITIES);
    Some(To {
        segments: map
            .get("segments")
            .map(|node| read_segments(source, node, names))
            .unwrap_or_default(),
        sensitivities: map
            .get("sensitivities")
            .map(|node| {
                source
                    .list(node, "`sensitivities`")
                    .iter()
                    .filter_map(word)
                    .collect()
            })
            .unwrap_or_default(),
    })
}

fn read_when(source: &Source<'_>, node: &Node) -> Option<Arc<Condition>> {
    let text = source.text(node, "`when`")?;
    match Condition::compile(text) {
        Ok(condition) => Some(Arc::new(condition)),
        Err(wrong) => {
            for message in wrong {
                let problem = Problem::error(&source.place(node), format!("`when`: {message}"));
                source.report(
                    problem
                        .or_else("the condition would not do what it says")
                        .help(
                            "write it like `subject.risk in ['low', 'medium'] && device.compliant`",
                        ),
                );
            }
            None
        }
    }
}

fn read_instant(source: &Source<'_>, node: &Node) -> Option<curfew_model::WallInstant> {
    let text = source.text(node, "`notAfter`")?;
    match text.parse::<jiff::Timestamp>() {
        Ok(timestamp) => Some(curfew_model::WallInstant(timestamp.as_millisecond())),
        Err(_) => {
            source.error(
                node,
                format!("`notAfter` is {text:?}: write an instant like 2027-01-31T00:00:00Z, at most 9999-12-30T22:00:00Z"),
            );
            None
        }
    }
}

/// Checks the overrides of signals' effects; no source of signals exists yet that could act on them.
fn read_on_signal(source: &Source<'_>, node: &Node) {
    for node in source.list(node, "`onSignal`") {
        let Some(map) = source.map(node, "an `onSignal` entry", &["signal", "effect", "to"]) else {
            continue;
        };
        if let Some(signal) = map.need("signal") {
            source.word(signal, "`signal`", &SIGNALS.map(|signal| (signal, ())));
        }
        let effects =
            ["close", "shorten", "reauth", "reevaluate", "none"].map(|effect| (effect, effect));
        let effect = map
            .need("effect")
            .and_then(|node| source.word(node, "`effect`", &effects));
        match (effect, map.get("to")) {
            (Some("shorten"), Some(to)) => {
                source.duration(to, "`to`");
            }
            (Some(_), Some(to)) => source.error(to, "`to` goes with `effect: shorten` only"),
            _ => {}
        }
    }
    let problem = Problem::warning(
        &source.place(node),
        "`onSignal` is read and checked, but no signal arrives yet",
    );
    source.report(problem.or_else("these effects do not happen"));
}
