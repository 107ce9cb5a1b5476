//! What the engine is told. Fetching any of it may not live here.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use curfew_model::{
    Binding, BindingKey, BootInstant, Deadline, EndReason, Facts, Issuer, Kind, Revision,
    Revocation, RevocationId, SegmentName, SessionId,
};
use curfew_policy::{Decide, Difference};

/// One thing that happened outside.
#[derive(Clone)]
pub enum Input {
    /// What follows is of this revision of the desired state.
    Commit(Revision),
    /// A policy set took effect.
    Policies {
        /// The set.
        set: Arc<dyn Decide>,
        /// Where it may decide differently than the one before: which live sessions have to be looked at.
        difference: Difference,
    },
    /// Several changes took effect together.
    Changes(Changes),
    /// A binding was made, refreshed or given to another subject.
    BindingSet(Keeper, Binding),
    /// A binding was removed.
    BindingRemoved(Keeper, BindingKey),
    /// What the desired state knows of a subject from now on.
    Subject(Subject),
    /// An order to end sessions; the same id again changes nothing, but for a lift that was missed.
    Revoke(Revocation),
    /// The block of an order was lifted. Who may lift it is the control plane's to check.
    Lift(RevocationId),
    /// The desired state did not take an order after all. What it ended stays ended; it keeps nobody out any more.
    Withdraw(RevocationId),
    /// The door's answer to a probe, or its own report.
    Activity(Vec<Activity>),
    /// The door warned the client of a session of this deadline.
    Warned {
        /// Which.
        id: SessionId,
        /// The deadline of the order.
        deadline: Deadline,
    },
    /// Whose the sockets of sessions are of which it was not known.
    Owners(Vec<(SessionId, Owner)>),
    /// The client of a session whose warning came too early for its door can be told now.
    Hears(SessionId),
    /// A session has no socket any more.
    Ended {
        /// Which.
        id: SessionId,
        /// Why, if the engine did not order it.
        reason: EndReason,
        /// What the door knows beyond that, in words for operators.
        cause: Option<String>,
        /// The last word on what it moved; none where the door does not know.
        moved: Option<Activity>,
        /// How long after its deadline it was closed; none where no deadline ended it.
        late: Option<Duration>,
    },
    /// An operator ends one session; acts in audit mode too.
    Cancel {
        /// Which.
        id: SessionId,
        /// In the operator's words.
        cause: String,
    },
    /// The subject's proof is fresher than the lease: take it into account.
    Renew(SessionId),
    /// Every session that has a socket.
    Snapshot {
        /// When the door began to list them: later openings are not missing.
        taken_at: BootInstant,
        /// All of them. One that the engine does not know is adopted: without `decided_at` it is older than the
        /// agent, and its segments' `onAdopt` says what becomes of it. Where the door does not know when it was
        /// opened, its `opened_at` is the time of the snapshot.
        sockets: Vec<Open>,
    },
    /// The control plane was heard.
    Contact,
    /// The door decides on this revision from now on: neither it nor a snapshot reports a session any more that is not
    /// known here and was decided on an older one. A door that decides itself is sure of that after a snapshot taken
    /// on this revision; one that asks always is. Orders that no session can match are dropped.
    Installed(Revision),
    /// Whether the audit log takes records.
    Audit(AuditLog),
    /// The wall clock is right though it was later before: from now on admissions are judged by it. Only an administrator
    /// may say so (rule 10).
    AcceptClock,
    /// The process stops: every session ends, in audit mode too, since its carrier is going away.
    Shutdown,
}

impl Input {
    /// Whether somebody is bound by uid.
    #[must_use]
    pub fn binds_a_uid(&self) -> bool {
        let by_uid = |binding: &Binding| matches!(binding.key, BindingKey::Uid(_));
        match self {
            Self::BindingSet(_, binding) => by_uid(binding),
            Self::Changes(changes) => changes.bound.iter().any(|(_, binding)| by_uid(binding)),
            _ => false,
        }
    }

