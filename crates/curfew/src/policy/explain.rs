//! `curfew policy explain`: how a session would be decided, offline, from flags and from `curfew.yaml`. Deciding may not
//! live here, nor who a client is bound to.

use std::{error::Error, net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use clap::Args;
use curfew_enforcer::{Bounds, Changes, Engine, EngineError, Input, Keeper, Owner, Peer};
use curfew_gateway::protocol::Protocol;
use curfew_model::{
    Binding, Clock, DeviceId, Facts, Identity, Issuer, Kind, Now, Proof, Revision, ServiceName,
    Target, UpstreamAddress, WallInstant,
};
use curfew_policy::{Outcome, check_statement, nearest};
use serde_json::json;

use super::{attribute, compiled};
use crate::{
    cli::{FINDINGS, number},
    clock::SystemClock,
    config::{self, Config},
    show::Output,
    sources,
};

/// The arguments of `policy explain`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew policy explain -c curfew.yaml --service payments-db --client 10.0.0.5
  curfew policy explain ./policy --service payments-db --user alice --group dba
  curfew policy explain ./policy --target 10.20.0.1:5432 --client 192.0.2.1 --output json

With -c the configuration says what is left out: the policy, where the service leads, and who the client is by its
bindings. What a running server was told through its API is not known here: `curfew sessions explain` asks it.

Exit codes: 0 admitted; 3 refused, or no segment contains the target; 1 not decided, as the documents are not valid.")]
pub struct Explain {
    /// A policy file, or a folder of them [default: `policy.path` of the configuration]
    #[arg(required_unless_present = "config")]
    path: Option<PathBuf>,
    /// The configuration that says what is left out; flags win over it
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The client's address, like 192.0.2.1 or 192.0.2.1:4000
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = address)]
    client: SocketAddr,
    /// The user id that owns the client's socket on this host, which the configuration may bind
    #[arg(long, value_name = "UID", requires = "config", value_parser = number(0..=u32::MAX))]
    uid: Option<u32>,
    /// The gateway's service that it connects to
    #[arg(long, value_name = "NAME", required_unless_present = "target")]
    service: Option<ServiceName>,
    /// The address that it leads to, like 10.0.0.1:5432 [default: the `upstream` of the configuration's service]
    #[arg(long, value_name = "ADDRESS:PORT")]
    target: Option<SocketAddr>,
    /// The user that is bound to the client, as ID or ISSUER#ID; bindings of the configuration do not count then
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// The workload that is bound to the client, as ID or ISSUER#ID; bindings do not count then either
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    /// The login name inside the protocol, as SERVICE/NAME; only asserted by the client
    #[arg(long, value_name = "SERVICE/NAME")]
    role: Option<String>,
    /// A group of the subject, instead of those of its bindings; may be given several times
    #[arg(long = "group", value_name = "NAME")]
    groups: Vec<String>,
    /// The client's device
    #[arg(long, value_name = "NAME")]
    device: Option<DeviceId>,
    /// An attribute for `when`, like subject.risk=low; may be given several times
    #[arg(long = "attribute", value_name = "NAME=VALUE", value_parser = known_attribute)]
    attributes: Vec<(String, String)>,
    /// The time, like 2026-11-24T12:00:00Z; now, if it is left out
    #[arg(long, value_name = "INSTANT", value_parser = instant)]
    at: Option<WallInstant>,
    /// The form of the answer
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .or_else(|_| {
            text.parse::<std::net::IpAddr>()
                .map(|ip| SocketAddr::new(ip, 0))
        })
        .map_err(|_| "is no address: write it like 192.0.2.1 or [2001:db8::1]:4000".to_owned())
}

fn known_attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = attribute(text)?;
    check_statement(&name, &value)?;
    Ok((name, value))
}

fn instant(text: &str) -> Result<WallInstant, String> {
    serde_json::from_value(json!(text))
        .map_err(|_| "is no instant: write it like 2026-11-24T12:00:00Z".to_owned())
}

