//! The words of Curfew as types: ids, instants, segments, subjects, limits, leases, reasons, revocations, events.
//!
//! Plain data and arithmetic on it. No I/O, no clock, no randomness, no protocol or database types may live here:
//! every function that needs the time takes it as a parameter.

mod event;
mod facts;
mod id;
mod lease;
mod limits;
mod reason;
mod revocation;
mod segment;
mod subject;
mod text;
mod time;

pub use event::{Detail, Event, EventKind};
pub use facts::{Facts, Target, UpstreamAddress};
pub use id::{
    DeviceId, EnforcerId, InvalidId, InvalidName, PolicyName, Revision, RevocationId, SegmentName,
    ServiceName, SessionId,
};
pub use lease::{Bound, Deadline, Lease, Provenance};
pub use limits::{Credential, Reconnect};
pub use reason::{EndReason, UnknownReason};
pub use revocation::{Block, Revocation, Scope};
pub use segment::{Access, LiveOnLoss, LossRule, Mode, NewOnLoss, OnAdopt, Sensitivity};
pub use subject::{Binding, BindingKey, Identity, Issuer, Kind, Proof, canonical_net, quoted};
pub use text::{clean, clean_lines, steers};
pub use time::{
    BootInstant, Clock, Now, ParseDurationError, WallInstant, format_duration, parse_duration,
};
