//! The bus: what enforcers report — events, acknowledgements, inventory — to whoever listens, and its in-process form.
//!
//! A subscription has a bounded queue. What does not fit is dropped and counted, and the listener is told: nobody
//! who publishes ever waits for one who listens.

use std::{
    collections::VecDeque,
    num::NonZeroUsize,
    sync::{Arc, Weak},
    time::Duration,
};

use curfew_model::{EnforcerId, Event, Identity, Revision, RevocationId, SegmentName, SessionId};
use parking_lot::{Condvar, Mutex};

/// One event of an enforcer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnforcerEvent {
    /// Whose.
    pub enforcer: EnforcerId,
    /// Its own count, from one without gaps.
    pub seq: u64,
    /// What happened.
    pub event: Event,
}

/// An enforcer has done what a revocation orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Who.
    pub enforcer: EnforcerId,
    /// Which order.
    pub revocation: RevocationId,
    /// The revision it has applied.
    pub revision: Revision,
    /// Sessions that the order matches.
    pub matched: u64,
    /// Of these, closed.
    pub closed: u64,
    /// Of these, only recorded, in audit mode.
    pub audit_only: u64,
}

/// One open session of an inventory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenSession {
    /// Which.
    pub session: SessionId,
    /// Its subject, when it has one.
    pub subject: Option<Identity>,
    /// Its segments, the most sensitive first.
    pub segments: Vec<SegmentName>,
}

/// Every open session of an enforcer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Whose.
    pub enforcer: EnforcerId,
    /// The revision it has applied.
    pub revision: Revision,
    /// What is open.
    pub open: Vec<OpenSession>,
}

/// What goes over the bus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Something happened.
    Event(EnforcerEvent),
    /// An order was carried out.
    Acknowledged(Acknowledgement),
    /// What is open.
    Inventory(Inventory),
}

/// What a subscription gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// The next message.
    Message(Arc<Message>),
    /// So many messages were dropped here.
    Lost(u64),
}

/// Carries messages from enforcers to listeners.
pub trait Bus: Send + Sync {
    /// Hands a message to every subscription. Never waits.
    fn publish(&self, message: Message);

    /// Every message from now on; up to `capacity` of them wait.
    fn subscribe(&self, capacity: NonZeroUsize) -> Box<dyn Subscription>;
}

/// One listener's queue.
pub trait Subscription: Send {
    /// The next message, or the number lost before it; none if there is none within `timeout`.
    fn next(&mut self, timeout: Duration) -> Option<Received>;
}

/// The bus of one process.
#[derive(Debug, Default)]
pub struct LocalBus {
    listeners: Mutex<Vec<Weak<Listener>>>,
}

#[derive(Debug)]
struct Listener {
    capacity: usize,
    queue: Mutex<Queue>,
    arrived: Condvar,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Arc<Message>>,
    /// Dropped after everything in the queue.
    lost: u64,
}

impl LocalBus {
    /// A bus without listeners.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }
}

impl Bus for LocalBus {
    fn publish(&self, message: Message) {
        let message = Arc::new(message);
        self.listeners.lock().retain(|listener| {
            let Some(listener) = listener.upgrade() else {
                return false;
            };
            let mut queue = listener.queue.lock();
            // After a loss nothing is taken until the listener knows of it: the order stays true.
            if queue.lost > 0 || queue.messages.len() >= listener.capacity {
                queue.lost += 1;
            } else {
                queue.messages.push_back(Arc::clone(&message));
            }
            listener.arrived.notify_one();
            true
        });
    }

    fn subscribe(&self, capacity: NonZeroUsize) -> Box<dyn Subscription> {
        let listener = Arc::new(Listener {
            capacity: capacity.get(),
            queue: Mutex::default(),
            arrived: Condvar::new(),
        });
        self.listeners.lock().push(Arc::downgrade(&listener));
        Box::new(LocalSubscription(listener))
    }
}

struct LocalSubscription(Arc<Listener>);

impl Subscription for LocalSubscription {
    fn next(&mut self, timeout: Duration) -> Option<Received> {
        let mut queue = self.0.queue.lock();
        self.0.arrived.wait_while_for(
            &mut queue,
            |queue| queue.messages.is_empty() && queue.lost == 0,
            timeout,
        );
        if let Some(message) = queue.messages.pop_front() {
            return Some(Received::Message(message));
        }
        match std::mem::take(&mut queue.lost) {
            0 => None,
            lost => Some(Received::Lost(lost)),
        }
    }
}
