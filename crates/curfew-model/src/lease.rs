//! The lease: a session's permission to exist, and the only arithmetic on it (rule 16: one arithmetic).
//!
//! No caller compares deadlines on its own: it tightens a lease, or asks it for its deadline.

use std::{sync::Arc, time::Duration};

use crate::{BootInstant, EndReason, Revision};

/// What set a bound: a document's field, a credential, a binding, an order. Shown by `explain`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Provenance {
    /// A field of a policy document.
    Document {
        /// `Segment/payments-db`, `SessionPolicy/payments-dba`, `Defaults/critical`.
        document: String,
        /// The dotted path of the field, as in the document.
        field: String,
        /// Where it was written, `FILE:LINE`; none for built-in defaults.
        place: Option<String>,
        /// The revision of the set that it stands in; zero in one that is in no desired state.
        revision: Revision,
    },
    /// The end of what the subject presented.
    Credential,
    /// The end of the binding.
    Binding,
    /// An order or a signal, by its own words.
    Order(String),
}

impl Provenance {
    /// The same in a set of this revision.
    #[must_use]
    pub fn stamped(&self, revision: Revision) -> Self {
        match self {
            Self::Document {
                document,
                field,
                place,
                ..
            } => Self::Document {
                document: document.clone(),
                field: field.clone(),
                place: place.clone(),
                revision,
            },
            other => other.clone(),
        }
    }
}

/// An instant, the reason if it passes, and what set it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound {
    /// When.
    pub at: BootInstant,
    /// The reason of the session's end if this bound is its deadline.
    pub reason: EndReason,
    /// What set it.
    pub by: Arc<Provenance>,
}

impl Bound {
    /// The end that it is where it passes.
    #[must_use]
    pub fn deadline(&self) -> Deadline {
        Deadline {
            at: self.at,
            reason: self.reason,
        }
    }

    /// Earliest instant wins, ties by the order of the reasons.
    fn is_stricter_than(&self, other: &Self) -> bool {
        (self.at, self.reason) < (other.at, other.reason)
    }
}

/// The next end of a session, as its lease has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline {
    /// When.
    pub at: BootInstant,
    /// Why.
    pub reason: EndReason,
}

/// A session's permission to exist. A bound that is none never ends it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    /// Lifetime, end of grant, end of window: nothing moves it later.
    pub expires_at: Option<Bound>,
    /// Moves on fresh proof.
    pub reauth_by: Option<Bound>,
    /// Moves with the credential.
    pub credential_until: Option<Bound>,
    /// Moves with the binding.
    pub binding_until: Option<Bound>,
    /// Without payload, and what set it.
    pub idle_timeout: Option<(Duration, Arc<Provenance>)>,
    /// Warn this long before a deadline.
    pub warn_before: Option<Duration>,
}

fn strictest(mine: &mut Option<Bound>, other: Option<Bound>) {
    if let Some(other) = other
        && mine
            .as_ref()
            .is_none_or(|mine| other.is_stricter_than(mine))
    {
        *mine = Some(other);
    }
}

impl Lease {
    /// Makes this lease the strictest combination of itself and `other`: each bound the earliest, idle the
    /// shortest, the warning the longest. Commutative, associative, idempotent; never lengthens (I3).
    pub fn tighten(&mut self, other: Self) {
        strictest(&mut self.expires_at, other.expires_at);
        strictest(&mut self.reauth_by, other.reauth_by);
        strictest(&mut self.credential_until, other.credential_until);
        strictest(&mut self.binding_until, other.binding_until);
        if let Some((idle, by)) = other.idle_timeout
            && self
                .idle_timeout
                .as_ref()
                .is_none_or(|(mine, _)| idle < *mine)
        {
            self.idle_timeout = Some((idle, by));
        }
        self.warn_before = self.warn_before.max(other.warn_before);
    }

    /// The bounds of which what set them is `kept`, with the warning, and the others.
    #[must_use]
    pub fn divided(mut self, kept: impl Fn(&Provenance) -> bool) -> (Self, Self) {
        let mut others = Self::default();
        let part = |mine: &mut Option<Bound>, other: &mut Option<Bound>| {
            if mine.as_ref().is_some_and(|bound| !kept(&bound.by)) {
                *other = mine.take();
            }
        };
        part(&mut self.expires_at, &mut others.expires_at);
        part(&mut self.reauth_by, &mut others.reauth_by);
        part(&mut self.credential_until, &mut others.credential_until);
        part(&mut self.binding_until, &mut others.binding_until);
        if self.idle_timeout.as_ref().is_some_and(|(_, by)| !kept(by)) {
            others.idle_timeout = self.idle_timeout.take();
        }
        (self, others)
    }

    /// The earliest end, given the door's `last_activity`; none for a lease without limits.
    #[must_use]
    pub fn deadline(&self, last_activity: BootInstant) -> Option<Deadline> {
        let idle = self.idle_timeout.as_ref().map(|(idle, _)| Deadline {
            at: last_activity.after(*idle),
            reason: EndReason::IdleTimeout,
        });
        self.fixed_deadline().into_iter().chain(idle).min()
    }

    /// The earliest end that activity does not move.
    #[must_use]
    pub fn fixed_deadline(&self) -> Option<Deadline> {
        [
            &self.expires_at,
            &self.reauth_by,
            &self.credential_until,
            &self.binding_until,
        ]
        .into_iter()
        .flatten()
        .map(Bound::deadline)
        .min()
    }

    /// The end that a client is warned of: lifetime or re-authentication, whichever comes first (rule 11).
    #[must_use]
    pub fn warned_end(&self) -> Option<Deadline> {
        let bounds = [&self.expires_at, &self.reauth_by];
        bounds.into_iter().flatten().map(Bound::deadline).min()
    }
}
