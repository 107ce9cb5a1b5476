//! One running process: log, engine, enforcer, door and services put together, and taken apart in order.
//!
//! What any of them does may not live here.

mod hostname;
mod past;
mod record;

use std::{
    path::PathBuf,
    sync::{Arc, Weak},
    time::Duration,
};

use curfew_audit::{AuditError, Log, Options};
use curfew_enforcer::{
    AuditLog, Bounds, Concerns, Deadlines, Door, Enforcer, Engine, EngineError, Input, Keeper,
};
use curfew_gateway::{
    door::GatewayDoor,
    relay::{Relay, RelayConfig},
    service::{Gateway, Service, ServiceConfig, ServiceError},
};
use curfew_model::{BindingKey, Clock, EventKind, InvalidName, Revision, Target};
use curfew_policy::PolicySet;

use crate::{
    config::{self, Config},
    policy::compiled,
    sources::{self, SourceError},
};
use record::Recorder;

/// The log's folder in the data directory.
const AUDIT: &str = "audit";

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
    config: Config,
    set: PolicySet,
    services: Vec<ServiceConfig>,
    /// Warnings about the policy, as they are shown.
    pub warnings: Vec<String>,
}

/// Checks a configuration: the policy compiles, every upstream resolves, every service is in a segment.
///
/// # Errors
/// [`NodeError`], before anything is started.
pub fn check(config: Config, revision: Revision) -> Result<Checked, NodeError> {
    let sources = sources::read(&config.policy)?;
    let (set, problems) = compiled(&sources, revision);
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
    Ok(Checked {
        config,
        set,
        services,
        warnings: problems,
    })
}

fn tcp_address(
    upstream: &curfew_gateway::connect::UpstreamAddress,
) -> Option<std::net::SocketAddr> {
    match upstream {
        curfew_gateway::connect::UpstreamAddress::Tcp(address) => Some(*address),
        curfew_gateway::connect::UpstreamAddress::Unix(_) => None,
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
        name: service.name.clone(),
        listen: service.listen,
        upstreams,
        protocol: service.protocol,
        max_connections: service.max_connections,
        connect_timeout: service.connect_timeout,
        handshake_timeout: service.handshake_timeout,
        busy_is_active: service.busy_is_active,
    })
}

/// A running process.
pub struct Node {
    // Taken apart in this order: no order after the door is gone, the relay before the services that cancel its queries.
    deadlines: Deadlines,
    relay: Arc<Relay>,
    services: Vec<Service>,
    _door: Arc<GatewayDoor>,
    recorder: Arc<Recorder>,
    config: Config,
    revision: Revision,
    audit: AuditLog,
}

impl Node {
    /// Starts everything that a checked configuration names.
    ///
    /// # Errors
    /// [`NodeError`]; what was started is stopped again.
    pub fn start(checked: Checked, clock: Arc<dyn Clock>) -> Result<Self, NodeError> {
        let Checked {
            config,
            set,
            services,
            ..
        } = checked;
        let data_dir = |source| NodeError::DataDir {
            path: config.data_dir.clone(),
            source,
        };
        std::fs::create_dir_all(&config.data_dir).map_err(data_dir)?;
        let log = Log::open(Options::new(config.data_dir.join(AUDIT)), clock.now().wall)?;
        let revision = Revision(1);
        let past = past::Past::read(&config.data_dir, log.health().seq)?;
        let recorder = Arc::new(Recorder::new(
            log,
            hostname::enforcer_id()?,
            Arc::clone(&clock),
        ));
        recorder.note(EventKind::EnforcerStarted, revision, None);
        recorder.end_the_dead(past.unfinished, revision);
        // Only when their ends are on disk may the next start leave them out.
        recorder.flush();
        past::begin(&config.data_dir, past.next).map_err(data_dir)?;

        let door = Arc::new(GatewayDoor::default());
        let relay = Relay::start(RelayConfig::default(), Arc::clone(&clock), door.clone());
        let relay = Arc::new(relay.map_err(NodeError::Resources)?);
        let engine = Engine::new(Arc::new(set), Bounds::default(), clock.now());
        let as_door: Arc<dyn Door> = door.clone();
        let weak: Weak<dyn Door> = Arc::downgrade(&as_door);
        let deadlines = Enforcer::start(engine, weak, Arc::clone(&clock), recorder.clone());
        let deadlines = deadlines.map_err(NodeError::Resources)?;
        door.attach(Arc::downgrade(deadlines.enforcer()));
        for binding in &config.bindings {
            deadlines
                .enforcer()
                .handle(Input::BindingSet(Keeper::Config, binding.clone()))?;
        }
        recorder.note(
            EventKind::PolicyApplied,
            revision,
            Some(config.policy.display().to_string()),
        );
        let gateway = Gateway {
            door: Arc::clone(&door),
            relay: Arc::clone(&relay),
            clock: Arc::clone(&clock),
            turned_away: recorder.clone(),
        };
        let services = services
            .into_iter()
            .map(|service| Service::start(service, gateway.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            deadlines,
            relay,
            services,
            _door: door,
            recorder,
            config,
            revision,
            audit: AuditLog::Writable,
        })
    }

