//! The pure session engine: what is open, what it may still do, and when and why it ends.
//!
//! Inputs and the time go in, actions come out of one queue. No I/O, clock, randomness, threads or environment may
//! live here; the shell calls [`Engine::poll`] when [`Engine::next_deadline`] comes.

mod action;
mod binding;
mod change;
mod engine;
mod input;
mod intern;
mod invariants;
mod loss;
mod open;
mod record;
mod revoke;
mod session;
mod timing;
mod wheel;

pub use action::{Action, Admitted, Refused, Report};
pub use engine::{Bounds, Engine};
pub use input::{Activity, AuditLog, Concerns, EngineError, Input, LastEnd, Open, Peer};
pub use invariants::Broken;
pub use session::{SessionView, State};
