//! One running process: store, log, engine, enforcer, door, services and API put together, and taken apart in order.
//!
//! What any of them does may not live here.

mod applied;
mod check;
mod circle;
mod clock_watch;
mod compiler;
mod configured;
mod crowd;
mod desired;
mod fleet;
mod hostname;
mod in_force;
mod keeper;
mod log_alarm;
mod log_watch;
mod past;
mod private;
mod record;
mod reload;
mod resolver;
mod scribe;
mod teller;
mod unbound;

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use curfew_audit::Log;
use curfew_control::{Limits, Metrics, Parts, Server, Settings};
use curfew_enforcer::{Bounds, Deadlines, Door, Enforcer, Engine, Input, Scheduling, SessionView};
use curfew_gateway::{
    door::GatewayDoor,
    peer::Peers,
    relay::{Relay, RelayConfig},
    service::{Gateway, Service, ServiceConfig},
};
use curfew_model::{BootInstant, Clock, EventKind, SessionId};
use curfew_state::{Bus, Change, Commit, EmbeddedStore, Expected, LocalBus, ORDERS, Owner, Store};
use rustix::process::{Resource, getrlimit};
use tracing::warn;

use crate::config::Config;
use clock_watch::{ClockWatch, Told};
use configured::Configured;
use desired::Desired;
use fleet::LocalFleet;
use keeper::{Bell, Keeper};
use log_alarm::LogAlarm;
use log_watch::LogWatch;
use past::Past;
use record::Recorder;
use resolver::Resolver;
use scribe::Scribe;
use teller::Teller;

pub use check::{Checked, NodeError, Purpose, Running, check, packed};

/// The log's folder in the data directory.
pub const AUDIT: &str = "audit";
/// How long clients may take to read why their session ended.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long requests may take to come to their end when the process stops.
const FINISH: Duration = Duration::from_secs(2);
/// Descriptors that are left to the log and the state; a sixteenth where there are few.
const LAST: u64 = 16;

/// A running process.
pub struct Node {
    control: Option<Server>,
    keeper: Option<Keeper>,
    deadlines: Deadlines,
    relay: Arc<Relay>,
    services: Vec<Service>,
    /// As they run.
    running: Arc<[ServiceConfig]>,
    // The relay and the enforcer only refer to it.
    _door: Arc<GatewayDoor>,
    recorder: Arc<Recorder>,
    scribe: Arc<Scribe>,
    store: Arc<dyn Store>,
    desired: Arc<Desired>,
    configured: Arc<Configured>,
    clock: Arc<dyn Clock>,
    config: Config,
    /// The policy's files as they were read last.
    seen: Result<String, String>,
    _log_alarm: LogAlarm,
    log_watch: LogWatch,
    clock_watch: ClockWatch,
    _resolver: Resolver,
}