    /// A session has no socket any more, and nothing else is known of its end.
    #[must_use]
    pub fn ended(id: SessionId, reason: EndReason) -> Self {
        Self::Ended {
            id,
            reason,
            cause: None,
            moved: None,
            late: None,
        }
    }
}

/// Changes of which live sessions feel the outcome alone: whom the state before and the one after admit lives on, whatever
/// lies between.
#[derive(Clone, Default)]
pub struct Changes {
    /// A policy set that took effect, and where it may decide differently than the one before: which live sessions have
    /// to be looked at for it.
    pub policies: Option<(Arc<dyn Decide>, Difference)>,
    /// Bindings that were made, refreshed or given to another subject.
    pub bound: Vec<(Keeper, Binding)>,
    /// Bindings that were removed; they make room for the others.
    pub unbound: Vec<(Keeper, BindingKey)>,
}

/// Who keeps a binding. What two keepers say of one address holds side by side; if they name two subjects, the address
/// is unattributed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keeper {
    /// The configuration of this enforcer.
    Config,
    /// The desired state.
    State,
}

/// What is known of a subject apart from its bindings; one without groups and attributes is forgotten. It counts for
/// sessions in which the subject is proven or bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What it names.
    pub kind: Kind,
    /// Who vouches.
    pub issuer: Issuer,
    /// The name.
    pub id: String,
    /// Its groups.
    pub groups: Vec<String>,
    /// For conditions, by dotted name.
    pub attributes: BTreeMap<String, String>,
}

/// Whether the audit log takes records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AuditLog {
    /// It does.
    #[default]
    Writable,
    /// It does not: high and critical segments take no new session. Closing always works.
    Full,
}

/// What is known of the client's process, on the same host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Peer {
    /// Whose the client's socket is.
    pub owner: Owner,
    /// Its cgroup path.
    pub cgroup: Option<String>,
}

/// Whose a client's socket is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Owner {
    /// Nobody's on this host.
    #[default]
    Elsewhere,
    /// This user's.
    Uid(u32),
    /// It is on this host, and whose it is could not be learnt: while there is a binding by uid, that may be anybody.
    Unknown,
    /// The door does not ask while there is no binding by uid. Before the first one takes effect it says whose the sockets
    /// of its sessions are, and of those that it is still opening before it passes a byte on ([`Input::Owners`]).
    Unasked,
}

/// A session that wants to pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its id.
    pub id: SessionId,
    /// What the door knows; the engine adds what bindings say.
    pub facts: Facts,
    /// The client's process.
    pub peer: Peer,
    /// The revision that the door already admitted it on; none if it waits for the answer.
    pub decided_at: Option<Revision>,
}

/// What a session moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Activity {
    /// Which.
    pub id: SessionId,
    /// The last payload in either direction.
    pub last: BootInstant,
    /// Payload from the client, in bytes.
    pub bytes_in: u64,
    /// Payload to the client, in bytes.
    pub bytes_out: u64,
}

/// The last end by lifetime of a subject's session into a segment: kept durably by the enforcer (rule 3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastEnd {
    /// The subject as text, `kind:ISSUER#ID`, or `address:IP` without one.
    pub subject: String,
    /// The segment.
    pub segment: SegmentName,
    /// When.
    pub at: BootInstant,
}

/// Why an input could not be carried out.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// No such session is open.
    #[error("session {0} is not open here: it ended, or another enforcer has it")]
    UnknownSession(SessionId),
    /// A renewal without proof.
    #[error(
        "proof_required: session {0} renews only when its subject proves itself again; refresh its binding first"
    )]
    ProofRequired(SessionId),
    /// No such order.
    #[error("revocation {0} is not known here")]
    UnknownRevocation(RevocationId),
    /// A bound was reached.
    #[error("{what} are full at {limit}: raise the bound or remove some")]
    Full {
        /// Of what there are too many.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
}
