//! The shell around the engine that every door shares: its lock, its timer, and the way between engine and door.
//!
//! Decisions and lease arithmetic may not live here, nor anything of one door.

mod door;
mod enforcer;
mod fatal;
mod scheduling;
mod sink;
mod timer;

pub use curfew_engine::{
    Activity, Admitted, AuditLog, Bounds, Changes, DoorLease, Engine, EngineError, Input, Keeper,
    LastEnd, Open, Owner, Peer, Recorded, Refused, Report, SessionView, State, Subject,
};
pub use door::{Caps, Closed, Door, Gone, Order, Outcome};
pub use enforcer::{Deadlines, Enforcer};
pub use fatal::Fatal;
pub use scheduling::{Scheduling, ask_for_real_time};
pub use sink::{Close, Record, Sink};
