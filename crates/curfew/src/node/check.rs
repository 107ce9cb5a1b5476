//! Whether a configuration is usable, before anything is started: the policy compiles, every upstream resolves, every
//! service is in a segment. Starting is the node's.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use curfew_audit::AuditError;
use curfew_control::StartError;
use curfew_enforcer::EngineError;
use curfew_gateway::service::{ServiceConfig, ServiceError};
use curfew_model::{InvalidName, Revision, Target};
use curfew_policy::{PolicySet, Problem};
use curfew_state::{CommitError, EmbeddedStore, Owner, StoreError};

use crate::{
    cli::chain,
    config::{self, Config, ConfigError, Draft, Placed, PlacedService, Service},
    policy::compiled_without,
    sources::{self, SourceError},
};

use super::{
    circle::circular,
    compiler::{self, Uncovered},
    desired::Desired,
    in_force, private, unbound,
};

/// Why a process does not start, or does not take a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration, or something that it names, is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The policy cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The policy is not valid.
    #[error("{0}\nthe policy is not valid: `curfew policy validate` shows this again")]
    Policy(String),
    /// The audit log is not usable.
    #[error("the audit log is not usable")]
    Audit(#[from] AuditError),
    /// The data directory is not usable.
    #[error("the data directory {} is not usable", path.display())]
    DataDir {
        /// Which.
        path: PathBuf,
        /// The system's word.
        source: std::io::Error,
    },
    /// Others may write into the data directory.
    #[error(
        "others may write into the data directory {} (mode {mode:04o}), and so swap tokens, keys and state: look whether what is in it is yours, then run `chmod 700 {}`",
        path.display(), path.display()
    )]
    OthersWrite {
        /// Which.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// Somebody else owns the data directory.
    #[error(
        "the data directory {} belongs to the user with the number {owner}, who may write into it, and so swap tokens, keys and state: run as that user, or look whether what is in it is yours, and then run `chown` on it and on what is in it",
        path.display()
    )]
    OthersOwn {
        /// Which.
        path: PathBuf,
        /// Their uid.
        owner: u32,
    },
    /// Threads or descriptors have run out.
    #[error("no threads or descriptors left: raise the limits on tasks and open files")]
    Resources(#[source] std::io::Error),
    /// The store is not usable.
    #[error("the state in the data directory is not usable")]
    Open(#[from] StoreError),
    /// The policy cannot be kept.
    #[error("the policy cannot be kept")]
    Commit(#[from] CommitError),
    /// The API does not start.
    #[error(transparent)]
    Control(#[from] StartError),
    /// A service does not start.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The host's name is none.
    #[error("the name of this host cannot name an enforcer")]
    Name(#[from] InvalidName),
    /// The engine does not take a binding.
    #[error("a binding is not taken")]
    Engine(#[from] EngineError),
}

/// A configuration with everything in it found to be usable; nothing is started yet.
pub struct Checked {
    pub config: Config,
    /// The policy's files as the store keeps them.
    pub policy: String,
    /// The gateway's services: their upstreams resolved, or as they run.
    pub services: Vec<ServiceConfig>,
    /// Warnings about the policy, as they are shown.
    pub warnings: Vec<String>,
    set: Option<PolicySet>,
}

impl Checked {
    /// Of whom the policy names and no binding of the configuration gives, of the proof that it asks of those whom one gives,
    /// and of what it needs and no door here sees, as it is shown. Others may have bindings, and other doors.
    pub fn unbound(&self) -> Vec<String> {
        let bindings = &self.config.bindings;
        let problems = self.set.as_ref();
        let problems = problems.map(|set| unbound::of(set, bindings, [], []));
        let problems = problems.into_iter().flatten();
        problems.map(|problem| problem.to_string()).collect()
    }
}

/// What a configuration is to be usable for.
pub enum Purpose {
    /// To start with it.
    Start,
    /// To take policy and bindings of it while a process runs.
    Reload(Running),
}

impl Purpose {
    /// Whether a segment in force contains a target: of a start, that of a service, which has to be in one.
    fn covers(&self, target: &Target) -> bool {
        match self {
            Self::Start => true,
            Self::Reload(running) => running.desired.covers(target),
        }
    }
}

/// What stays as it is in a process that takes a configuration: its services, beside certificate and data directory, and
/// the policy of other owners.
pub struct Running {
    pub services: Arc<[ServiceConfig]>,
    /// For the policy in force.
    pub desired: Arc<Desired>,
    pub policies: BTreeMap<Owner, Arc<str>>,
}

/// Reads a configuration and checks all of it in one pass: the file, the policy that it names, that every service is in a
/// segment; to start with it, that every upstream resolves, the certificate and the data directory too.
///
/// # Errors
/// [`NodeError`], before anything is started.
pub fn check(path: &Path, purpose: Purpose) -> Result<Checked, NodeError> {
    let mut draft = config::draft(path)?;
    let mut more = Vec::new();
    if matches!(purpose, Purpose::Start) {
        more.extend(unusable(&draft));
    }
    let mut set = None;
    let mut policy = None;
    if let Some(Placed { value, place }) = &draft.policy {
        match sources::read(value) {
            Ok(sources) => {
                if sources.unread.is_empty() {
                    match sources::pack(&sources.read) {
                        Ok(packed) => policy = Some(packed),
                        Err(error) => more.push(Problem::error(place, error.to_string())),
                    }
                }
                let others = others(&draft, &purpose).unwrap_or_else(|error| {
                    more.push(Problem::error(place, error));
                    Vec::new()
                });
                let problems;
                let all = [sources.read, others].concat();
                (set, problems) = compiled_without(&sources.unread, &all, Revision(0));
                more.extend(problems);
            }
            Err(error) => more.push(Problem::error(place, chain(&error))),
        }
    }
    let mut services = Vec::new();
    for placed in &draft.services {
        let service = match &purpose {
            Purpose::Start => resolved(&placed.service),
            // What runs leads where its name leads it. Another one comes with a restart.
            Purpose::Reload(running) => {
                match running
                    .services
                    .iter()
                    .find(|one| one.name == placed.service.name)
                {
                    Some(one) => Ok(one.clone()),
                    None => continue,
                }
            }
        };
        match service {
            Ok(service) => {
                let in_force = |target: &Target| purpose.covers(target);
                let uncovered = set.as_ref();
                let uncovered = uncovered.and_then(|set| Uncovered::of(set, &service, in_force));
                more.extend(uncovered.map(|why| in_no_segment(placed, why)));
                services.push(service);
            }
            Err(error) => {
                let name = &placed.service.upstream;
                let text = format!("the upstream {name} cannot be resolved: {error}");
                let problem = Problem::error(&placed.upstream, text);
                more.push(problem.help("correct it, or see to the resolver"));
            }
        }
    }
    if matches!(purpose, Purpose::Start) {
        let circular = circular(&services);
        let is = |placed: &&PlacedService| circular.contains(&placed.service.name);
        more.extend(draft.services.iter().filter(is).map(in_a_circle));
    }
    draft.problems.extend(more);
    draft.problems.sort_by(|a, b| a.place.cmp(&b.place));
    let warnings: Vec<String> = draft.problems.iter().map(ToString::to_string).collect();
    let config = draft.finish()?;
    Ok(Checked {
        config,
        // One that is not named, or cannot be read, is an error above.
        policy: policy.unwrap_or_default(),
        services,
        warnings,
        set,
    })
}

/// The policy documents of other owners than the files: of a process that runs, or that ran here before.
fn others(draft: &Draft, purpose: &Purpose) -> Result<Vec<sources::Source>, String> {
    let policies = match (purpose, &draft.data_dir) {
        (Purpose::Reload(running), _) => running.policies.clone(),
        (Purpose::Start, None) => BTreeMap::new(),
        (Purpose::Start, Some(data_dir)) => {
            // A state that cannot be read as it is may be one that opening it mends; if not, opening it says so.
            let kept = EmbeddedStore::policies(&data_dir.value);
            kept.as_ref().map(in_force::owners).unwrap_or_default()
        }
    };
    let mut all = Vec::new();
    for (owner, text) in policies {
        if owner != Owner::Files {
            all.extend(compiler::documents(owner, &text)?);
        }
    }
    Ok(all)
}

/// What would keep a process from starting, of the files that the configuration names.
fn unusable(draft: &Draft) -> impl Iterator<Item = Problem> {
    let certificate = draft.tls.as_ref().and_then(|Placed { value, place }| {
        let error = value.check().err()?;
        let problem = Problem::error(place, chain(&error));
        Some(problem.help("give a certificate chain and its own key, as PEM files"))
    });
    let data_dir = draft.data_dir.as_ref().and_then(|Placed { value, place }| {
        let error = private::check(value).err()?;
        Some(Problem::error(place, chain(&error)))
    });
    certificate.into_iter().chain(data_dir)
}

fn in_a_circle(placed: &PlacedService) -> Problem {
    let (name, upstream) = (&placed.service.name, &placed.service.upstream);
    let text = format!("the upstream {upstream} leads back to the service {name}");
    let problem = Problem::error(&placed.upstream, text);
    problem.or_else("one connection would open others without end")
}

fn in_no_segment(placed: &PlacedService, why: Uncovered) -> Problem {
    let (name, upstream) = (&placed.service.name, &placed.service.upstream);
    let text = format!("the service {name} (upstream {upstream}) is in no segment");
    let problem = match why {
        Uncovered::ByTheSet => {
            Problem::error(&placed.name, text).or_else("everybody would be refused")
        }
        Uncovered::Already => Problem::warning(&placed.name, format!("{text}, as before"))
            .or_else("its new sessions are refused"),
    };
    problem.help("add it to a segment's members")
}

/// The policy's files as the store keeps them.
///
/// # Errors
/// [`NodeError`] when they cannot be kept, or not be read: where some can, with what these hold, which may have changed.
pub fn packed(policy: &Path) -> Result<String, NodeError> {
    let sources = sources::read(policy)?;
    let read = sources.read.clone();
    match sources.whole() {
        Ok(all) => sources::pack(&all).map_err(|error| NodeError::Policy(error.to_string())),
        Err(unread) => Err(NodeError::Policy(format!("{unread}\n{read:?}"))),
    }
}

fn resolved(service: &Service) -> std::io::Result<ServiceConfig> {
    let upstreams = service.upstream.resolve()?;
    Ok(ServiceConfig {
        max_connections: service.max_connections,
        connect_timeout: service.connect_timeout,
        handshake_timeout: service.handshake_timeout,
        busy_is_active: service.busy_is_active,
        ..ServiceConfig::new(
            service.name.clone(),
            service.listen,
            upstreams,
            service.protocol,
        )
    })
}