impl Explain {
    /// Explains, and gives the exit code that says how it was decided.
    ///
    /// # Errors
    /// When the documents or the configuration cannot be read, or are not valid.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let config = self.config.as_deref().map(config::load).transpose()?;
        let policy = config.as_ref().map(|config| &config.policy);
        // One of the two is required.
        let path = self.path.as_ref().or(policy).cloned().unwrap_or_default();
        let sources = sources::read(&path)?.whole()?;
        let (set, problems) = compiled(&sources, Revision(0));
        let Some(set) = set else {
            problems.iter().for_each(|problem| eprintln!("{problem}\n"));
            return Err(format!(
                "{}: not valid, so nothing can be decided by it",
                path.display()
            )
            .into());
        };
        let set = Arc::new(set);
        let now = self.at.map_or_else(
            || SystemClock.now(),
            |wall| Now {
                wall,
                ..SystemClock.now()
            },
        );
        let output = self.output;
        let mut facts = self.facts(now);
        if let Some(config) = &config {
            if self.target.is_none()
                && let Some(service) = &facts.target.service
            {
                facts.target.upstreams = upstreams(config, service)?.into();
            }
            if self.user.is_none() && self.workload.is_none() {
                let engine = Engine::new(set.clone(), Bounds::default(), now);
                facts = attributed(engine, &config.bindings, facts, self.uid, now)?;
            }
            if self.role.is_none() {
                assume_a_role(config, &mut facts);
            }
            if !self.groups.is_empty() {
                facts.groups = self.groups;
            }
        }
        let explanation = set.explain(&facts, now);
        output.show(&serde_json::to_value(&explanation)?, |_| {
            format!("{explanation}\n")
        })?;
        Ok(match explanation.outcome {
            Outcome::Admitted => ExitCode::SUCCESS,
            Outcome::Refused | Outcome::NoSegment => ExitCode::from(FINDINGS),
        })
    }

    /// What the flags say.
    fn facts(&self, now: Now) -> Facts {
        let mut identities: Vec<Identity> = [
            identity(Proof::Bound, Kind::User, self.user.as_deref()),
            identity(Proof::Bound, Kind::Workload, self.workload.as_deref()),
            identity(Proof::Asserted, Kind::Role, self.role.as_deref()),
        ]
        .into_iter()
        .flatten()
        .collect();
        identities.sort();
        Facts {
            identities,
            groups: self.groups.clone(),
            device: self.device.clone(),
            attributes: self.attributes.iter().cloned().collect(),
            client: self.client,
            target: Target {
                service: self.service.clone(),
                upstreams: self.target.map(UpstreamAddress::Tcp).into_iter().collect(),
            },
            opened_at: now.boot,
            proved_at: None,
            credential_until: None,
            binding_until: None,
            ambiguous: false,
        }
    }
}

/// An identity as a flag names it.
fn identity(proof: Proof, kind: Kind, name: Option<&str>) -> Option<Identity> {
    let name = name?;
    let (issuer, id) = Issuer::of_name(name);
    Some(Identity {
        proof,
        kind,
        issuer,
        id: id.to_owned(),
        display: None,
    })
}

/// A client that logs in inside its protocol comes with a role in any case: with one that no policy names, if none is
/// given.
fn assume_a_role(config: &Config, facts: &mut Facts) {
    let is_asked =
        |service: &&config::Service| Some(&service.name) == facts.target.service.as_ref();
    let service = config.services.iter().find(is_asked);
    if let Some(service) = service.filter(|service| service.protocol == Protocol::Postgres) {
        let name = format!("{}/*", service.name);
        eprintln!(
            "note: clients of {} also carry role:{}/NAME, the name that they log in with: --role says which; one that \
             no policy names is assumed",
            service.name, service.name
        );
        facts
            .identities
            .extend(identity(Proof::Asserted, Kind::Role, Some(&name)));
        facts.identities.sort();
    }
}

/// Where a service of the configuration leads.
fn upstreams(config: &Config, name: &ServiceName) -> Result<Vec<UpstreamAddress>, Box<dyn Error>> {
    let known = config.services.iter();
    let Some(service) = known.clone().find(|service| service.name == *name) else {
        let meant = match nearest(name.as_str(), known.map(|service| service.name.as_str())) {
            Some(near) => format!("did you mean {near}?"),
            None => "correct it, or say with --target where it leads".to_owned(),
        };
        return Err(format!("the configuration has no service {name}: {meant}").into());
    };
    service.upstream.resolve().map_err(|error| {
        format!(
            "the upstream {} of {name} cannot be resolved: {error}: say with --target where it leads",
            service.upstream
        )
        .into()
    })
}

/// The facts with what bindings say of the client, by the engine's own way of looking them up.
fn attributed(
    mut engine: Engine,
    bindings: &[Binding],
    facts: Facts,
    uid: Option<u32>,
    now: Now,
) -> Result<Facts, EngineError> {
    let bound = bindings.iter().cloned();
    let changes = Changes {
        bound: bound.map(|binding| (Keeper::Config, binding)).collect(),
        ..Changes::default()
    };
    engine.handle(Input::Changes(changes), now)?;
    Ok(engine.attributed(
        facts,
        &Peer {
            owner: uid.map_or(Owner::Elsewhere, Owner::Uid),
            ..Peer::default()
        },
    ))
}
