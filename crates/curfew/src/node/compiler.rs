//! The policy of every owner as one set: how `curfew-policy` serves the node and the API. Rules may not live here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use curfew_control::{Ceilings, Compile, Finding, Level, Segment, Source, Valid, unpack};
use curfew_gateway::service::ServiceConfig;
use curfew_model::{Revision, ServiceName, Target};
use curfew_policy::{Given, Place, PolicySet, Problem, SegmentSummary, Severity, check_statement};
use curfew_state::Owner;

use crate::{doors, policy::compiled};

/// Compiles for the API of a node with these services.
#[derive(Clone, Debug)]
pub struct Compiler {
    services: Vec<ServiceConfig>,
}

impl Compiler {
    pub fn new(services: &[ServiceConfig]) -> Self {
        Self {
            services: services.to_vec(),
        }
    }
}

/// Where a service leads, as policy sees it.
pub fn target(service: &ServiceConfig) -> Target {
    Target {
        service: Some(service.name.clone()),
        upstreams: service.upstreams.now(),
    }
}

impl Compile for Compiler {
    fn validate(&self, sources: &[(Owner, Source)]) -> Result<Valid, Vec<Finding>> {
        let (owners, named): (Vec<Owner>, Vec<(String, String)>) = sources
            .iter()
            .cloned()
            .map(|(owner, source)| (owner, named(owner, source)))
            .unzip();
        let (set, problems) = compiled(&named, Revision(0));
        let owners: HashMap<&str, Owner> = named
            .iter()
            .zip(&owners)
            .map(|((name, _), owner)| (name.as_str(), *owner))
            .collect();
        let owner = |place: &Place| owners.get(&*place.file);
        let mut findings: Vec<Finding> = problems
            .into_iter()
            .map(|problem| Finding {
                taken: (problem.taken.as_ref())
                    .is_some_and(|first| owner(first) != owner(&problem.place)),
                ..finding(problem)
            })
            .collect();
        match set {
            None => Err(findings),
            Some(set) => {
                let unseen = set.unseen(doors::sees(), &Given::default());
                findings.extend(unseen.into_iter().map(finding));
                Ok(Valid {
                    segments: set.segments().map(segment).collect(),
                    policies: set.policies().cloned().collect(),
                    warnings: findings,
                    uncovered: self.uncovered(&set),
                })
            }
        }
    }

    fn is_empty(&self, sources: &[Source]) -> bool {
        let texts = sources.iter();
        curfew_policy::is_empty(texts.map(|source| (source.path.as_str(), source.text.as_str())))
    }

    fn check_attribute(&self, name: &str, value: &str) -> Result<(), String> {
        check_statement(name, value)
    }
}

impl Compiler {
    fn uncovered(&self, set: &PolicySet) -> Vec<Finding> {
        let services = self.services.iter();
        let uncovered = services.filter(|service| !set.covers(&target(service)));
        let names = uncovered.map(|service| &service.name);
        let of = |name: &ServiceName| Finding {
            level: Level::Error,
            path: String::new(),
            line: 0,
            column: 0,
            message: format!("the service {name} would be in no segment"),
            excerpt: None,
            consequence: Some("everybody would be refused, and its sessions would end".to_owned()),
            help: Some("add it to a segment's members".to_owned()),
            taken: false,
        };
        names.map(of).collect()
    }
}

fn finding(problem: Problem) -> Finding {
    Finding {
        level: match problem.severity {
            Severity::Error => Level::Error,
            Severity::Warning => Level::Warning,
        },
        path: problem.place.file.to_string(),
        line: problem.place.line,
        column: problem.place.column,
        message: problem.message,
        excerpt: problem.place.excerpt.as_deref().map(str::to_owned),
        consequence: problem.consequence,
        help: problem.help,
        taken: false,
    }
}

fn segment(summary: SegmentSummary<'_>) -> Segment {
    Segment {
        name: summary.name.clone(),
        labels: summary.labels.clone(),
        sensitivity: summary.sensitivity,
        mode: summary.mode,
        access: summary.access,
        ceilings: Ceilings {
            max_lifetime: summary.max_lifetime,
            idle_timeout: summary.idle_timeout,
            reauth_every: summary.reauth_every,
            max_concurrent: summary.max_concurrent,
            warn_before: summary.warn_before,
        },
        place: Some(summary.place),
    }
}

/// A document's name, which says whose it is, and its text: the paths of the API are its callers'.
fn named(owner: Owner, source: Source) -> (String, String) {
    match owner {
        Owner::Files => (source.path, source.text),
        Owner::Api => (format!("api:{}", source.path), source.text),
    }
}

/// The documents of an owner's text, as the store keeps it.
///
/// # Errors
/// Why it cannot be read.
pub fn documents(owner: Owner, text: &str) -> Result<Vec<(String, String)>, String> {
    let unpacked = unpack(text);
    let sources =
        unpacked.map_err(|error| format!("a stored policy set cannot be read: {error}"))?;
    Ok(sources
        .into_iter()
        .map(|source| named(owner, source))
        .collect())
}

/// The set that the owners' texts make together, as the store keeps them.
///
/// # Errors
/// The problems as they are shown.
pub fn union(owners: &BTreeMap<Owner, Arc<str>>, revision: Revision) -> Result<PolicySet, String> {
    let mut sources = Vec::new();
    for (owner, text) in owners {
        sources.extend(documents(*owner, text)?);
    }
    let (set, problems) = compiled(&sources, revision);
    set.ok_or_else(|| {
        problems
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    })
}
