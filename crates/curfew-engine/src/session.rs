//! One session as inventory and `explain` see it. Keeping it may not live here.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use curfew_model::{
    BootInstant, Bound, EndReason, Facts, Lease, Mode, Now, PolicyName, Revision, SegmentName,
    SessionId, Target, WallInstant,
};

use crate::{
    Engine,
    class::{Kept, Ties},
    record::{NEVER, Record},
    who::{self, Encoded},
};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may pass.
    Open,
    /// It was ordered to end for this reason, and the door has not reported the end yet.
    Closing(EndReason),
    /// It ended for this reason.
    Ended(EndReason),
    /// It was refused for this reason, and never passed anything.
    Refused(EndReason),
}

/// One session, for inventory and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Where it stands.
    pub state: State,
    /// Its end, if it has ended, or its refusal.
    pub end: Option<End>,
    /// What is known of it, as `decide` sees it.
    pub facts: Facts,
    /// What it leads to.
    pub target: Target,
    /// Its segments, the most sensitive first.
    pub segments: Vec<SegmentName>,
    /// Whether its limits act, or what they would do is only recorded.
    pub mode: Mode,
    /// The policies that matched.
    pub policies: Vec<PolicyName>,
    /// The revision that it was last decided on.
    pub revision: Revision,
    /// Its lease with the provenance of each bound.
    pub lease: Lease,
    /// The first end that a policy will set whose window opens later, if the lifetime and the re-authentication of the
    /// lease come after it.
    pub coming: Option<Bound>,
    /// The last payload that is known of.
    pub last_activity: BootInstant,
    /// Payload from the client, in bytes.
    pub bytes_in: u64,
    /// Payload to the client, in bytes.
    pub bytes_out: u64,
}

/// The end of a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// When it went on record.
    pub at: WallInstant,
    /// What set it off, in words.
    pub cause: Option<String>,
    /// How long after its deadline it was closed; none where no deadline ended it, or the door has not said so yet.
    pub late: Option<Duration>,
}

/// What a session consists of, with what it shares.
pub(crate) struct Parts<'a> {
    pub(crate) record: &'a Record,
    pub(crate) kept: &'a Arc<Kept>,
    pub(crate) who: &'a Encoded,
    pub(crate) target: &'a Arc<Target>,
    pub(crate) ties: &'a Ties,
}

impl Engine {
    /// One session as it stands.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<SessionView> {
        let parts = self.parts(self.table.find(id)?)?;
        let state = parts.record.closing.map_or(State::Open, State::Closing);
        self.view(&parts, state, None)
    }

    /// What a session consists of.
    pub(crate) fn parts(&self, slot: u32) -> Option<Parts<'_>> {
        let record = self.table.get(slot)?;
        Some(Parts {
            record,
            kept: self.classes.get(record.class)?,
            who: self.whos.get(record.who)?,
            target: self.targets.get(record.target)?,
            ties: self.ties.get(record.ties)?,
        })
    }

    /// A session as it is shown.
    pub(crate) fn view(
        &self,
        parts: &Parts<'_>,
        state: State,
        end: Option<End>,
    ) -> Option<SessionView> {
        let Parts {
            record, kept, ties, ..
        } = parts;
        let facts = facts_of(parts, self.now)?;
        Some(SessionView {
            id: record.id,
            state,
            end,
            target: facts.target.clone(),
            facts,
            segments: kept.names.to_vec(),
            mode: if kept.class.is_audit() {
                Mode::Audit
            } else {
                Mode::Enforce
            },
            policies: kept.class.policies.to_vec(),
            revision: ties.decided_on,
            lease: kept.class.lease(record, ties),
            coming: kept.class.ahead(ties),
            last_activity: BootInstant(record.last),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
        })
    }

    /// The facts of a session, as `decide` takes them at `now`.
    pub(crate) fn facts(&self, slot: u32, now: Now) -> Option<Facts> {
        facts_of(&self.parts(slot)?, now)
    }
}

fn facts_of(parts: &Parts<'_>, now: Now) -> Option<Facts> {
    let Parts {
        record,
        who,
        target,
        ties,
        ..
    } = parts;
    let who = who::decode(who)?;
    let wall = |at: u64| (at != NEVER).then(|| now.wall_at(BootInstant(at)));
    let mut facts = Facts {
        identities: who.own.identities,
        groups: who.own.groups,
        device: who.device,
        attributes: who.own.attributes,
        client: SocketAddr::new(who.client, record.port),
        target: Target::clone(target),
        opened_at: BootInstant(record.opened_at),
        proved_at: (ties.proved != NEVER).then_some(BootInstant(ties.proved)),
        credential_until: wall(ties.credential),
        binding_until: wall(ties.binding),
        ambiguous: who.own.ambiguous,
    };
    who::merge(&mut facts, &who.bound);
    Some(facts)
}
