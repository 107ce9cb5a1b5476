//! What control needs of the running enforcers, as a trait that the binary implements. No enforcer, door or network
//! type may appear here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use curfew_model::{
    Binding, BindingKey, BootInstant, EnforcerId, Revision, RevocationId, SegmentName, ServiceName,
    SessionId, WallInstant,
};
use curfew_state::Commit;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Explanation, Filter, Session};

/// Where sessions are enforced.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "lowercase")]
pub enum Door {
    /// In the kernel.
    Kernel,
    /// At the gateway.
    Gateway,
    /// In Envoy.
    Envoy,
}

impl Door {
    /// The word used in metrics and messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Gateway => "gateway",
            Self::Envoy => "envoy",
        }
    }
}

/// The sessions of every enforcer, living or ended not long ago. Methods may block: they are called on threads that may.
pub trait Fleet: Send + Sync {
    /// The sessions that a filter lets through, by id, from the first after `after`; at most `limit`.
    fn sessions(&self, filter: &Filter, after: Option<SessionId>, limit: usize) -> Vec<Session>;

    /// One session, living or ended not long ago; none if it is not known.
    fn session(&self, id: SessionId) -> Option<Session>;

    /// Why a session is there and when it will end or ended; none if it is not known.
    fn explain(&self, id: SessionId) -> Option<Explanation>;

    /// Ends one session now, in audit mode too, and returns when its door has done it.
    ///
    /// # Errors
    /// [`FleetError`] when it is not open, or its enforcer does not answer.
    fn cancel(&self, id: SessionId, cause: &str) -> Result<Outcome, FleetError>;

    /// Takes fresh proof of the session's subject into account.
    ///
    /// # Errors
    /// [`FleetError::ProofRequired`] when there is none, or the other variants.
    fn renew(&self, id: SessionId) -> Result<Session, FleetError>;

    /// Has every enforcer carry out a commit now, and gives the answer of each; one that has not answered within
    /// `wait` is unreachable, and follows later by its own watch. For revocations it is called before the commit is
    /// durable. A commit that an enforcer knows already changes nothing there. The revision of an order in it is that
    /// of the commit.
    fn apply(&self, commit: &Commit, wait: Duration) -> Vec<Outcome>;

    /// Has every enforcer let go of an order that it was told before the state refused it. What the order ended stays
    /// ended; it keeps nobody out any more.
    fn withdraw(&self, order: RevocationId);

    /// How many sessions are living, by their first segment and door.
    fn open(&self) -> Vec<OpenCount>;

    /// Every enforcer that is known.
    fn enforcers(&self) -> Vec<Enforcer>;

    /// Has an enforcer take its wall clock as it is, though a later time is on record (rule 10), and gives it as it is
    /// then. What it recorded before is on record when this returns.
    ///
    /// # Errors
    /// [`FleetError`] when it is not known, does not answer, or its records are slow.
    fn accept_clock(&self, id: &EnforcerId) -> Result<Enforcer, FleetError>;

    /// That an enforcer took its clock as it was at `at` is on record: its next start knows that, whatever becomes of the
    /// record.
    ///
    /// # Errors
    /// [`FleetError`] when it is not known, does not answer, or cannot note it.
    fn clock_accepted(&self, id: &EnforcerId, at: WallInstant) -> Result<(), FleetError>;

    /// The bindings that `curfew.yaml` holds, by key. They come and go with it, and not through the API.
    fn configured(&self) -> Arc<BTreeMap<BindingKey, Binding>>;
}

/// Why an order to one enforcer could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FleetError {
    /// No such session is open.
    #[error("session {0} is not open: it ended, or never was")]
    Unknown(SessionId),
    /// A renewal without proof.
    #[error(
        "session {0} renews only when its subject proves itself again: have the source of its binding refresh it first"
    )]
    ProofRequired(SessionId),
    /// No enforcer of this name is known.
    #[error("there is no enforcer {0}: `curfew enforcers list` shows those that are known")]
    UnknownEnforcer(EnforcerId),
    /// What it did is not on record, or not noted for its next start.
    #[error("enforcer {0} judges by its clock, and would not after a restart: {1}; try again")]
    NotKept(EnforcerId, String),
    /// The enforcer of the session does not answer.
    #[error("enforcer {0} does not answer: the session ends at its deadline; try again")]
    Unreachable(EnforcerId),
}

/// Whether an enforcer answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// It did what it was told.
    Done,
    /// It did, and its records of that are slow to come into the audit log.
    Unrecorded,
    /// It did not answer in time.
    Unreachable,
}

/// What one enforcer did with a commit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Outcome {
    /// Which.
    #[schema(value_type = String)]
    pub enforcer: EnforcerId,
    /// Whether it answered.
    pub answer: Answer,
    /// Sessions that the commit concerns.
    pub matched: u64,
    /// Of these, closed.
    pub closed: u64,
    /// Of these, only recorded, in audit mode.
    pub audit_only: u64,
    /// When its door had closed the last of them, on this host's clock; none where it closed none, or does not know.
    #[serde(skip)]
    pub closed_at: Option<BootInstant>,
}

/// Open sessions by segment and door.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenCount {
    /// The first segment; none for sessions into no segment.
    pub segment: Option<SegmentName>,
    /// The door.
    pub door: Door,
    /// How many.
    pub open: u64,
}

/// One enforcer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Enforcer {
    /// Its name.
    #[schema(value_type = String)]
    pub id: EnforcerId,
    /// Its doors.
    pub doors: Vec<Door>,
    /// The services of its gateway.
    #[schema(value_type = Vec<String>)]
    pub services: Vec<ServiceName>,
    /// The revision that it has applied.
    #[schema(value_type = u64)]
    pub revision: Revision,
    /// How many sessions it has open.
    pub open: u64,
    /// When it was last heard.
    #[schema(value_type = String, format = DateTime)]
    pub heard_at: WallInstant,
    /// How much earlier its wall clock is than the latest time on record, in milliseconds. As long as it is, admissions
    /// are judged by that time.
    pub clock_behind_ms: u64,
}
