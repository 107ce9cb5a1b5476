//! A service of the gateway: a listener whose clients are attributed, admitted, connected to an upstream and relayed.
//! What is decided about them may not live here, nor how a protocol is read.

mod desk;
mod facts;
mod front;
mod pending;
mod reach;
mod sockets;
mod talk;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicUsize},
    thread::JoinHandle,
    time::Duration,
};

use curfew_model::{Clock, EndReason, ServiceName};

use crate::{
    accept::{Accepted, Client, Listener},
    connect::UpstreamAddress,
    door::GatewayDoor,
    protocol::Protocol,
    relay::Relay,
};
use desk::Desk;
use front::Front;

/// Clients that may wait to be looked at, beyond [`ServiceConfig::max_waiting`]: the front is never that slow for long.
const QUEUE: usize = 4096;

/// What a service is.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Its name, as policy calls it.
    pub name: ServiceName,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it leads, in the order to try. Policy sees the first one's address.
    pub upstreams: Vec<UpstreamAddress>,
    /// What it speaks.
    pub protocol: Protocol,
    /// Sessions that may be open at a time; more are refused `overloaded`.
    pub max_connections: usize,
    /// Clients that may be in their handshake, or be told why they get nothing, at a time. Beyond it the oldest is
    /// reset for a new one, so that clients that connect and say nothing keep nobody out.
    pub max_waiting: usize,
    /// How long connecting to the upstreams may take, all together.
    pub connect_timeout: Duration,
    /// How long a client may take to say what it wants.
    pub handshake_timeout: Duration,
    /// PostgreSQL: a session whose server is at work is not idle.
    pub busy_is_active: bool,
}

impl ServiceConfig {
    /// A service with the usual limits: 10,000 connections, 4,096 that wait, 5 s to connect, 10 s for the handshake.
    #[must_use]
    pub fn new(
        name: ServiceName,
        listen: SocketAddr,
        upstreams: Vec<UpstreamAddress>,
        protocol: Protocol,
    ) -> Self {
        Self {
            name,
            listen,
            upstreams,
            protocol,
            max_connections: 10_000,
            max_waiting: 4096,
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            busy_is_active: true,
        }
    }
}

/// Told of clients that got no session and of whom the enforcer does not know: for metrics and the log.
pub trait TurnedAway: Send + Sync {
    /// Called on the service's threads: must not block.
    /// `detail` is for operators.
    fn turned_away(
        &self,
        service: &ServiceName,
        client: SocketAddr,
        reason: EndReason,
        detail: &str,
    );
}

/// What the services of one gateway share.
#[derive(Clone)]
pub struct Gateway {
    /// The door that asks the enforcer.
    pub door: Arc<GatewayDoor>,
    /// The relay that carries what is admitted.
    pub relay: Arc<Relay>,
    /// The clock of deadlines.
    pub clock: Arc<dyn Clock>,
    /// Told of those who get no session.
    pub turned_away: Arc<dyn TurnedAway>,
}

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The address cannot be listened on.
    #[error(
        "service {service} cannot listen on {address}; is the address of this host and the port free?"
    )]
    Listen {
        /// Which.
        service: ServiceName,
        /// Where.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
    /// Descriptors or threads have run out.
    #[error("service {service} cannot start its thread; raise the limits on descriptors and tasks")]
    Resources {
        /// Which.
        service: ServiceName,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A running service. Dropping it stops accepting and turns away whoever has no session yet; sessions go on.
///
/// Drop it after the relay was shut down, so that the queries of the sessions that this ends are cancelled.
pub struct Service {
    listener: Option<Listener>,
    address: SocketAddr,
    desk: Arc<Desk>,
    front: Option<JoinHandle<()>>,
}

impl Service {
    /// Listens, and serves from then on.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot listen, or has no thread or descriptor left.
    pub fn start(config: ServiceConfig, gateway: Gateway) -> Result<Self, ServiceError> {
        let service = config.name.clone();
        let resources = |source| ServiceError::Resources {
            service: service.clone(),
            source,
        };
        let config = Arc::new(config);
        let desk = Desk::new().map_err(resources)?;
        let front = Front::new(Arc::clone(&config), gateway.clone(), Arc::clone(&desk))
            .map_err(resources)?;
        let front = std::thread::Builder::new()
            .name(format!("front-{}", config.name))
            .spawn(move || front.run())
            .map_err(resources)?;
        let door_step = DoorStep {
            desk: Arc::clone(&desk),
            config: Arc::clone(&config),
            turned_away: gateway.turned_away,
        };
        let mut started = Self {
            listener: None,
            address: config.listen,
            desk,
            front: Some(front),
        };
        // Sessions have their own limit; this one only keeps the queue to the front short.
        let limit = config.max_waiting.saturating_add(QUEUE);
        let listener =
            Listener::start(config.listen, limit, Arc::new(door_step)).map_err(|source| {
                ServiceError::Listen {
                    service,
                    address: config.listen,
                    source,
                }
            })?;
        started.address = listener.address();
        started.listener = Some(listener);
        Ok(started)
    }

    /// The address bound, with the port that the kernel chose where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new client; those that came are served.
    pub fn stop_accepting(&mut self) {
        self.listener = None;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.listener = None;
        self.desk.stop();
        if let Some(front) = self.front.take() {
            // A front that panicked has closed its sockets already.
            let _ = front.join();
        }
    }
}

/// Hands accepted clients to the front.
struct DoorStep {
    desk: Arc<Desk>,
    config: Arc<ServiceConfig>,
    turned_away: Arc<dyn TurnedAway>,
}

impl Accepted for DoorStep {
    fn accepted(&self, client: Client) {
        self.desk.arrived(client);
    }

    fn over_limit(&self, address: SocketAddr) {
        let detail = "clients arrive faster than they are looked at";
        self.turned_away
            .turned_away(&self.config.name, address, EndReason::Overloaded, detail);
    }
}

/// Counts the sessions of a service.
type Places = Arc<AtomicUsize>;
