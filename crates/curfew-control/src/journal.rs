//! The audit log as control needs it: hand a record over, and hear when it is on disk.

use curfew_audit::{AppendError, DurableError, Entry, Head, Health, Log, Ticket};
use curfew_model::WallInstant;

/// What [`Journal::when_durable`] calls.
pub type WhenDurable = Box<dyn FnOnce(Result<(), DurableError>) + Send>;

/// Takes records, and says when they are on disk.
pub trait Journal: Send + Sync {
    /// Hands a record over. Never waits for the disk.
    ///
    /// # Errors
    /// [`AppendError`] when it was not taken.
    fn append(&self, entry: &Entry) -> Result<Ticket, AppendError>;

    /// Calls `then` once when the record is on disk, or never will be.
    fn when_durable(&self, ticket: Ticket, then: WhenDurable);

    /// How the log is.
    fn health(&self) -> Health;

    /// The place reached on disk, signed.
    fn head(&self, at: WallInstant) -> Head;
}

impl Journal for Log {
    fn append(&self, entry: &Entry) -> Result<Ticket, AppendError> {
        Self::append(self, entry)
    }

    fn when_durable(&self, ticket: Ticket, then: WhenDurable) {
        Self::when_durable(self, ticket, then);
    }

    fn health(&self) -> Health {
        Self::health(self)
    }

    fn head(&self, at: WallInstant) -> Head {
        Self::head(self, at)
    }
}
