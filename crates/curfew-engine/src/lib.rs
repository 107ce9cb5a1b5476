//! The pure session engine: what is open, what it may still do, and when and why it ends.
//!
//! Inputs and the time go in, actions come out of one queue. No I/O, clock, randomness, threads or environment may
//! live here; the shell calls [`Engine::poll`] when [`Engine::next_deadline`] comes.

mod action;
mod attribution;
mod binding;
mod change;
mod class;
mod clocks;
mod concurrency;
mod engine;
mod index;
mod input;
mod intern;
mod invariants;
mod loss;
mod open;
mod past;
mod postings;
mod reconnect;
mod record;
mod revoke;
mod session;
mod shadow;
mod subject;
mod telling;
mod timing;
mod wheel;
mod who;

pub use action::{Action, Admitted, DoorLease, Recorded, Refused, Report};
pub use engine::{Bounds, Engine};
pub use input::{
    Activity, AuditLog, Changes, EngineError, Input, Keeper, LastEnd, Open, Owner, Peer, Subject,
};
pub use invariants::Broken;
pub use session::{End, SessionView, State};