impl Node {
    /// Starts everything that a checked configuration names. Nobody is let in before the state is known.
    ///
    /// # Errors
    /// [`NodeError`]; what was started is stopped again.
    pub fn start(checked: Checked, clock: Arc<dyn Clock>) -> Result<Self, NodeError> {
        let Checked {
            config,
            policy,
            services,
            ..
        } = checked;
        let data_dir = |source| NodeError::DataDir {
            path: config.data_dir.clone(),
            source,
        };
        private::make(&config.data_dir)?;
        let store: Arc<dyn Store> = Arc::new(EmbeddedStore::open(&config.data_dir)?);
        let log = Arc::new(Log::open(
            config.audit.options(config.data_dir.join(AUDIT)),
            clock.now().wall,
        )?);
        let (bus, metrics, bell) = (
            Arc::new(LocalBus::new()),
            Arc::new(Metrics::new()),
            Arc::new(Bell::default()),
        );
        let as_bus: Arc<dyn Bus> = bus;
        let id = hostname::enforcer_id()?;
        let recorder = Arc::new(Recorder {
            log: Arc::clone(&log),
            enforcer: id.clone(),
            clock: Arc::clone(&clock),
            bus: Arc::clone(&as_bus),
            metrics: Arc::clone(&metrics),
            bell: Arc::clone(&bell),
            teller: Teller::start().map_err(NodeError::Resources)?,
            store: Arc::clone(&store),
            counted: parking_lot::Mutex::default(),
            crowd: parking_lot::Mutex::default(),
        });
        let past = Past::read(&config.data_dir, log.health().seq)?;
        past.tell(&log);
        let before = store.read().revision;
        recorder.note(EventKind::EnforcerStarted, before, None);
        recorder.tell_what_was_not(&past, &store.read());
        recorder.tell_if_behind(&past, &store.read());
        // Only when their ends are on disk may the next start leave them out.
        if recorder.end_the_dead(&past.unfinished, before) {
            past.begin(&config.data_dir).map_err(data_dir)?;
        }

        let (nothing, wall) = (Expected::Nothing, clock.now().wall);
        if let Some(commit) = keep_policy(&*store, nothing, &policy, &config, wall)? {
            recorder.note(
                EventKind::PolicyApplied,
                commit.revision,
                Some(config.policy.display().to_string()),
            );
        }
        let state = store.read();
        let set = compiler::union(&in_force::owners(&state.policies), state.revision);
        let set = Arc::new(set.map_err(NodeError::Policy)?);
        unbound::warn(&set, &config.bindings, &state);
        if let Err(error) = Peers::open() {
            warn!(
                %error,
                "the kernel does not say whose a client's socket is: while there is a binding by uid, clients of this host are refused as `unattributed`; load its modules `inet_diag` and `tcp_diag`, and allow netlink"
            );
        }
        let now = clock.now();
        let bounds = Bounds {
            // Whatever the state holds is held here too.
            revocations: ORDERS,
            ..Bounds::default()
        };
        let mut engine = Engine::new(set.clone(), bounds, past.at_least(now));
        keeper::kept_ends(&state, now).for_each(|end| engine.restore_last_end(end));

        let door = Arc::new(GatewayDoor::default());
        let open = services.iter().map(|service| service.max_connections);
        let relay = RelayConfig {
            // Sessions that have just ended are cleared away a moment later.
            max_flows: open.fold(0, usize::saturating_add).saturating_mul(2),
            ..RelayConfig::default()
        };
        let relay = Relay::start(relay, Arc::clone(&clock), door.clone());
        let relay = Arc::new(relay.map_err(NodeError::Resources)?);
        let as_door: Arc<dyn Door> = door.clone();
        let weak: Weak<dyn Door> = Arc::downgrade(&as_door);
        let keeps = Arc::clone(&recorder);
        let scribe =
            Scribe::start(move |record| keeps.keep(record)).map_err(NodeError::Resources)?;
        let deadlines = Enforcer::start(engine, weak, Arc::clone(&clock), scribe.clone());
        let deadlines = deadlines.map_err(NodeError::Resources)?;
        let enforcer = Arc::clone(deadlines.enforcer());
        door.attach(Arc::downgrade(&enforcer));
        let log_alarm = LogAlarm::start(&log, Arc::clone(&enforcer), config.audit.on_full)
            .map_err(NodeError::Resources)?;
        let desired = Arc::new(Desired::new(Arc::clone(&enforcer), id.clone(), &state, set));
        let configured = Arc::new(Configured::default());
        enforcer.handle(Input::Changes(configured.changes(&config.bindings)))?;
        configured.told(config.bindings.clone());
        let keeper = Keeper::start(&store, &desired, &enforcer, &bell, &clock)
            .map_err(NodeError::Resources)?;
        let fleet = LocalFleet {
            enforcer,
            desired: Arc::clone(&desired),
            configured: Arc::clone(&configured),
            id,
            data_dir: config.data_dir.clone(),
            services: services
                .iter()
                .map(|service| service.name.clone())
                .collect(),
            clock: Arc::clone(&clock),
            scribe: Arc::clone(&scribe),
        };
        let parts = Parts {
            store: Arc::clone(&store),
            journal: log,
            bus: as_bus,
            fleet: Arc::new(fleet),
            compile: Arc::new(compiler::Compiler::new(&services, Arc::clone(&desired))),
            clock: Arc::clone(&clock),
            metrics,
        };
        let settings = Settings {
            tls: config.control.tls.as_ref().map(|tls| tls.value.clone()),
            limits: Limits {
                descriptors: last_descriptors(),
                ..Limits::default()
            },
            ..Settings::new(config.control.listen, &config.data_dir)
        };
        let control = Server::start(settings, parts)?;
        let gateway = Gateway {
            door: Arc::clone(&door),
            relay: Arc::clone(&relay),
            clock: Arc::clone(&clock),
            turned_away: recorder.clone(),
        };
        let running: Arc<[ServiceConfig]> = services.into();
        let resolver = Resolver::start(&config.services, &running, &desired, &recorder.metrics)
            .map_err(NodeError::Resources)?;
        let mut node = Self {
            control: Some(control),
            keeper: Some(keeper),
            deadlines,
            relay,
            services: Vec::new(),
            running: Arc::clone(&running),
            _door: door,
            recorder,
            scribe,
            store,
            desired,
            configured,
            clock,
            config,
            seen: Ok(policy),
            _log_alarm: log_alarm,
            log_watch: LogWatch::default(),
            clock_watch: ClockWatch::default(),
            _resolver: resolver,
        };
        // Before anybody is judged.
        node.watch_clock();
        let start = |service: &ServiceConfig| Service::start(service.clone(), gateway.clone());
        node.services = running.iter().map(start).collect::<Result<_, _>>()?;
        Ok(node)
    }

    /// How the kernel runs the thread that closes at deadlines.
    pub fn scheduling(&self) -> &Scheduling {
        self.deadlines.scheduling()
    }

    /// Where each service listens, and the API as `control`.
    pub fn addresses(&self) -> impl Iterator<Item = (String, SocketAddr)> {
        let services = self.config.services.iter().zip(&self.services);
        let services = services.map(|(named, service)| (named.name.to_string(), service.address()));
        services.chain(
            self.control
                .iter()
                .map(|control| ("control".to_owned(), control.address())),
        )
    }

