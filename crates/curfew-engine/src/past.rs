//! Sessions that ended or were refused not long ago, for whoever asks what became of one. The living may not live here.

use std::{collections::VecDeque, sync::Arc, time::Duration};

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
struct Past {
    record: Record,
    kept: Arc<Kept>,
    who: Encoded,
    target: Arc<Target>,
    ties: Ties,
    state: State,
    end: End,
}

/// The last ones.
#[derive(Debug)]
pub(crate) struct PastSessions {
    /// In the order of their ends, with the number of the first.
    kept: VecDeque<Past>,
    first: u64,
    /// Numbers.
    by_id: HashMap<SessionId, u64>,
    bound: usize,
}

impl PastSessions {
    /// Room for `bound` from the start: when many end at one deadline, none waits for room to be made.
    pub(crate) fn new(bound: usize) -> Self {
        Self {
            kept: VecDeque::with_capacity(bound),
            first: 0,
            by_id: HashMap::with_capacity(bound),
            bound,
        }
    }

    fn keep(&mut self, past: Past) {
        if self.kept.len() >= self.bound
            && let Some(oldest) = self.kept.pop_front()
        {
            let id = oldest.record.id;
            // Unless it came back and ended again.
            if self.by_id.get(&id) == Some(&self.first) {
                self.by_id.remove(&id);
            }
            self.first += 1;
        }
        let number = self.first + self.kept.len() as u64;
        self.by_id.insert(past.record.id, number);
        self.kept.push_back(past);
    }

    /// Their ids, the last end of each in order.
    fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        let numbered = (self.first..).zip(self.kept.iter().map(|past| past.record.id));
        numbered.filter_map(|(number, id)| (self.by_id.get(&id) == Some(&number)).then_some(id))
    }

    fn place(&self, id: SessionId) -> Option<usize> {
        usize::try_from(self.by_id.get(&id)? - self.first).ok()
    }

    fn get(&self, id: SessionId) -> Option<&Past> {
        self.kept.get(self.place(id)?)
    }

    fn get_mut(&mut self, id: SessionId) -> Option<&mut Past> {
        let place = self.place(id)?;
        self.kept.get_mut(place)
    }

    /// The last word on what a session moved; it may come after the end.
    pub(crate) fn moved(&mut self, activity: Activity) {
        if let Some(ended) = self.get_mut(activity.id) {
            ended.record.moved(activity);
        }
    }

    /// How late the door closed it.
    pub(crate) fn settle(&mut self, id: SessionId, late: Option<Duration>) {
        if let Some(ended) = self.get_mut(id) {
            ended.end.late = late.or(ended.end.late);
        }
    }
}

impl Engine {
    /// Keeps what is known of a session whose end goes on record now.
    pub(crate) fn keep_ended(&mut self, slot: u32, reason: EndReason, cause: Option<String>) {
        if let Some(ended) = self.as_it_was(slot, State::Ended(reason), cause) {
            self.ended_sessions.keep(ended);
        }
    }

    /// The same for one that is refused.
    pub(crate) fn keep_refused(&mut self, slot: u32, reason: EndReason, cause: String) {
        if let Some(refused) = self.as_it_was(slot, State::Refused(reason), Some(cause)) {
            self.refused_sessions.keep(refused);
        }
    }

    fn as_it_was(&self, slot: u32, state: State, cause: Option<String>) -> Option<Past> {
        let parts = self.parts(slot)?;
        Some(Past {
            record: parts.record.clone(),
            kept: Arc::clone(parts.kept),
            who: Arc::clone(parts.who),
            target: Arc::clone(parts.target),
            ties: *parts.ties,
            state,
            end: End {
                at: self.shown,
                cause,
                late: None,
            },
        })
    }

    /// A session that ended or was refused not long ago, and is at the door no more.
    #[must_use]
    pub fn past(&self, id: SessionId) -> Option<SessionView> {
        let ended = self.ended_sessions.get(id);
        let past = ended.or_else(|| self.refused_sessions.get(id))?;
        if self.table.find(id).is_some() {
            return None;
        }
        let parts = Parts {
            record: &past.record,
            kept: &past.kept,
            who: &past.who,
            target: &past.target,
            ties: &past.ties,
        };
        self.view(&parts, past.state, Some(past.end.clone()))
    }

    /// The ids of those that ended and that [`Engine::past`] knows.
    pub fn ended_ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        let gone = |id: &SessionId| self.table.find(*id).is_none();
        self.ended_sessions.ids().filter(gone)
    }

    /// The ids of those that were refused and that [`Engine::past`] knows.
    pub fn refused_ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        let gone = |id: &SessionId| self.table.find(*id).is_none();
        self.refused_sessions.ids().filter(gone)
    }
}
