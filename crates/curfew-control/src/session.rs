//! A session as the API shows it, what a list of them can be filtered by, and why one will end. The field names are a
//! contract. Deciding may not live here.

use std::net::SocketAddr;

use curfew_model::{
    BootInstant, Bound, EndReason, EnforcerId, Identity, Lease, Mode, Now, PolicyName, Provenance,
    Revision, SegmentName, ServiceName, SessionId, WallInstant, format_duration,
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{Door, schema};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum SessionState {
    /// It may pass.
    Open,
    /// It was ordered to end.
    Closing,
    /// It has ended.
    Ended,
    /// It was refused, and never passed anything.
    Refused,
}

/// Which sessions a list shows by where they stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// Open or closing: what has sockets.
    #[default]
    Living,
    /// Only those that may pass.
    Open,
    /// Only those that were ordered to end.
    Closing,
    /// Only those that ended not long ago.
    Ended,
    /// Only those that were refused not long ago.
    Refused,
    /// All that were admitted: open, closing and ended.
    All,
}

impl Standing {
    /// Whether a session that stands there is shown.
    #[must_use]
    pub fn shows(self, state: SessionState) -> bool {
        match self {
            Self::Living => matches!(state, SessionState::Open | SessionState::Closing),
            Self::Open => state == SessionState::Open,
            Self::Closing => state == SessionState::Closing,
            Self::Ended => state == SessionState::Ended,
            Self::Refused => state == SessionState::Refused,
            Self::All => state != SessionState::Refused,
        }
    }
}

/// One session. Instants are RFC 3339 UTC with milliseconds, bytes are payload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Session {
    /// Its id, a UUIDv7.
    #[schema(value_type = String)]
    pub id: SessionId,
    /// Who holds it: the first of its identities, or the address of its client where it carries none.
    #[schema(value_type = schema::Identity)]
    pub subject: Identity,
    /// Every identity that it carries.
    #[schema(value_type = Vec<schema::Identity>)]
    pub identities: Vec<Identity>,
    /// Its segments, the most sensitive first.
    #[schema(value_type = Vec<String>)]
    pub segments: Vec<SegmentName>,
    /// `enforce`, or `audit`: all its segments only record what their limits would do, and its deadlines end nothing.
    #[schema(value_type = String)]
    pub mode: Mode,
    /// The gateway service.
    #[schema(value_type = Option<String>)]
    pub service: Option<ServiceName>,
    /// Where it is enforced.
    pub door: Door,
    /// By whom.
    #[schema(value_type = String)]
    pub enforcer: EnforcerId,
    /// Where it stands.
    pub state: SessionState,
    /// Why it ends or ended.
    #[schema(value_type = Option<String>)]
    pub reason: Option<EndReason>,
    /// When it ended.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub ended_at: Option<WallInstant>,
    /// From the deadline that ended it until its door had closed it, in microseconds; none for an end without one.
    pub late_us: Option<u64>,
    /// What set its end off, in words.
    pub cause: Option<String>,
    /// Where it comes from.
    #[schema(value_type = String)]
    pub client: SocketAddr,
    /// Where it leads: an address, or the path of a Unix socket.
    pub upstream: Option<String>,
    /// When it was admitted.
    #[schema(value_type = String, format = DateTime)]
    pub opened_at: WallInstant,
    /// The end that nothing moves.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<WallInstant>,
    /// When it ends without payload until then.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub idle_deadline: Option<WallInstant>,
    /// When its subject has to have proved itself again.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub reauth_by: Option<WallInstant>,
    /// The end of its credential.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub credential_until: Option<WallInstant>,
    /// The end of its binding.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub binding_until: Option<WallInstant>,
    /// When it ends if nothing moves that: the first of these instants.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub deadline: Option<WallInstant>,
    /// The reason of its end if it does.
    #[schema(value_type = Option<String>)]
    pub deadline_reason: Option<EndReason>,
    /// Payload from the client.
    pub bytes_in: u64,
    /// Payload to the client.
    pub bytes_out: u64,
    /// The policies that matched.
    #[schema(value_type = Vec<String>)]
    pub policies: Vec<PolicyName>,
    /// The revision that it was last decided on.
    #[schema(value_type = u64)]
    pub revision: Revision,
}

impl Session {
    /// What is told of its end, or that it ends, if it does; none while it may pass.
    pub(crate) fn over(&self) -> Option<String> {
        self.reason.map(|reason| self.end_in_words(reason))
    }

    fn end_in_words(&self, reason: EndReason) -> String {
        let Some(at) = self.ended_at else {
            return format!("The session ends with {reason}: {}.", reason.text());
        };
        let happened = if self.state == SessionState::Refused {
            "was refused"
        } else {
            "ended"
        };
        let late = self.late_us.map_or_else(String::new, |late| {
            format!(", {late} µs after its deadline")
        });
        let cause = self.cause.as_ref();
        let cause = cause.map_or_else(String::new, |cause| format!("; what set it off: {cause}"));
        let why = reason.text();
        format!("The session {happened} at {at} with {reason}{late}: {why}{cause}.")
    }
}

/// Which sessions a list shows; what is none matches every session that stands where it says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Carries this identity: `kind:ID` or `kind:ISSUER#ID`.
    pub subject: Option<String>,
    /// Leads into this segment.
    pub segment: Option<SegmentName>,
    /// Goes through this service.
    pub service: Option<ServiceName>,
    /// Is enforced by this enforcer.
    pub enforcer: Option<EnforcerId>,
    /// Is enforced at this door.
    pub door: Option<Door>,
    /// Stands there.
    pub state: Standing,
    /// Was matched by this policy.
    pub policy: Option<PolicyName>,
}

