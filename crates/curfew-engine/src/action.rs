//! What the engine answers and orders. How a door carries it out may not live here.

use std::{
    collections::{BTreeMap, HashMap},
    net::SocketAddr,
    sync::Arc,
};

use curfew_model::{
    BootInstant, Deadline, Detail, EndReason, Event, EventKind, Lease, PolicyName, Revision,
    SegmentName, SessionId, Target, WallInstant,
};

use crate::who::{self, Encoded, Who};

/// One order to the shell, in the order of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// End it now.
    Close {
        /// Which.
        id: SessionId,
        /// Why: what the client is told and the audit log says.
        reason: EndReason,
        /// The deadline that ended it, from which lateness is counted; none for an order.
        deadline: Option<BootInstant>,
    },
    /// Tell the client of a coming end; the answer, where it was told, is [`crate::Input::Warned`].
    Warn {
        /// Which.
        id: SessionId,
        /// When it ends, and why.
        deadline: Deadline,
    },
    /// Ask the door when these last moved payload; the answer is [`crate::Input::Activity`].
    Probe(
        /// Which.
        Vec<SessionId>,
    ),
    /// The deadline for the door's own copy, where it moved or where the door decided itself. A door that waits for
    /// the answer has the first one from there.
    SetLease {
        /// Which.
        id: SessionId,
        /// The copy.
        lease: DoorLease,
    },
    /// Put it on record.
    Record(Recorded),
}

/// Something for the record, cheap to make while the engine is held; [`Recorded::into_event`] spells it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Its place among all records of this engine, from zero without gaps: the order in which things happened. They may
    /// be handed over in another, by the threads that carry out what is ordered.
    pub number: u64,
    /// When.
    pub at: WallInstant,
    /// What.
    pub event: EventKind,
    /// The session concerned.
    pub session: Option<SessionId>,
    /// Why it ended or was refused.
    pub reason: Option<EndReason>,
    /// The revision that it was decided on.
    pub revision: Revision,
    /// What set it off, in words.
    pub cause: Option<String>,
    pub(crate) who: Option<Encoded>,
    pub(crate) segments: Option<Arc<[SegmentName]>>,
    pub(crate) coming: Option<Coming>,
}

/// Names that a record lists of many: it has to stay short enough for the log.
const LISTED: usize = 50;

/// More of a session that comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Coming {
    pub(crate) target: Arc<Target>,
    /// Those that matched.
    pub(crate) policies: Option<Arc<[PolicyName]>>,
    /// The client's port.
    pub(crate) port: u16,
    pub(crate) expires_at: Option<WallInstant>,
}

impl Coming {
    /// For the record, by name.
    fn told(&self, who: &Who) -> BTreeMap<String, Detail> {
        let identities: Vec<String> = who.identities().iter().map(ToString::to_string).collect();
        let client = SocketAddr::new(who.client, self.port);
        let policies = self.policies.iter().flat_map(|names| names.iter());
        let policies: Vec<String> = policies.map(ToString::to_string).collect();
        let told = [
            ("client", Some(client.to_string())),
            (
                "service",
                self.target.service.as_ref().map(ToString::to_string),
            ),
            ("upstream", self.target.upstream().map(ToString::to_string)),
            ("expires_at", self.expires_at.map(|at| at.to_string())),
            (
                "identities",
                (identities.len() > 1).then(|| identities.join(" ")),
            ),
            ("policies", listed(&policies)),
        ];
        let named =
            |(name, value): (&str, Option<String>)| Some((name.to_owned(), Detail::Text(value?)));
        told.into_iter().filter_map(named).collect()
    }
}

/// The first names of a list, and how many more there are; none of an empty one.
fn listed(names: &[String]) -> Option<String> {
    let (listed, more) = names.split_at_checked(LISTED).unwrap_or((names, &[]));
    let words = listed.join(" ");
    match (listed, more) {
        ([], _) => None,
        (_, []) => Some(words),
        _ => Some(format!("{words} and {} more", more.len())),
    }
}

