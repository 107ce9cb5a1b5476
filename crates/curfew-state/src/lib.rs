//! The desired state and the bus: the traits that the rest of Curfew is written against, and the embedded engine.
//!
//! [`Store`] keeps what sessions are decided on, under one increasing revision; [`Bus`] carries what happened. The
//! embedded store is one SQLite file and one writer thread; the embedded bus is in process. No database or runtime
//! type may appear in a public signature, and no clock may live here: times come in with the changes.

mod bus;
pub mod conformance;
mod embedded;
mod sqlite;
mod state;
mod store;
mod weight;

pub use bus::{
    Acknowledgement, Bus, EnforcerEvent, Inventory, LocalBus, Message, OpenSession, Received,
    Subscription,
};
pub use embedded::EmbeddedStore;
pub use state::{
    ApiToken, BLOCKS, EndKey, Hash, ORDERS, Owner, POLICY_BYTES, Policies, PolicyPointer, Role,
    State, Subject, SubjectKey, Whose,
};
pub use store::{
    Accepted, Change, Commit, CommitError, Committed, Expected, Store, StoreError, Watch,
    WatchError,
};
pub use weight::Weight;
