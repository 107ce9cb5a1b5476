//! The policy of every owner as one set: how `curfew-policy` serves the node and the API. Rules may not live here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use curfew_control::{Ceilings, Compile, Finding, Level, Segment, Source, Valid, unpack};
use curfew_gateway::service::ServiceConfig;
use curfew_model::{Revision, Target};
use curfew_policy::{Given, Place, PolicySet, Problem, SegmentSummary, Severity, check_statement};
use curfew_state::Owner;

use super::desired::Desired;
use crate::{doors, policy::compiled};

/// Compiles for the API of a node with these services.
pub struct Compiler {
    services: Vec<ServiceConfig>,
    desired: Arc<Desired>,
}

impl Compiler {
    pub fn new(services: &[ServiceConfig], desired: Arc<Desired>) -> Self {
        Self {
            services: services.to_vec(),
            desired,
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

/// Whether a set may be taken that has a service in no segment.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Uncovered {
    /// No: it is this set that leaves it out, and its sessions would end.
    ByTheSet,
    /// Yes: it is in no segment of the set in force either, as when its name leads elsewhere. That is no fault of these
    /// documents, and whoever answers for a name may keep none out of force.
    Already,
}

impl Uncovered {
    /// None where a segment of the set contains the service. `in_force` says whether one does now.
    pub fn of(
        set: &PolicySet,
        service: &ServiceConfig,
        in_force: impl Fn(&Target) -> bool,
    ) -> Option<Self> {
        let target = target(service);
        match set.covers(&target) {
            true => None,
            false if in_force(&target) => Some(Self::ByTheSet),
            false => Some(Self::Already),
        }
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
                let (uncovered, before): (Vec<Finding>, Vec<Finding>) =
                    (self.uncovered(&set)).partition(|finding| finding.level == Level::Error);
                findings.extend(before);
                Ok(Valid {
                    segments: set.segments().map(segment).collect(),
                    policies: set.policies().cloned().collect(),
                    warnings: findings,
                    uncovered,
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
    /// A finding for each service that a set has in no segment.
    fn uncovered(&self, set: &PolicySet) -> impl Iterator<Item = Finding> {
        self.services.iter().filter_map(|service| {
            let why = Uncovered::of(set, service, |target| self.desired.covers(target))?;
            Some(in_no_segment(service, why))
        })
    }
}

fn in_no_segment(service: &ServiceConfig, why: Uncovered) -> Finding {
    let name = &service.name;
    let (level, message, consequence) = match why {
        Uncovered::ByTheSet => (
            Level::Error,
            format!("the service {name} would be in no segment"),
            "everybody would be refused, and its sessions would end",
        ),
        Uncovered::Already => (
            Level::Warning,
            format!("the service {name} is in no segment, as before"),
            "its new sessions are refused",
        ),
    };
    Finding {
        level,
        path: String::new(),
        line: 0,
        column: 0,
        message,
        excerpt: None,
        consequence: Some(consequence.to_owned()),
        help: Some("add it to a segment's members".to_owned()),
        taken: false,
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

#[cfg(test)]
mod tests {
    use curfew_gateway::protocol::Protocol;
    use curfew_model::UpstreamAddress;

    use super::*;

    #[test]
    fn a_name_that_leaves_its_segment_keeps_no_documents_out_of_force() {
        let set = |member: &str| {
            let text = format!(
                "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {{name: db}}\n\
                 spec: {{sensitivity: low, access: open, members: [{{{member}}}]}}\n"
            );
            compiled(&[("p.yaml".to_owned(), text)], Revision(1))
                .0
                .unwrap()
        };
        let at = |text: &str| UpstreamAddress::Tcp(text.parse().unwrap());
        let name = "db".parse().unwrap();
        let listen = "127.0.0.1:0".parse().unwrap();
        let service = ServiceConfig::new(name, listen, vec![at("10.0.0.1:5432")], Protocol::Tcp);
        let (near, far) = (set("cidr: 10.0.0.0/24"), set("cidr: 10.0.9.0/24"));
        let by = |new: &PolicySet, in_force: &PolicySet| {
            Uncovered::of(new, &service, |target| in_force.covers(target))
        };
        assert!(by(&near, &near).is_none());
        assert!(by(&far, &near) == Some(Uncovered::ByTheSet));
        // It moves into the other, and then out of both.
        service.upstreams.replace(&[at("10.0.9.1:5432")]);
        assert!(by(&far, &near).is_none());
        assert!(by(&near, &far) == Some(Uncovered::ByTheSet));
        service.upstreams.replace(&[at("10.0.5.1:5432")]);
        assert!(by(&near, &far) == Some(Uncovered::Already));
        assert!(by(&set("service: db"), &far).is_none());
    }
}
