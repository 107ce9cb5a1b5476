//! What an enforcer was told of the desired state: which commits, and what of it is newer than a commit that comes late.
//! Telling it is `desired`'s.

use std::collections::{BTreeMap, BTreeSet};

use curfew_enforcer::Report;
use curfew_model::{BindingKey, Revision, RevocationId, WallInstant};
use curfew_state::{Change, Commit, Owner, SubjectKey};

/// Commits that are remembered after the watch has brought them, for whoever asks again what they did.
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
    /// All that was carried out ahead of the watch, and some of what it brought.
    recent: BTreeMap<Revision, Known>,
    /// What was changed ahead of the watch, by which revision last.
    ahead: BTreeMap<What, Revision>,
    /// Blocks that were lifted ahead of the watch.
    lifted: BTreeMap<RevocationId, (Revision, WallInstant)>,
}

/// A commit that was carried out.
struct Known {
    report: Report,
    /// Its orders.
    orders: Vec<RevocationId>,
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
            | Change::ForgetEnds { .. } => None,
        }
    }
}

impl Applied {
    /// The answer to a commit that is carried out already.
    pub fn known(&self, commit: &Commit) -> Option<Report> {
        let known = self.recent.get(&commit.revision);
        let past = || (commit.revision <= self.brought).then(Report::default);
        known.map(|known| known.report).or_else(past)
    }

    /// Whether the commit of this revision was carried out.
    pub fn is_done(&self, revision: Revision) -> bool {
        revision <= self.brought || self.recent.contains_key(&revision)
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
        let orders = commit.changes.iter().filter_map(|change| match change {
            Change::Revoke(order) => Some(order.id),
            _ => None,
        });
        let orders = orders.collect();
        self.recent
            .insert(commit.revision, Known { report, orders });
        self.prune();
    }

    /// Forgets what the watch has brought, the oldest first, when there is much of it.
    fn prune(&mut self) {
        while self.recent.len() > REMEMBERED
            && let Some(oldest) = self.recent.first_entry()
            && *oldest.key() <= self.brought
        {
            oldest.remove();
        }
    }

    /// An order was not taken, and with it the commit that it came with.
    pub fn forget(&mut self, order: RevocationId) {
        self.recent
            .retain(|_, known| !known.orders.contains(&order));
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
        self.prune();
    }

    /// The whole of this revision was told. What was carried out ahead of it is taken back by it: the watch brings it
    /// again.
    pub fn start_from(&mut self, revision: Revision) {
        self.revision = revision;
        self.brought = revision;
        self.recent.retain(|known, _| *known <= revision);
        self.ahead.clear();
        self.lifted.clear();
    }
}
