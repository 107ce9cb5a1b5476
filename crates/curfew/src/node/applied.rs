//! What an enforcer was told of the desired state: which commits, and what of it is newer than a commit that comes late.
//! Telling it is `desired`'s.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use curfew_enforcer::Report;
use curfew_model::{BindingKey, Revision, RevocationId, WallInstant};
use curfew_state::{Change, Commit, Owner, SubjectKey};

/// Commits that are remembered, to know them again when the watch brings them.
const REMEMBERED: usize = 256;

/// What was carried out.
#[derive(Default)]
pub struct Applied {
    /// The newest revision.
    pub revision: Revision,
    /// The watch, which keeps the order, has brought everything up to here; ahead of it are orders of the API, in any.
    brought: Revision,
    pub bindings: BTreeSet<BindingKey>,
    pub subjects: BTreeSet<SubjectKey>,
    recent: VecDeque<(Commit, Report)>,
    /// What was changed ahead of the watch, by which revision last.
    ahead: BTreeMap<What, Revision>,
    /// Blocks that were lifted ahead of the watch.
    lifted: BTreeMap<RevocationId, (Revision, WallInstant)>,
}

/// What a later change replaces.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Policy(Owner),
    Binding(BindingKey),
    Subject(SubjectKey),
}

impl What {
    fn of(change: &Change) -> Option<Self> {
        match change {
            Change::ApplyPolicy { owner, .. } => Some(Self::Policy(*owner)),
            Change::Bind(binding) => Some(Self::Binding(binding.key.clone())),
            Change::Unbind(key) => Some(Self::Binding(key.clone())),
            Change::PutSubject(subject) => Some(Self::Subject(subject.key.clone())),
            Change::ForgetSubject(key) => Some(Self::Subject(key.clone())),
            Change::Revoke(_)
            | Change::Lift { .. }
            | Change::ForgetRevocation(_)
            | Change::PutToken(_)
            | Change::RemoveToken(_)
            | Change::Ended { .. }
            | Change::ForgetEnds { .. }
            | Change::WallSeen(_) => None,
        }
    }
}

impl Applied {
    /// The answer to a commit that is carried out already.
    pub fn known(&self, commit: &Commit) -> Option<Report> {
        let mut recent = self.recent.iter();
        let known = recent.find(|(known, _)| known.revision == commit.revision);
        let past = || (commit.revision <= self.brought).then(Report::default);
        known.map(|(_, report)| *report).or_else(past)
    }

    /// What is to be carried out of a change; nothing where a newer one of the same was before it.
    pub fn newest(&mut self, revision: Revision, change: &Change) -> Option<Change> {
        if let Some(what) = What::of(change) {
            let newest = self.ahead.entry(what).or_insert(revision);
            *newest = revision.max(*newest);
            return (*newest == revision).then(|| change.clone());
        }
        let mut change = change.clone();
        match &mut change {
            Change::Lift { id, at } => {
                self.lifted.insert(*id, (revision, *at));
            }
            Change::Revoke(order) => {
                if let Some((_, at)) = self.lifted.get(&order.id).filter(|(at, _)| *at > revision) {
                    order.lifted_at = Some(*at);
                }
            }
            _ => {}
        }
        Some(change)
    }

    /// A commit is carried out.
    pub fn remember(&mut self, commit: &Commit, report: Report) {
        self.revision = self.revision.max(commit.revision);
        self.recent.push_back((commit.clone(), report));
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
    }

    /// An order was not taken, and with it the commit that it came with.
    pub fn forget(&mut self, order: RevocationId) {
        let brings =
            |change: &Change| matches!(change, Change::Revoke(brought) if brought.id == order);
        self.recent
            .retain(|(commit, _)| !commit.changes.iter().any(brings));
    }

    /// Up to where nothing is missing.
    pub fn brought(&self) -> Revision {
        self.brought
    }

    /// The watch brought this revision, so that nothing up to it is carried out any more.
    pub fn bring(&mut self, revision: Revision) {
        self.brought = self.brought.max(revision);
        self.ahead.retain(|_, newest| *newest > revision);
        self.lifted.retain(|_, (newest, _)| *newest > revision);
    }

    /// The whole of this revision was told. What was carried out ahead of it is taken back by it: the watch brings it
    /// again.
    pub fn start_from(&mut self, revision: Revision) {
        self.revision = revision;
        self.brought = revision;
        self.recent.retain(|(known, _)| known.revision <= revision);
        self.ahead.clear();
        self.lifted.clear();
    }
}
