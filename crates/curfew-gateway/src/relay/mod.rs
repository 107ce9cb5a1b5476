//! The TCP relay: threads that move bytes between pairs of connected sockets, outside any async
//! runtime, and end a flow at once when told. It knows no session, lease or policy.

mod closing;
mod entry;
mod event_loop;
mod flow;
mod framed;
mod framing;
mod guest;
mod mailbox;
mod patience;
mod pipes;
mod pump;

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use curfew_enforcer::Fatal;
use curfew_model::Clock;
use parking_lot::{Condvar, Mutex};
use socket2::{Domain, SockRef};

use closing::Helper;
use event_loop::EventLoop;
use flow::{Shared, Sockets, Wire};
use framed::Framed;
use mailbox::Mailbox;

use crate::tuning::Tuning;

pub(crate) use closing::end_all;
pub use flow::{Bytes, Ending, Flow};
pub use framing::{Broken, Cut, Framing};
pub(crate) use guest::{Guest, Seat};

/// How long the loops may take to reset what is left when they are stopped.
const STOPPING: Duration = Duration::from_secs(1);

/// How a relay is set up.
#[derive(Clone, Debug)]
pub struct RelayConfig {
    /// Event loops, each a thread; at least one.
    pub threads: usize,
    /// Flows that may be open at once.
    pub max_flows: usize,
    /// What is set on the sockets.
    pub tuning: Tuning,
}

impl Default for RelayConfig {
    fn default() -> Self {
        Self {
            threads: std::thread::available_parallelism().map_or(1, usize::from),
            max_flows: 100_000,
            tuning: Tuning::default(),
        }
    }
}

/// One end of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client.
    Client,
    /// The upstream.
    Upstream,
}

/// How a flow finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// Both ends closed, the client first; or the client closed and the rest failed.
    ClosedByClient,
    /// The same, the server first.
    ClosedByServer,
    /// A socket failed while both ends were open, a peer's reset included.
    NetworkError,
    /// [`Flow::end`] was called.
    Ended,
    /// A peer of a framed flow broke the protocol.
    ProtocolError {
        /// Which peer.
        by: Side,
        /// Whether the client was sent its last words.
        told: bool,
    },
    /// The relay shut down.
    Shutdown,
}

/// Told of each flow that finished, once: after its sockets were closed, or when its client has only its last words
/// left to read.
pub trait Finished: Send + Sync {
    /// Called on an event loop's thread: must not block.
    fn finished(&self, key: u64, how: Finish, bytes: Bytes);

    /// The client of a framed flow takes notices from now on. Called once, on an event loop's thread: must not block.
    fn hears(&self, _key: u64) {}
}

/// A conversation that begins: what a framed flow starts with.
pub struct Opened {
    /// Follows its messages.
    pub framing: Box<dyn Framing>,
    /// Sent to the upstream first, as it is; no message.
    pub opening: Vec<u8>,
    /// What the client has sent behind it.
    pub rest: Vec<u8>,
}

