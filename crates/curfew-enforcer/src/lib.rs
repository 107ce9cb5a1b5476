//! The shell around the engine that every door shares: its lock, its timer, and the way between engine and door.
//!
//! Decisions and lease arithmetic may not live here, nor anything of one door.

mod door;
mod enforcer;
mod scheduling;
mod timer;

pub use curfew_engine::{
    Admitted, AuditLog, Bounds, Concerns, Engine, EngineError, Input, Keeper, LastEnd, Open, Peer,
    Refused, Report, SessionView, State, Subject,
};
pub use door::{Activity, Caps, Door, Gone, Order, Outcome};
pub use enforcer::{Deadlines, Enforcer, Sink};
pub use scheduling::{Scheduling, ask_for_real_time};
