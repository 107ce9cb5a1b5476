//! From desired state to engine: each commit is carried out once, whoever brings it. Deciding may not live here.

use std::{collections::BTreeMap, sync::Arc};

use curfew_enforcer::{Changes, Enforcer, Engine, EngineError, Input, Keeper, Report, Subject};
use curfew_model::{Block, EnforcerId, Revision, Revocation, RevocationId, Scope, Target};
use curfew_policy::{Decide, Difference, PolicySet};
use curfew_state::{Change, Commit, State, SubjectKey};
use parking_lot::Mutex;
use tracing::error;

use super::{NodeError, applied::Applied, in_force::InForce};

/// A set that the engine is to take, and where it may decide differently than the one before.
type Next = (Arc<dyn Decide>, Difference);

/// Carries the desired state out at one enforcer.
pub struct Desired {
    enforcer: Arc<Enforcer>,
    id: EnforcerId,
    applied: Mutex<Applied>,
    /// The policy. Held by whoever carries a policy out, over compiling it, by the watch while it carries out what it
    /// brings, and by a reload over its commit as well, so that the watch brings that after it. Other orders of the API
    /// wait for none of these, nor for the disk. Taken before `applied`.
    turn: Mutex<InForce>,
}

impl Desired {
    /// Takes over from an engine that was started with `set`, the policy of `state`, and tells it the rest.
    pub fn new(
        enforcer: Arc<Enforcer>,
        id: EnforcerId,
        state: &State,
        set: Arc<PolicySet>,
    ) -> Self {
        let desired = Self {
            enforcer,
            id,
            applied: Mutex::default(),
            turn: Mutex::new(InForce::new(state, set)),
        };
        {
            // Nothing is open yet that an order could have missed.
            let mut applied = desired.applied.lock();
            applied.start_from(state.revision);
            desired.tell_all(&mut applied, state);
        }
        desired
    }

    /// The revision that is carried out.
    pub fn revision(&self) -> Revision {
        self.applied.lock().revision
    }

    /// Whether a segment of the policy in force contains a target. Waits for a policy that is being carried out.
    pub fn covers(&self, target: &Target) -> bool {
        self.turn.lock().set().covers(target)
    }

    /// From where the watch has to begin: up to there nothing is missing.
    pub fn brought_up_to(&self) -> Revision {
        self.applied.lock().brought()
    }

    /// Carries a commit out; one that is known already gives the same answer again. Of one that comes after a later one,
    /// what that one replaced is left out: callers bring their own in any order.
    pub fn apply(&self, commit: &Commit) -> Report {
        self.apply_by(commit, InForce::next)
    }

    /// As [`Desired::apply`], with what makes the next set.
    pub(super) fn apply_by(
        &self,
        commit: &Commit,
        compile: impl FnOnce(&mut InForce, Revision) -> Result<Next, String>,
    ) -> Report {
        let is_policy = |change: &Change| matches!(change, Change::ApplyPolicy { .. });
        if !commit.changes.iter().any(is_policy) {
            return self.carry_out(&mut self.applied.lock(), commit, None);
        }
        let mut policy = self.turn.lock();
        let set = self.compiled(&mut policy, commit, compile);
        self.carry_out(&mut self.applied.lock(), commit, set)
    }

    /// The set that a commit makes, unless it makes none. Orders go on meanwhile.
    fn compiled(
        &self,
        policy: &mut InForce,
        commit: &Commit,
        compile: impl FnOnce(&mut InForce, Revision) -> Result<Next, String>,
    ) -> Option<Next> {
        if self.applied.lock().known(commit).is_some() {
            return None;
        }
        let revision = self.put(policy, commit)?;
        compile(policy, revision)
            // It compiled when it was applied, so this is a defect: the policy before stays in force.
            .inspect_err(|error| error!(%revision, %error, "a policy set does not compile"))
            .ok()
    }

    /// Takes the texts of a commit, but those that a later one replaced, and gives the revision that the set is of which
    /// they make; none if there are none.
    fn put(&self, policy: &mut InForce, commit: &Commit) -> Option<Revision> {
        let mut applied = self.applied.lock();
        let mut changed = false;
        for change in &commit.changes {
            if let Change::ApplyPolicy { owner, content, .. } = change
                && applied.newest(commit.revision, change).is_some()
            {
                policy.put(*owner, content);
                changed = true;
            }
        }
        // Where a later commit was carried out before, this completes what it began.
        changed.then(|| commit.revision.max(applied.revision))
    }