    /// Where each service listens.
    pub fn addresses(&self) -> impl Iterator<Item = (String, std::net::SocketAddr)> {
        self.config
            .services
            .iter()
            .zip(&self.services)
            .map(|(named, service)| (named.name.to_string(), service.address()))
    }

    /// The revision for the next policy set.
    #[must_use]
    pub fn next_revision(&self) -> Revision {
        Revision(self.revision.0 + 1)
    }

    /// Takes policy and bindings from a new configuration; live sessions are decided again. Services stay as they
    /// are until a restart; whether they differ is the answer.
    ///
    /// # Errors
    /// [`NodeError`] of a binding; the policy has taken effect then.
    pub fn reload(&mut self, checked: Checked) -> Result<Reloaded, NodeError> {
        self.revision = self.next_revision();
        let enforcer = self.deadlines.enforcer();
        let policies = Input::Policies {
            set: Arc::new(checked.set),
            concerns: Concerns::All,
        };
        let report = enforcer.handle(policies)?;
        let kept: Vec<&BindingKey> = checked
            .config
            .bindings
            .iter()
            .map(|binding| &binding.key)
            .collect();
        let gone = self
            .config
            .bindings
            .iter()
            .filter(|binding| !kept.contains(&&binding.key));
        for binding in gone {
            enforcer.handle(Input::BindingRemoved(Keeper::Config, binding.key.clone()))?;
        }
        let changed = checked
            .config
            .bindings
            .iter()
            .filter(|binding| !self.config.bindings.contains(binding));
        for binding in changed {
            enforcer.handle(Input::BindingSet(Keeper::Config, binding.clone()))?;
        }
        let services_differ = checked.config.services != self.config.services;
        self.config.bindings = checked.config.bindings;
        self.config.policy = checked.config.policy;
        let cause = Some(self.config.policy.display().to_string());
        self.recorder
            .note(EventKind::PolicyApplied, self.revision, cause);
        Ok(Reloaded {
            revision: self.revision,
            closed: report.closed,
            services_differ,
        })
    }

    /// What has to be looked at now and then: the control plane is this process, and the log may have filled up.
    pub fn tend(&mut self) {
        let enforcer = self.deadlines.enforcer();
        // Neither input can be refused.
        let _ = enforcer.handle(Input::Contact);
        let audit = if self.recorder.keeps_records() {
            AuditLog::Writable
        } else {
            AuditLog::Full
        };
        if audit != self.audit {
            self.audit = audit;
            let _ = enforcer.handle(Input::Audit(audit));
        }
    }

    /// Accepts nobody more, lets sessions finish for at most `drain`, ends the rest with the reason `shutdown`, and
    /// closes the log behind them.
    pub fn stop(mut self, drain: Duration) {
        self.services.iter_mut().for_each(Service::stop_accepting);
        self.relay.shutdown(drain);
        self.services.clear();
        self.recorder
            .note(EventKind::EnforcerStopped, self.revision, None);
        self.recorder.flush();
    }
}

/// What a reload did.
#[derive(Clone, Copy, Debug)]
pub struct Reloaded {
    /// The revision of the new set.
    pub revision: Revision,
    /// Sessions that it ended.
    pub closed: u64,
    /// The services differ, and a restart is needed for that.
    pub services_differ: bool,
}