/// Why a flow was not taken; both of its sockets are closed.
#[derive(Debug, thiserror::Error)]
pub enum AdoptError {
    /// The limit on open flows is reached.
    #[error("the relay has {0} flows open, its limit; raise the limit or wait for some to close")]
    Full(usize),
    /// The relay is shutting down.
    #[error("the relay is shutting down and takes no new flow")]
    ShuttingDown,
    /// A socket refused an option that the relay depends on.
    #[error("cannot prepare a socket for relaying; is it a connected stream socket?")]
    Socket(#[from] io::Error),
    /// What the client of a framed flow had sent already breaks the protocol.
    #[error("the client's first bytes cannot be relayed")]
    Broken(#[from] Broken),
}

/// A flow that was not taken, with what is left of it.
pub(crate) struct NotTaken {
    pub(crate) why: AdoptError,
    /// Nothing was sent to it.
    pub(crate) client: OwnedFd,
}

impl From<NotTaken> for AdoptError {
    fn from(not_taken: NotTaken) -> Self {
        not_taken.why
    }
}

/// Counts the open flows, and lets a shutdown wait for the last.
struct Population {
    state: Mutex<(usize, bool)>,
    changed: Condvar,
    limit: usize,
}

impl Population {
    fn enter(&self) -> Result<(), AdoptError> {
        let mut state = self.state.lock();
        if state.1 {
            return Err(AdoptError::ShuttingDown);
        }
        if state.0 >= self.limit {
            return Err(AdoptError::Full(self.limit));
        }
        state.0 += 1;
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.state.lock().1
    }

    fn leave(&self) {
        let mut state = self.state.lock();
        state.0 = state.0.saturating_sub(1);
        if state.0 == 0 {
            self.changed.notify_all();
        }
    }

    /// Refuses newcomers and waits until nobody is left, no longer than `drain`; whether nobody is.
    fn close(&self, drain: Duration) -> bool {
        let mut state = self.state.lock();
        state.1 = true;
        self.changed
            .wait_while_for(&mut state, |state| state.0 > 0, drain);
        state.0 == 0
    }
}

/// A running relay. Dropping it resets every open flow, and waits for its guests to leave.
pub struct Relay {
    anywhere: Home,
    threads: Vec<JoinHandle<()>>,
    helper: Helper,
}

impl Relay {
    /// Starts the event loops.
    ///
    /// # Errors
    /// When descriptors or threads cannot be made.
    pub fn start(
        config: RelayConfig,
        clock: Arc<dyn Clock>,
        finished: Arc<dyn Finished>,
    ) -> io::Result<Self> {
        let helper = Helper::default();
        let mailboxes = (0..config.threads.max(1))
            .map(|_| Mailbox::new(helper.clone()))
            .collect::<io::Result<Vec<_>>>()?;
        let population = Arc::new(Population {
            state: Mutex::new((0, false)),
            changed: Condvar::new(),
            limit: config.max_flows,
        });
        let mut relay = Self {
            anywhere: Home {
                loops: Arc::new(Loops {
                    tuning: config.tuning,
                    clock,
                    population,
                    mailboxes,
                }),
                index: None,
            },
            threads: Vec::new(),
            helper,
        };
        relay.threads.push(relay.helper.start()?);
        for (index, mailbox) in relay.anywhere.loops.mailboxes.iter().enumerate() {
            let event_loop = EventLoop::new(
                Arc::clone(mailbox),
                Arc::clone(&relay.anywhere.loops.clock),
                Arc::clone(&finished),
                Arc::clone(&relay.anywhere.loops.population),
                config.tuning,
            )?;
            let thread = std::thread::Builder::new()
                .name(format!("relay-{index}"))
                .spawn(move || {
                    let _fatal = Fatal;
                    event_loop.run();
                })?;
            relay.threads.push(thread);
        }
        Ok(relay)
    }

    /// A way to its loops for flows that come from no loop.
    pub(crate) fn anywhere(&self) -> &Home {
        &self.anywhere
    }

    /// Has one guest at each loop. A guest must not hold the relay itself, whose end waits for its own.
    ///
    /// # Errors
    /// What `make` says; the guests made before stay.
    pub(crate) fn host(
        &self,
        mut make: impl FnMut(Seat, Home) -> io::Result<Box<dyn Guest>>,
    ) -> io::Result<()> {
        let loops = &self.anywhere.loops;
        if loops.population.is_closed() {
            return Err(io::Error::other(AdoptError::ShuttingDown));
        }
        for (index, mailbox) in loops.mailboxes.iter().enumerate() {
            let (number, seat) = mailbox.seat();
            let home = Home {
                loops: Arc::clone(loops),
                index: Some(index),
            };
            mailbox.host(number, make(seat, home)?);
        }
        Ok(())
    }

    /// Relays between two connected stream sockets from now on. `key` must be unique among the
    /// open flows; it names the flow in [`Finished`].
    ///
    /// # Errors
    /// [`AdoptError`] says why the flow was not taken; its sockets are closed then.
    pub fn adopt(&self, client: OwnedFd, upstream: OwnedFd, key: u64) -> Result<Flow, AdoptError> {
        self.make_ready(&client, &upstream)?;
        let prepared = self.anywhere.prepare(client, upstream, key, None)?;
        Ok(prepared.start())
    }

    /// As [`Relay::adopt`], but keeps the messages of `opened` whole toward the client, so that it can be told
    /// something between two of them.
    ///
    /// # Errors
    /// [`AdoptError`] says why the flow was not taken; its sockets are closed then.
    pub fn adopt_framed(
        &self,
        client: OwnedFd,
        upstream: OwnedFd,
        key: u64,
        opened: Opened,
    ) -> Result<Flow, AdoptError> {
        self.make_ready(&client, &upstream)?;
        let prepared = self.anywhere.prepare(client, upstream, key, Some(opened))?;
        Ok(prepared.start())
    }

    /// Sets what the relay depends on, on sockets that come from elsewhere.
    pub(crate) fn make_ready(&self, client: &OwnedFd, upstream: &OwnedFd) -> io::Result<()> {
        for socket in [client, upstream].map(SockRef::from) {
            socket.set_nonblocking(true)?;
            if socket.domain()? != Domain::UNIX {
                self.anywhere.loops.tuning.apply(&socket)?;
            }
        }
        Ok(())
    }

    /// Takes no new flow, and waits until the open ones have finished, no longer than `drain`; whether all have.
    pub fn drain(&self, drain: Duration) -> bool {
        self.anywhere.loops.population.close(drain)
    }

    /// Takes no new flow, lets the open ones finish for at most `drain`, resets the rest.
    pub fn shutdown(&self, drain: Duration) {
        self.drain(drain);
        for mailbox in &self.anywhere.loops.mailboxes {
            mailbox.stop();
        }
        // Until each flow has been told that it is over.
        self.anywhere.loops.population.close(STOPPING);
    }
}

struct Loops {
    tuning: Tuning,
    clock: Arc<dyn Clock>,
    population: Arc<Population>,
    mailboxes: Vec<Arc<Mailbox>>,
}

/// The way to a relay's loops from one of them, or from outside.
#[derive(Clone)]
pub(crate) struct Home {
    loops: Arc<Loops>,
    index: Option<usize>,
}

impl Home {
    /// What is to be set on sockets before they come here.
    pub(crate) fn tuning(&self) -> Tuning {
        self.loops.tuning
    }

    /// Makes a flow that relays nothing until [`Prepared::start`]: its owner can note it, and end it, before the
    /// first byte. Its sockets do not block and are tuned.
    ///
    /// # Errors
    /// [`NotTaken`] says why, and gives the client back; the upstream is closed then.
    pub(crate) fn prepare(
        &self,
        client: OwnedFd,
        upstream: OwnedFd,
        key: u64,
        opened: Option<Opened>,
    ) -> Result<Prepared, NotTaken> {
        let (framed, mailbox) = match self.make_place(opened) {
            Ok(place) => place,
            Err(why) => return Err(NotTaken { why, client }),
        };
        let wire = if framed.is_some() {
            Wire::Boundary
        } else {
            Wire::Inside
        };
        let sockets = Arc::new(Sockets { client, upstream });
        let shared = Arc::new(Shared::new(key, self.loops.clock.now().boot, wire));
        let flow = Flow {
            shared: Arc::clone(&shared),
            sockets: Arc::downgrade(&sockets),
            mailbox: Arc::clone(mailbox),
            clock: Arc::clone(&self.loops.clock),
        };
        Ok(Prepared {
            flow,
            sockets,
            framed,
            population: Arc::clone(&self.loops.population),
        })
    }

    /// A place for one more flow, at the loop of this mailbox.
    fn make_place(
        &self,
        opened: Option<Opened>,
    ) -> Result<(Option<Box<Framed>>, &Arc<Mailbox>), AdoptError> {
        let framed = match opened {
            Some(opened) => Some(Box::new(Framed::new(
                opened.framing,
                opened.opening,
                &opened.rest,
            )?)),
            None => None,
        };
        let mailbox = self.mailbox().ok_or(AdoptError::ShuttingDown)?;
        self.loops.population.enter()?;
        mailbox.expect();
        Ok((framed, mailbox))
    }

    /// Where the next flow goes: here, unless another loop has clearly less to do. To change threads costs a new
    /// connection more than it gains by a balance to the last flow.
    fn mailbox(&self) -> Option<&Arc<Mailbox>> {
        let mailboxes = &self.loops.mailboxes;
        let least = mailboxes.iter().min_by_key(|mailbox| mailbox.flows())?;
        let here = self.index.and_then(|index| mailboxes.get(index));
        Some(
            here.filter(|here| here.flows() <= least.flows() + 1)
                .unwrap_or(least),
        )
    }
}

/// A flow that waits for its start or its withdrawal, one of which must come: until then it holds a place in the relay.
#[must_use = "a flow that is not started holds its place for nothing"]
pub(crate) struct Prepared {
    flow: Flow,
    sockets: Arc<Sockets>,
    framed: Option<Box<Framed>>,
    population: Arc<Population>,
}

impl Prepared {
    /// The owner's handle.
    pub(crate) fn flow(&self) -> &Flow {
        &self.flow
    }

    /// Relays from now on. A flow that was ended meanwhile finishes as ended.
    pub(crate) fn start(self) -> Flow {
        let shared = Arc::clone(&self.flow.shared);
        self.flow.mailbox.adopt(self.sockets, shared, self.framed);
        self.flow
    }

    /// Gives up the flow, whose handle nobody has: the client is given back, and the upstream closed.
    pub(crate) fn withdraw(self) -> Option<OwnedFd> {
        self.flow.mailbox.forget();
        self.population.leave();
        Arc::into_inner(self.sockets).map(|sockets| sockets.client)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shutdown(Duration::ZERO);
        self.helper.stop();
        for thread in self.threads.drain(..) {
            // None panics: each ends the process first.
            let _ = thread.join();
        }
    }
}