    fn carry_out(&self, applied: &mut Applied, commit: &Commit, mut set: Option<Next>) -> Report {
        if let Some(report) = applied.known(commit) {
            return report;
        }
        let mut total = Report::default();
        // It refuses nothing.
        let _ = self.enforcer.handle(Input::Commit(commit.revision));
        for change in &commit.changes {
            let Some(change) = applied.newest(commit.revision, change) else {
                continue;
            };
            let done = match (&change, set.take()) {
                (Change::ApplyPolicy { .. }, Some(set)) => self.install(set),
                (_, kept) => {
                    set = kept;
                    self.change(applied, commit.revision, &change)
                }
            };
            match done {
                Ok(report) => add(&mut total, report),
                // What the engine does not take is refused by its bounds: the state holds it, and it is said.
                Err(error) => {
                    error!(revision = %commit.revision, %error, "a change is not carried out")
                }
            }
        }
        self.remember(applied, commit, total);
        total
    }

    /// Carries out what the watch brings.
    pub fn brought(&self, commit: &Commit) {
        let mut policy = self.turn.lock();
        let set = self.compiled(&mut policy, commit, InForce::next);
        let mut applied = self.applied.lock();
        self.carry_out(&mut applied, commit, set);
        applied.bring(commit.revision);
    }

    /// Carries the policy of a commit out in one step with bindings of the configuration: the watch that brings it finds
    /// it done. `commit` gives the state behind it too, whose sets of others may not be carried out yet.
    ///
    /// # Errors
    /// Those of `commit`, or [`NodeError`] when there is no room for a binding.
    pub fn reload(
        &self,
        bindings: Changes,
        commit: impl FnOnce() -> Result<Option<(Commit, Arc<State>)>, NodeError>,
    ) -> Result<Report, NodeError> {
        let mut policy = self.turn.lock();
        let (commit, state) = commit()?.unzip();
        let mut changes = bindings;
        let revision = commit
            .as_ref()
            .and_then(|commit| self.put(&mut policy, commit));
        if let (Some(revision), Some(state)) = (revision, state) {
            policy.put_all(&state);
            changes.policies = Some(policy.next(revision).map_err(NodeError::Policy)?);
        }
        let mut applied = self.applied.lock();
        let report = self.enforcer.handle(Input::Changes(changes));
        if let Some(commit) = &commit {
            self.remember(&mut applied, commit, report.clone().unwrap_or_default());
        }
        Ok(report?)
    }

    /// A commit is carried out.
    fn remember(&self, applied: &mut Applied, commit: &Commit, report: Report) {
        applied.remember(commit, report);
        // The door of this process decides inline: no session comes any more that was decided before.
        let _ = self.enforcer.handle(Input::Installed(applied.revision));
    }

    /// Lets go of an order that the state did not take, and of the commit that it came with.
    pub fn withdraw(&self, order: RevocationId) {
        let mut applied = self.applied.lock();
        applied.forget(order);
        // Withdrawing cannot be refused.
        let _ = self.enforcer.handle(Input::Withdraw(order));
    }

    /// Tells the engine the whole state again: for a watcher that fell behind.
    pub fn catch_up(&self, state: &State) {
        let mut policy = self.turn.lock();
        policy.put_all(state);
        // Policy that comes before an order which is not on disk has the number of that.
        let revision = state.revision.max(policy.set().revision());
        let next = policy.next(revision);
        let mut applied = self.applied.lock();
        let bindings = std::mem::take(&mut applied.bindings);
        let subjects = std::mem::take(&mut applied.subjects);
        // What admits comes before what asks for it, and goes after: whom both states admit is never without.
        self.tell_all(&mut applied, state);
        match next {
            // An older one than that in force is left out.
            Ok(next) => drop(self.install(next)),
            Err(error) => {
                error!(%error, "the policy of the state does not compile; the one before stays in force");
            }
        }
        for gone in bindings.difference(&applied.bindings) {
            let _ = self
                .enforcer
                .handle(Input::BindingRemoved(Keeper::State, gone.clone()));
        }
        for gone in subjects.difference(&applied.subjects) {
            let _ = self.enforcer.handle(forgotten(gone));
        }
    }

