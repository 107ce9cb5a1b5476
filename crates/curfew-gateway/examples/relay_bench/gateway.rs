//! Curfew in the comparison: its door, engine, relay and services in one process. What is left out is the audit log
//! and the API, which no relay that it is compared with has.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use curfew_enforcer::{Door, Enforcer, Record, Sink};
use curfew_engine::{Bounds, Engine};
use curfew_gateway::{
    door::GatewayDoor,
    protocol::Protocol,
    relay::{Relay, RelayConfig},
    service::{Away, Gateway, Service, ServiceConfig, TurnedAway},
};
use curfew_model::{Clock, ServiceName, UpstreamAddress};
use curfew_testkit::{BootClock, Lifetime};

use crate::relays::{ECHO, SOURCE};

struct Quiet;

impl Sink for Quiet {
    fn record(&self, _records: Vec<Record>) {}
}

impl TurnedAway for Quiet {
    fn turned_away(&self, _: Away) {}
}

/// Serves both upstreams until the process is ended; every session lives for `lifetime`.
pub(crate) fn tcp(source: u16, echo: u16, lifetime: Duration) {
    let service = |name, port, upstream| config(name, port, local(upstream), Protocol::Tcp);
    let services = [
        service("source", source, SOURCE),
        service("echo", echo, ECHO),
    ];
    run(services.to_vec(), lifetime);
}

/// Serves a PostgreSQL server until the process is ended.
pub(crate) fn postgres(port: u16, upstream: SocketAddr) {
    let service = config("db", port, upstream, Protocol::Postgres);
    run(vec![service], Duration::from_secs(86_400));
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

fn config(name: &str, port: u16, upstream: SocketAddr, protocol: Protocol) -> ServiceConfig {
    let name = ServiceName::new(name).unwrap();
    let upstreams = vec![UpstreamAddress::Tcp(upstream)];
    ServiceConfig::new(name, local(port), upstreams, protocol)
}

fn run(services: Vec<ServiceConfig>, lifetime: Duration) {
    let door = Arc::new(GatewayDoor::default());
    let clock: Arc<dyn Clock> = Arc::new(BootClock);
    let config = RelayConfig {
        threads: 2,
        ..RelayConfig::default()
    };
    let relay = Arc::new(Relay::start(config, Arc::clone(&clock), door.clone()).unwrap());
    let engine = Engine::new(Arc::new(Lifetime(lifetime)), Bounds::default(), clock.now());
    let as_door: Arc<dyn Door> = door.clone();
    let weak: Weak<dyn Door> = Arc::downgrade(&as_door);
    let deadlines = Enforcer::start(engine, weak, Arc::clone(&clock), Arc::new(Quiet)).unwrap();
    door.attach(Arc::downgrade(deadlines.enforcer()));
    let gateway = Gateway {
        door,
        relay,
        clock,
        turned_away: Arc::new(Quiet),
    };
    let _services: Vec<Service> = services
        .into_iter()
        .map(|service| Service::start(service, gateway.clone()).unwrap())
        .collect();
    loop {
        std::thread::park();
    }
}