impl Filter {
    /// Whether a session is shown.
    #[must_use]
    pub fn matches(&self, session: &Session) -> bool {
        fn is<T: PartialEq>(wanted: &Option<T>, found: &[T]) -> bool {
            wanted.as_ref().is_none_or(|wanted| found.contains(wanted))
        }
        let carries = |text: &String| {
            let carried = session.identities.iter().chain([&session.subject]);
            carried.into_iter().any(|identity| identity.is_called(text))
        };
        self.subject.as_ref().is_none_or(carries)
            && is(&self.segment, &session.segments)
            && is(&self.service, session.service.as_slice())
            && is(&self.enforcer, std::slice::from_ref(&session.enforcer))
            && is(&self.door, &[session.door])
            && self.state.shows(session.state)
            && is(&self.policy, &session.policies)
    }
}

/// One bound of a lease, and what set it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExplainedBound {
    /// `expires_at`, `reauth_by`, `credential_until`, `binding_until` or `idle_deadline`; or `coming`, which a policy will
    /// set whose window opens later.
    pub bound: String,
    /// When it passes.
    #[schema(value_type = String, format = DateTime)]
    pub at: WallInstant,
    /// The reason of the session's end if it does.
    #[schema(value_type = String)]
    pub reason: EndReason,
    /// The document, credential, binding or order that set it.
    pub by: String,
    /// The field of the document.
    pub field: Option<String>,
    /// Where it is written: file and line.
    pub place: Option<String>,
}

/// Why a session is there, and when and why it will end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Explanation {
    /// The session.
    pub session: Session,
    /// Every bound of its lease, the earliest first.
    pub bounds: Vec<ExplainedBound>,
    /// The same in a sentence.
    pub text: String,
}

impl Explanation {
    /// Explains a session by its lease, and by the end that a policy will set whose window opens later.
    #[must_use]
    pub fn new(
        session: Session,
        (lease, coming): (&Lease, Option<&Bound>),
        last_activity: BootInstant,
        now: Now,
    ) -> Self {
        let fixed = [
            ("expires_at", &lease.expires_at),
            ("reauth_by", &lease.reauth_by),
            ("credential_until", &lease.credential_until),
            ("binding_until", &lease.binding_until),
        ];
        let idle = lease.idle_timeout.as_ref().map(|(timeout, by)| Bound {
            at: last_activity.after(*timeout),
            reason: EndReason::IdleTimeout,
            by: by.clone(),
        });
        let mut bounds: Vec<(&str, &Bound)> = fixed
            .into_iter()
            .filter_map(|(name, bound)| bound.as_ref().map(|bound| (name, bound)))
            .chain(idle.iter().map(|bound| ("idle_deadline", bound)))
            .chain(coming.map(|bound| ("coming", bound)))
            .collect();
        bounds.sort_by_key(|(_, bound)| (bound.at, bound.reason));
        let text = match (session.reason, bounds.first()) {
            (Some(reason), _) => session.end_in_words(reason),
            (None, None) => "Nothing limits the session.".to_owned(),
            (None, Some((_, bound))) if session.mode == Mode::Audit => format!(
                "Nothing ends the session: its segments are in audit mode. {} would end it at {} with {}.",
                Words::of(&bound.by).by,
                now.wall_at(bound.at),
                bound.reason,
            ),
            (None, Some((_, bound))) => {
                let end = |bound: &Bound, but: &str| {
                    format!(
                        "in {} at {} with {}{but}: {} set this.",
                        format_duration(bound.at.since(now.boot)),
                        now.wall_at(bound.at),
                        bound.reason,
                        Words::of(&bound.by).by,
                    )
                };
                if bound.reason == EndReason::IdleTimeout {
                    let first = end(bound, " unless it is used before then");
                    let last = bounds.get(1).map_or_else(String::new, |(_, bound)| {
                        format!(" At the latest it ends {}", end(bound, ""))
                    });
                    format!("The session ends {first}{last}")
                } else {
                    format!(
                        "The session ends {}",
                        end(bound, " unless something ends it earlier")
                    )
                }
            }
        };
        let bounds = bounds
            .into_iter()
            .map(|(name, bound)| {
                let Words { by, field, place } = Words::of(&bound.by);
                ExplainedBound {
                    bound: name.to_owned(),
                    at: now.wall_at(bound.at),
                    reason: bound.reason,
                    by,
                    field,
                    place,
                }
            })
            .collect();
        Self {
            session,
            bounds,
            text,
        }
    }
}

/// A provenance in words.
struct Words {
    by: String,
    field: Option<String>,
    place: Option<String>,
}

impl Words {
    fn of(provenance: &Provenance) -> Self {
        let plain = |by: &str| Self {
            by: by.to_owned(),
            field: None,
            place: None,
        };
        match provenance {
            Provenance::Document {
                document,
                field,
                place,
                ..
            } => Self {
                by: document.clone(),
                field: Some(field.clone()),
                place: place.clone(),
            },
            Provenance::Credential => plain("the credential"),
            Provenance::Binding => plain("the binding"),
            Provenance::Order(words) => plain(words),
        }
    }
}