    fn tell_all(&self, applied: &mut Applied, state: &State) {
        // Before the orders are made: whoever opens from here on is on this revision, and so are they.
        let _ = self.enforcer.handle(Input::Commit(state.revision));
        let bindings = state
            .bindings
            .values()
            .map(|binding| Input::BindingSet(Keeper::State, binding.clone()));
        let orders = state
            .revocations
            .values()
            .filter(|order| self.is_ours(order))
            .filter_map(|order| match order.block {
                _ if !applied.is_done(order.revision) => Some(self.late(order.clone())),
                _ if order.lifted_at.is_some() => Some(Input::Lift(order.id)),
                Block::UntilLifted => Some(Input::Revoke(order.clone())),
                // What it was to end has ended: who came since is not meant. While it blocks, the engine holds it.
                Block::None | Block::Until(_) => None,
            })
            .collect::<Vec<_>>();
        // Before the bindings, so that nobody is decided about without what is known.
        let subjects = state.subjects.values().map(known);
        for input in subjects.chain(bindings).chain(orders) {
            match self.enforcer.handle(input) {
                // Lifted, and needed no more.
                Ok(_) | Err(EngineError::UnknownRevocation(_)) => {}
                Err(error) => error!(%error, "a part of the state is not carried out"),
            }
        }
        applied.bindings = state.bindings.keys().cloned().collect();
        applied.subjects = state.subjects.keys().cloned().collect();
        applied.start_from(state.revision);
    }

    /// An order that is carried out for the first time. Where the engine has heard of a later revision, sessions that opened
    /// since then did not know of it: it is as if given now.
    fn late(&self, order: Revocation) -> Input {
        let heard = self.enforcer.look(Engine::revision);
        Input::Revoke(Revocation {
            revision: order.revision.max(heard),
            ..order
        })
    }

    fn is_ours(&self, order: &Revocation) -> bool {
        !matches!(&order.scope, Scope::Enforcer(id) if *id != self.id)
    }

    fn change(
        &self,
        applied: &mut Applied,
        revision: Revision,
        change: &Change,
    ) -> Result<Report, EngineError> {
        match change {
            Change::Revoke(order) if self.is_ours(order) => {
                self.enforcer.handle(self.late(Revocation {
                    revision,
                    ..order.clone()
                }))
            }
            Change::Lift { id, .. } => match self.enforcer.handle(Input::Lift(*id)) {
                // An order of another enforcer, or one that the engine needs no more.
                Err(EngineError::UnknownRevocation(_)) => Ok(Report::default()),
                other => other,
            },
            Change::Bind(binding) => {
                applied.bindings.insert(binding.key.clone());
                self.enforcer
                    .handle(Input::BindingSet(Keeper::State, binding.clone()))
            }
            Change::Unbind(key) => {
                applied.bindings.remove(key);
                self.enforcer
                    .handle(Input::BindingRemoved(Keeper::State, key.clone()))
            }
            Change::PutSubject(subject) => {
                applied.subjects.insert(subject.key.clone());
                self.enforcer.handle(known(subject))
            }
            Change::ForgetSubject(key) => {
                applied.subjects.remove(key);
                self.enforcer.handle(forgotten(key))
            }
            // A policy is installed as the set that it makes.
            Change::ApplyPolicy { .. }
            | Change::Revoke(_)
            | Change::ForgetRevocation(_)
            | Change::PutToken(_)
            | Change::RemoveToken(_)
            | Change::Ended { .. }
            | Change::ForgetEnds { .. } => Ok(Report::default()),
        }
    }

    fn install(&self, (set, difference): Next) -> Result<Report, EngineError> {
        self.enforcer.handle(Input::Policies { set, difference })
    }
}

/// What is known of a subject, for the engine.
fn known(subject: &curfew_state::Subject) -> Input {
    let SubjectKey { kind, issuer, id } = subject.key.clone();
    Input::Subject(Subject {
        kind,
        issuer,
        id,
        groups: subject.groups.clone(),
        attributes: subject.attributes.clone(),
    })
}

fn forgotten(key: &SubjectKey) -> Input {
    known(&curfew_state::Subject {
        key: key.clone(),
        groups: Vec::new(),
        attributes: BTreeMap::new(),
    })
}

fn add(total: &mut Report, report: Report) {
    total.matched += report.matched;
    total.closed += report.closed;
    total.audit_only += report.audit_only;
    total.visited += report.visited;
    total.closed_at = total.closed_at.max(report.closed_at);
}

#[cfg(test)]
mod tests;
