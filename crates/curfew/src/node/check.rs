//! Whether a configuration is usable, before anything is started: the policy compiles, every upstream resolves, every
//! service is in a segment. Starting is the node's.

use std::path::PathBuf;

use curfew_audit::AuditError;
use curfew_control::{Source, StartError, pack};
use curfew_enforcer::EngineError;
use curfew_gateway::{
    connect::UpstreamAddress,
    service::{ServiceConfig, ServiceError},
};
use curfew_model::{InvalidName, Revision, Target};
use curfew_state::{CommitError, StoreError};

use crate::{
    config::{self, Config},
    policy::compiled,
    sources::{self, SourceError},
};

/// Why a process does not start, or does not take a new configuration.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The policy cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The policy is not valid.
    #[error("{0}\nthe policy is not valid: `curfew policy validate` shows this again")]
    Policy(String),
    /// A service is in no segment.
    #[error(
        "service {service} (upstream {upstream}) is in no segment: nothing would limit it; add it to a segment's members"
    )]
    NoSegment {
        /// Which.
        service: String,
        /// Where it leads.
        upstream: String,
    },
    /// An upstream's name is not known.
    #[error("service {service}: the upstream {upstream:?} cannot be resolved")]
    Resolve {
        /// Whose.
        service: String,
        /// The name.
        upstream: config::Upstream,
        /// The resolver's word.
        source: std::io::Error,
    },
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
    /// The gateway's services, their upstreams resolved.
    pub services: Vec<ServiceConfig>,
    /// Warnings about the policy, as they are shown.
    pub warnings: Vec<String>,
}

/// Checks a configuration: the policy compiles, every upstream resolves, every service is in a segment.
///
/// # Errors
/// [`NodeError`], before anything is started.
pub fn check(config: Config) -> Result<Checked, NodeError> {
    let sources = sources::read(&config.policy)?;
    let (set, problems) = compiled(&sources, Revision(0));
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let Some(set) = set else {
        return Err(NodeError::Policy(problems.join("\n")));
    };
    let services = config
        .services
        .iter()
        .map(resolved)
        .collect::<Result<Vec<_>, _>>()?;
    for (service, named) in services.iter().zip(&config.services) {
        let address = service.upstreams.iter().find_map(tcp_address);
        let target = Target {
            service: Some(service.name.clone()),
            address,
        };
        if !set.covers(&target) {
            let upstream = format!("{:?}", named.upstream);
            return Err(NodeError::NoSegment {
                service: service.name.to_string(),
                upstream,
            });
        }
    }
    let policy = pack_sources(sources)?;
    Ok(Checked {
        config,
        policy,
        services,
        warnings: problems,
    })
}

/// The policy's files as the store keeps them.
///
/// # Errors
/// [`NodeError`] when they cannot be read.
pub fn packed(policy: &std::path::Path) -> Result<String, NodeError> {
    pack_sources(sources::read(policy)?)
}

fn pack_sources(sources: Vec<sources::Source>) -> Result<String, NodeError> {
    let files: Vec<Source> = sources
        .into_iter()
        .map(|(path, text)| Source { path, text })
        .collect();
    pack(&files).map_err(|error| NodeError::Policy(error.to_string()))
}

fn tcp_address(upstream: &UpstreamAddress) -> Option<std::net::SocketAddr> {
    match upstream {
        UpstreamAddress::Tcp(address) => Some(*address),
        UpstreamAddress::Unix(_) => None,
    }
}

fn resolved(service: &config::Service) -> Result<ServiceConfig, NodeError> {
    let upstreams = service
        .upstream
        .resolve()
        .map_err(|source| NodeError::Resolve {
            service: service.name.to_string(),
            upstream: service.upstream.clone(),
            source,
        })?;
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
