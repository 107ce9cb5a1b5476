//! Limits as documents write them, each with its place, and the defaults by sensitivity.

use std::{sync::Arc, time::Duration};

use curfew_model::{Credential, Provenance, Reconnect, Revision, Sensitivity, parse_duration};

use crate::{
    problem::{Problem, nearest},
    read::Source,
    tree::{Node, Value},
};

const FIELDS: [&str; 7] = [
    "maxLifetime",
    "idleTimeout",
    "reauthEvery",
    "reconnect",
    "maxConcurrent",
    "warnBefore",
    "credential",
];

/// A value and what set it.
pub(crate) type Set<T> = Option<(T, Arc<Provenance>)>;

/// The limits of one rule, each with its provenance.
#[derive(Clone, Debug, Default)]
pub(crate) struct PlacedLimits {
    pub(crate) max_lifetime: Set<Duration>,
    pub(crate) idle_timeout: Set<Duration>,
    pub(crate) reauth_every: Set<Duration>,
    pub(crate) reconnect: Set<Reconnect>,
    pub(crate) max_concurrent: Set<u32>,
    pub(crate) warn_before: Set<Duration>,
    pub(crate) credential: Set<Credential>,
}

impl PlacedLimits {
    /// `self` with every field that `over` sets replaced by it.
    pub(crate) fn replaced_by(&self, over: &Self) -> Self {
        let over = over.clone();
        Self {
            max_lifetime: over.max_lifetime.or_else(|| self.max_lifetime.clone()),
            idle_timeout: over.idle_timeout.or_else(|| self.idle_timeout.clone()),
            reauth_every: over.reauth_every.or_else(|| self.reauth_every.clone()),
            reconnect: over.reconnect.or_else(|| self.reconnect.clone()),
            max_concurrent: over.max_concurrent.or_else(|| self.max_concurrent.clone()),
            warn_before: over.warn_before.or_else(|| self.warn_before.clone()),
            credential: over.credential.or_else(|| self.credential.clone()),
        }
    }

    /// The same as a set of this revision has them.
    pub(crate) fn stamped(self, revision: Revision) -> Self {
        Self {
            max_lifetime: stamped(self.max_lifetime, revision),
            idle_timeout: stamped(self.idle_timeout, revision),
            reauth_every: stamped(self.reauth_every, revision),
            reconnect: stamped(self.reconnect, revision),
            max_concurrent: stamped(self.max_concurrent, revision),
            warn_before: stamped(self.warn_before, revision),
            credential: stamped(self.credential, revision),
        }
    }

    /// What set a built-in default.
    pub(crate) fn built_in_by(sensitivity: Sensitivity, field: &str) -> Arc<Provenance> {
        Arc::new(Provenance::Document {
            document: format!("Defaults/{sensitivity}"),
            field: field.to_owned(),
            place: None,
            revision: Revision::default(),
        })
    }

    /// The built-in default of a sensitivity.
    pub(crate) fn built_in(sensitivity: Sensitivity) -> Self {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        let (lifetime, idle) = match sensitivity {
            Sensitivity::Low => (minutes(12 * 60), minutes(60)),
            Sensitivity::Moderate => (minutes(8 * 60), minutes(30)),
            Sensitivity::High => (minutes(60), minutes(15)),
            Sensitivity::Critical => (minutes(15), minutes(5)),
        };
        let credential = if sensitivity >= Sensitivity::High {
            Credential::Cap
        } else {
            Credential::Entry
        };
        let by = |field: &str| Self::built_in_by(sensitivity, field);
        Self {
            max_lifetime: Some((lifetime, by("maxLifetime"))),
            idle_timeout: Some((idle, by("idleTimeout"))),
            credential: Some((credential, by("credential"))),
            ..Self::default()
        }
    }
}

fn stamped<T>(set: Set<T>, revision: Revision) -> Set<T> {
    set.map(|(value, by)| (value, Arc::new(by.stamped(revision))))
}

/// What stands in a field of a document.
pub(crate) fn written(
    source: &Source<'_>,
    node: &Node,
    document: &str,
    field: &str,
) -> Arc<Provenance> {
    let place = source.place(node);
    Arc::new(Provenance::Document {
        document: document.to_owned(),
        field: field.to_owned(),
        place: Some(format!("{}:{}", place.file, place.line)),
        revision: Revision::default(),
    })
}

/// Reads a `limits` map of `document`, whose field is `path`.
pub(crate) fn read(source: &Source<'_>, node: &Node, document: &str, path: &str) -> PlacedLimits {
    let Some(map) = source.map(node, path, &FIELDS) else {
        return PlacedLimits::default();
    };
    let by = |field: &str, node: &Node| written(source, node, document, &format!("{path}.{field}"));
    let duration = |field: &str| {
        let node = map.get(field)?;
        Some((
            source.duration(node, &format!("`{field}`"))?,
            by(field, node),
        ))
    };
    let limits = PlacedLimits {
        max_lifetime: duration("maxLifetime"),
        idle_timeout: duration("idleTimeout"),
        reauth_every: duration("reauthEvery"),
        warn_before: duration("warnBefore"),
        reconnect: map
            .get("reconnect")
            .and_then(|node| Some((read_reconnect(source, node)?, by("reconnect", node)))),
        max_concurrent: map
            .get("maxConcurrent")
            .and_then(|node| Some((read_count(source, node)?, by("maxConcurrent", node)))),
        credential: map.get("credential").and_then(|node| {
            let words = [("cap", Credential::Cap), ("entry", Credential::Entry)];
            Some((
                source.word(node, "`credential`", &words)?,
                by("credential", node),
            ))
        }),
    };
    let place = |field: &str| {
        map.get(field)
            .map_or_else(|| source.place(node), |node| source.place(node))
    };
    if let (Some((idle, _)), Some((lifetime, _))) = (&limits.idle_timeout, &limits.max_lifetime)
        && idle >= lifetime
    {
        let message = "`idleTimeout` is not shorter than `maxLifetime`";
        source.report(
            Problem::warning(&place("idleTimeout"), message)
                .or_else("no session ever ends by being idle"),
        );
    }
    if let (Some((warn, _)), Some((lifetime, _))) = (&limits.warn_before, &limits.max_lifetime)
        && warn >= lifetime
    {
        let message = "`warnBefore` is not shorter than `maxLifetime`";
        source.report(
            Problem::warning(&place("warnBefore"), message)
                .or_else("every session is warned as it opens"),
        );
    }
    limits
}

fn read_reconnect(source: &Source<'_>, node: &Node) -> Option<Reconnect> {
    match &node.value {
        Value::Text(text) if text == "allow" => Some(Reconnect::default()),
        Value::Text(text) if text == "proof" => Some(Reconnect {
            proof: true,
            ..Reconnect::default()
        }),
        Value::Text(text) if parse_duration(text).is_err() => {
            let message =
                format!("`reconnect` is {text:?}: write allow, proof, or a duration like 60s");
            let problem = Problem::error(&source.place(node), message);
            source.report(problem.meant(nearest(text, ["allow", "proof"])));
            None
        }
        _ => source
            .duration(node, "`reconnect`")
            .map(|wait| Reconnect { wait, proof: false }),
    }
}

fn read_count(source: &Source<'_>, node: &Node) -> Option<u32> {
    match node.value {
        Value::Int(0) => {
            let problem = Problem::error(&source.place(node), "`maxConcurrent` is 0");
            source.report(
                problem
                    .or_else("nobody could ever connect")
                    .help("write a policy that admits nobody instead"),
            );
            None
        }
        _ => source.number(node, "`maxConcurrent`", 1..=u32::MAX),
    }
}
