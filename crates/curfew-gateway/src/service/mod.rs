//! A service of the gateway: a listener whose clients are attributed, admitted, connected to an upstream and relayed.
//! What is decided about them may not live here, nor how a protocol is read.

mod cancels;
mod desk;
mod facts;
mod front;
mod handshake;
mod pending;
mod reach;
mod sockets;
mod talk;
mod upstreams;

use std::{
    io,
    net::{Shutdown, SocketAddr},
    sync::{Arc, atomic::AtomicUsize, mpsc},
    time::Duration,
};

use curfew_model::{Clock, EndReason, ServiceName, SessionId, UpstreamAddress};
use parking_lot::Mutex;
use socket2::Socket;

use crate::{
    accept::{self, Client},
    door::GatewayDoor,
    postgres::cancel::CancelRegistry,
    protocol::Protocol,
    relay::{Guest, Relay},
};
use desk::Desk;
use front::Front;
use pending::Cancelling;
use talk::Keys;

pub use upstreams::Upstreams;

/// What a service is.
#[derive(Clone, Debug)]
pub struct ServiceConfig {
    /// Its name, as policy calls it.
    pub name: ServiceName,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Where it leads. Policy sees every address.
    pub upstreams: Upstreams,
    /// What it speaks.
    pub protocol: Protocol,
    /// Sessions that may be open at a time; more are refused `overloaded`.
    pub max_connections: usize,
    /// Clients that may be in their handshake, or be told why they get nothing, at a time and at each of the relay's
    /// loops. Beyond it the oldest is reset for a new one, so that clients that connect and say nothing keep nobody out.
    /// Those who wait to be accepted when it stops are told beside them.
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
        upstreams: impl Into<Arc<[UpstreamAddress]>>,
        protocol: Protocol,
    ) -> Self {
        Self {
            name,
            listen,
            upstreams: Upstreams::new(upstreams),
            protocol,
            max_connections: 10_000,
            max_waiting: 4096,
            connect_timeout: Duration::from_secs(5),
            handshake_timeout: Duration::from_secs(10),
            busy_is_active: true,
        }
    }
}

/// A client that came to no server.
#[derive(Clone, Debug)]
pub struct Away {
    /// Which service it asked for.
    pub service: ServiceName,
    /// Where it came from.
    pub client: SocketAddr,
    /// The id that it is told, if it is told one.
    pub session: Option<SessionId>,
    /// Why.
    pub reason: EndReason,
    /// Why, for operators.
    pub detail: String,
    /// Its session was open and found no upstream: the enforcer counts and records that end. Of others it does not know.
    pub was_open: bool,
}

/// Told of clients that came to no server: for metrics and the log.
pub trait TurnedAway: Send + Sync {
    /// Called on the relay's event loops: must not block.
    fn turned_away(&self, away: Away);
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
    /// Descriptors or watches have run out.
    #[error(
        "service {service} cannot watch its sockets; raise the limits on descriptors and epoll watches"
    )]
    Resources {
        /// Which.
        service: ServiceName,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What the fronts of one service share.
struct Common {
    config: ServiceConfig,
    door: Arc<GatewayDoor>,
    clock: Arc<dyn Clock>,
    turned_away: Arc<dyn TurnedAway>,
    /// Counts the sessions.
    places: Arc<AtomicUsize>,
    /// Cancels on their way that may take a descriptor that is kept back.
    urgent: Arc<AtomicUsize>,
    keys: Arc<Keys>,
    cancelling: Cancelling,
}

/// A running service. Dropping it stops it, and waits until its fronts have left; sessions go on.
///
/// Drop it after the relay was shut down, so that the queries of the sessions that this ends are cancelled.
pub struct Service {
    address: SocketAddr,
    listener: Option<Arc<Socket>>,
    desks: Vec<Arc<Desk>>,
    /// Disconnected when the last front has left.
    fronts: mpsc::Receiver<()>,
    /// Its loops are the fronts'.
    _relay: Arc<Relay>,
}

impl Service {
    /// Listens, and serves from then on: one front at each of the relay's loops.
    ///
    /// # Errors
    /// [`ServiceError`] when it cannot listen, or has no descriptor left.
    pub fn start(config: ServiceConfig, gateway: Gateway) -> Result<Self, ServiceError> {
        let service = config.name.clone();
        let address = config.listen;
        let tuning = gateway.relay.anywhere().tuning();
        let listening = accept::listen(address, tuning).and_then(|listener| {
            let bound = listener.local_addr()?.as_socket();
            Ok((listener, bound.ok_or(io::ErrorKind::Unsupported)?))
        });
        let (listener, address) = listening.map_err(|source| ServiceError::Listen {
            service: service.clone(),
            address,
            source,
        })?;
        let listener = Arc::new(listener);
        let common = Arc::new(Common {
            keys: Arc::new(Mutex::new(CancelRegistry::new(config.max_connections))),
            config,
            door: gateway.door,
            clock: gateway.clock,
            turned_away: gateway.turned_away,
            places: Arc::default(),
            urgent: Arc::default(),
            cancelling: Cancelling::default(),
        });
        let (leave, fronts) = mpsc::channel();
        let mut started = Self {
            address,
            listener: Some(Arc::clone(&listener)),
            desks: Vec::new(),
            fronts,
            _relay: Arc::clone(&gateway.relay),
        };
        let desks = &mut started.desks;
        gateway
            .relay
            .host(move |seat, home| {
                let desk = Desk::new()?;
                desks.push(Arc::clone(&desk));
                let (common, listener) = (Arc::clone(&common), Arc::clone(&listener));
                let front = Front::new(common, listener, desk, seat, home, leave.clone())?;
                Ok(Box::new(front) as Box<dyn Guest>)
            })
            .map_err(|source| ServiceError::Resources { service, source })?;
        Ok(started)
    }

    /// The address bound, with the port that the kernel chose where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no new client, and turns away those that have no session yet, whether they were accepted or wait for it;
    /// sessions go on. Does not wait for the fronts.
    pub fn stop(&mut self) {
        if let Some(listener) = self.listener.take() {
            self.desks.iter().for_each(|desk| desk.stop());
            // Shut down, it resets whom the kernel has queued.
            let late: Vec<Client> = accept::queued(&listener).collect();
            // The fronts see it and let go of it. A socket that is shut down already is what is wanted.
            let _ = listener.shutdown(Shutdown::Both);
            let share = late.len().div_ceil(self.desks.len().max(1));
            let mut late = late.into_iter();
            for desk in &self.desks {
                desk.turn_away(late.by_ref().take(share).collect());
            }
        }
    }
}

impl Service {
    /// Has the fronts go, who do the last of what sessions leave behind. Dropping it waits for them: of several services each
    /// is told first.
    pub fn leave(&mut self) {
        self.stop();
        self.desks.iter().for_each(|desk| desk.leave());
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.leave();
        // Nothing is ever sent: this returns when the last front is gone.
        let _ = self.fronts.recv();
    }
}