impl Recorded {
    /// The event with its subject and segments, and what is known of a session that comes.
    #[must_use]
    pub fn into_event(self) -> Event {
        let who = self.who.and_then(|bytes| who::decode(&bytes));
        let coming = self.coming.zip(who.as_ref());
        Event {
            session: self.session,
            segments: self.segments.map_or_else(Vec::new, |names| names.to_vec()),
            reason: self.reason,
            cause: self.cause,
            detail: coming.map_or_else(BTreeMap::new, |(coming, who)| coming.told(who)),
            subject: who.map(|who| who.holder()),
            ..Event::new(self.event, self.at, self.revision)
        }
    }
}

/// What a door knows of a lease: after it, it passes nothing, though the engine has not spoken yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorLease {
    /// The earliest end that activity does not move; none for never, and in audit mode.
    pub until: Option<BootInstant>,
    /// Counts what doors were given. Orders may come in another sequence than they were given in: of two for one
    /// session, the higher number holds.
    pub number: u64,
}

/// A session that may pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// Its lease.
    pub lease: Lease,
    /// The destination segments, the most sensitive first.
    pub segments: Arc<[SegmentName]>,
    /// What the door holds of the lease.
    pub for_door: DoorLease,
}

/// A session that may not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The reason.
    pub reason: EndReason,
    /// What refuses, in words for operators.
    pub cause: String,
    /// When the wait after an end by lifetime is over, where that is what refuses.
    pub retry_at: Option<BootInstant>,
}

/// What an input did to live sessions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Sessions that it concerned.
    pub matched: u64,
    /// Of these, ordered to close.
    pub closed: u64,
    /// Of these, only recorded, because every segment is in audit mode.
    pub audit_only: u64,
    /// Index entries looked at: the work done.
    pub visited: u64,
    /// When the door had closed the last of them: the shell's to say, none where it closed none.
    pub closed_at: Option<BootInstant>,
}

/// What a change did to one session, the most last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// It lives on.
    Lives,
    /// It is recorded that it would have ended.
    WouldEnd,
    /// It was ordered to close.
    Closes,
}

impl Report {
    /// Counts what became of one session that was looked at.
    pub(crate) fn count(&mut self, fate: Fate) {
        self.visited += 1;
        self.matched += 1;
        self.closed += u64::from(fate == Fate::Closes);
        self.audit_only += u64::from(fate == Fate::WouldEnd);
    }
}

/// What a change of several parts did to live sessions: whom more than one part concerns is counted once, for the most
/// that became of it.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) report: Report,
    /// By slot, what the report says of sessions that a later part may concern too.
    counted: HashMap<u32, Fate>,
}

impl Tally {
    /// Counts what one part did to a session that a later one may concern.
    pub(crate) fn count(&mut self, slot: u32, fate: Fate) {
        let before = self.counted.get(&slot).copied();
        let most = before.map_or(fate, |before| before.max(fate));
        self.recount(before, fate);
        self.counted.insert(slot, most);
    }

    /// Counts what the last part did to a session: nothing is kept of it.
    pub(crate) fn count_last(&mut self, slot: u32, fate: Fate) {
        self.recount(self.counted.get(&slot).copied(), fate);
    }

    fn recount(&mut self, before: Option<Fate>, fate: Fate) {
        let Some(before) = before else {
            return self.report.count(fate);
        };
        self.report.visited += 1;
        if fate > before {
            self.report.audit_only -= u64::from(before == Fate::WouldEnd);
            self.report.audit_only += u64::from(fate == Fate::WouldEnd);
            self.report.closed += u64::from(fate == Fate::Closes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_names_the_first_are_listed_and_the_others_counted() {
        let names = |count| vec!["a".to_owned(); count];
        assert_eq!(listed(&names(0)), None);
        assert_eq!(listed(&names(2)).as_deref(), Some("a a"));
        let many = listed(&names(LISTED + 3)).unwrap();
        assert_eq!(many.matches("a ").count(), LISTED);
        assert!(many.ends_with("a and 3 more"), "{many}");
    }
}
