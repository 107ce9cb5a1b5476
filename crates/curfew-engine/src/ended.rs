//! Sessions that ended not long ago, for whoever asks what became of one. The living may not live here.

use std::{collections::VecDeque, sync::Arc};

use curfew_model::{EndReason, SessionId, Target};
use hashbrown::HashMap;

use crate::{
    Activity, End, Engine, SessionView, State,
    class::{Kept, Ties},
    record::Record,
    session::Parts,
    who::Encoded,
};

/// One of them, as it was.
#[derive(Debug)]
struct Ended {
    record: Record,
    kept: Arc<Kept>,
    who: Encoded,
    target: Target,
    ties: Ties,
    reason: EndReason,
    end: End,
}

/// The last ones.
#[derive(Debug, Default)]
pub(crate) struct EndedSessions {
    by_id: HashMap<SessionId, Ended>,
    /// In the order of their ends.
    order: VecDeque<SessionId>,
}

impl EndedSessions {
    fn keep(&mut self, ended: Ended, bound: usize) {
        let id = ended.record.id;
        if self.by_id.insert(id, ended).is_none() {
            self.order.push_back(id);
        }
        while self.order.len() > bound {
            if let Some(oldest) = self.order.pop_front() {
                self.by_id.remove(&oldest);
            }
        }
    }

    /// The last word on what a session moved; it may come after the end.
    pub(crate) fn moved(&mut self, activity: Activity) {
        if let Some(ended) = self.by_id.get_mut(&activity.id) {
            ended.record.moved(activity);
        }
    }
}

impl Engine {
    /// Keeps what is known of a session whose end goes on record now.
    pub(crate) fn keep_ended(&mut self, slot: u32, reason: EndReason, cause: Option<String>) {
        let Some(parts) = self.parts(slot) else {
            return;
        };
        let ended = Ended {
            record: parts.record.clone(),
            kept: Arc::clone(parts.kept),
            who: Arc::clone(parts.who),
            target: parts.target.clone(),
            ties: *parts.ties,
            reason,
            end: End {
                at: self.now.wall,
                cause,
            },
        };
        self.ended_sessions.keep(ended, self.bounds.ended);
    }

    /// A session that ended not long ago, and is at the door no more.
    #[must_use]
    pub fn ended(&self, id: SessionId) -> Option<SessionView> {
        let ended = self.ended_sessions.by_id.get(&id)?;
        if self.table.find(id).is_some() {
            return None;
        }
        let parts = Parts {
            record: &ended.record,
            kept: &ended.kept,
            who: &ended.who,
            target: &ended.target,
            ties: &ended.ties,
        };
        let state = State::Ended(ended.reason);
        self.view(&parts, state, Some(ended.end.clone()))
    }

    /// The ids of all that [`Engine::ended`] knows.
    pub fn ended_ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        let gone = |id: &SessionId| self.table.find(*id).is_none();
        self.ended_sessions.order.iter().copied().filter(gone)
    }
}