    /// What has to be looked at now and then: there may be something to say of the log and of the clock, and clients were
    /// turned away.
    pub fn tend(&mut self) {
        self.watch_clock();
        self.recorder.count_the_crowd(self.clock.now().boot);
        if let Some(told) = self.log_watch.look(&self.recorder.log.health()) {
            told.say(self.config.audit.on_full.log(false));
        }
    }

    fn watch_clock(&mut self) {
        // First, so that a moment between the two is none that the clock is behind.
        let judged_by = self.deadlines.enforcer().look(Engine::wall);
        let Some(told) = self.clock_watch.look(self.clock.now().wall, judged_by) else {
            return;
        };
        told.say(&self.recorder.enforcer);
        if told != Told::Caught {
            let cause = format!("sessions are judged by {judged_by}, the latest time on record");
            let revision = self.desired.revision();
            self.recorder
                .note(EventKind::ClockBehind, revision, Some(cause));
        }
    }

    /// Every open session as its lease stands now, with what it moved; the control plane is not asked.
    pub fn live(&self) -> Vec<SessionView> {
        let enforcer = self.deadlines.enforcer();
        let ids: Vec<SessionId> = enforcer.look(|engine| engine.ids().collect());
        enforcer.refresh(&ids);
        enforcer.look(|engine| ids.iter().filter_map(|id| engine.session(*id)).collect())
    }

    /// Stops the control plane alone, API and watch: from here on it is not heard, and the rest goes on by itself.
    pub fn stop_control(&mut self) {
        self.control.take().map(|control| control.stop(FINISH));
        self.keeper = None;
    }

    /// Takes nobody more from now on.
    pub fn take_nobody(&mut self) {
        if let Some(control) = &self.control {
            control.drain();
        }
        self.services.iter_mut().for_each(Service::stop);
    }

    /// Waits until sessions have finished, no longer than `within`; whether all have.
    pub fn drain(&self, within: Duration) -> bool {
        self.relay.drain(within)
    }

    /// Takes nobody more, ends every session with the reason `shutdown`, and closes the log behind them.
    pub fn stop(mut self) {
        self.take_nobody();
        self.drain(Duration::ZERO);
        // By order, so that clients are told in their protocol; what takes leave still may for a moment.
        let _ = self.deadlines.enforcer().handle(Input::Shutdown);
        self.relay.shutdown(FAREWELL);
        self.services.iter_mut().for_each(Service::leave);
        self.services.clear();
        self.stop_control();
        if !self.scribe.settle(FINISH) {
            warn!("the last ends came too late for the audit log: the next start records them");
        }
        self.recorder.count_the_crowd(BootInstant::NEVER);
        self.recorder
            .note(EventKind::EnforcerStopped, self.desired.revision(), None);
        self.recorder.flush();
        // Here, whatever thread lets go of it last: the head that it is signed with is the last act.
        self.recorder.log.close();
    }
}

/// The first descriptor that connections of the API take only in place of each other: a quarter of what is kept back from
/// clients, for the log and the state.
fn last_descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(u64::MAX, |limit| limit - LAST.min(limit / 16))
}

/// Keeps the policy of the files in the store, if it is another than before.
fn keep_policy(
    store: &dyn Store,
    expected: Expected,
    policy: &str,
    config: &Config,
    at: curfew_model::WallInstant,
) -> Result<Option<Commit>, NodeError> {
    let state = store.read();
    if state
        .policies
        .get(&Owner::Files)
        .is_some_and(|(_, text)| **text == *policy)
    {
        return Ok(None);
    }
    let by = config.policy.display().to_string();
    let changes = vec![Change::ApplyPolicy {
        owner: Owner::Files,
        content: policy.into(),
        at,
        by,
    }];
    let revision = store.commit(expected, &changes)?;
    Ok(Some(Commit { revision, changes }))
}

#[cfg(test)]
mod tests {
    use curfew_audit::newest_head;

    use super::*;
    use crate::clock::SystemClock;

    #[test]
    fn the_log_is_signed_to_its_end_whoever_still_holds_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        file(
            "p.yaml",
            "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\n\
             spec: {sensitivity: low, members: [{service: db}]}\n",
        );
        let config = file(
            "curfew.yaml",
            "data_dir: data\ncontrol: {listen: '127.0.0.1:0'}\npolicy: {path: p.yaml}\n\
             gateway: {services: [{name: db, listen: '127.0.0.1:0', upstream: 'localhost:9'}]}\n",
        );
        let checked = check(&config, Purpose::Start).unwrap();
        let node = Node::start(checked, Arc::new(SystemClock)).unwrap();
        let log = Arc::clone(&node.recorder.log);
        node.stop();
        let head = newest_head(&folder.path().join("data").join(AUDIT)).unwrap();
        assert_eq!(head.map(|head| head.seq), Some(log.health().seq));
    }
}
