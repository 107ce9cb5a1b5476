//! The audit log: hash-chained, signed, append-only segment files, and their offline verification (I9).
//!
//! A record is one JSON line; `hash` is the SHA-256 of its bytes before `,"hash":`, and `prev` is the hash of the
//! record before. Heads (the place reached, signed with Ed25519 after each write) are kept beside and can be exported.
//! A log that cannot keep records says so and counts what it lost; it never makes a caller wait. No clock may live here:
//! the time comes in as a parameter. Sending records elsewhere is for other crates.

mod carried;
mod counts;
mod error;
mod files;
mod head;
mod read;
mod record;
mod report;
mod segment;
mod verify;
mod whole;
mod writer;

pub use error::{AppendError, AuditError, DurableError};
pub use head::Head;
pub use read::{Lines, export, newest_head, tail};
pub use record::{Digest, Entry, LogEvent, MAX_RECORD, Record, RecordKind};
pub use report::{Finding, KeyFrom, Known, Place, Problem, Report, Truncation};
pub use segment::is_log;
pub use verify::{verify, verify_export};
pub use whole::replace;
pub use writer::{Health, Log, Options, Ticket};
