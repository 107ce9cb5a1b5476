//! From desired state to engine: each commit is carried out once, whoever brings it. Deciding may not live here.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use curfew_enforcer::{Changes, Concerns, Enforcer, EngineError, Input, Keeper, Report, Subject};
use curfew_model::{BindingKey, EnforcerId, Revision, Revocation, RevocationId, Scope};
use curfew_state::{Change, Commit, Owner, State, SubjectKey};
use parking_lot::Mutex;
use tracing::error;

use super::{NodeError, compiler};

/// Commits that are remembered, to know them again when the watch brings them.
const REMEMBERED: usize = 256;

/// Carries the desired state out at one enforcer.
pub struct Desired {
    enforcer: Arc<Enforcer>,
    id: EnforcerId,
    applied: Mutex<Applied>,
    /// Held by the watch while it carries out what it brings, and by a reload over its commit as well, so that the watch
    /// brings that after it. Orders of the API wait for neither, nor for the disk. Taken before `applied`.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Applied {
    revision: Revision,
    owners: BTreeMap<Owner, Arc<str>>,
    bindings: BTreeSet<BindingKey>,
    subjects: BTreeSet<SubjectKey>,
    recent: VecDeque<(Commit, Report)>,
}

/// The texts of each owner's set.
pub fn owners(state: &State) -> BTreeMap<Owner, Arc<str>> {
    state
        .policies
        .iter()
        .map(|(owner, (_, text))| (*owner, Arc::clone(text)))
        .collect()
}

impl Desired {
    /// Takes over from an engine that was started with the policy of `state`, and tells it the rest.
    pub fn new(enforcer: Arc<Enforcer>, id: EnforcerId, state: &State) -> Self {
        let desired = Self {
            enforcer,
            id,
            applied: Mutex::default(),
            turn: Mutex::default(),
        };
        let mut applied = desired.applied.lock();
        applied.owners = owners(state);
        desired.tell_all(&mut applied, state);
        drop(applied);
        desired
    }

    /// The revision that is carried out.
    pub fn revision(&self) -> Revision {
        self.applied.lock().revision
    }

    /// Carries a commit out; one that is known already gives the same answer again.
    pub fn apply(&self, commit: &Commit) -> Report {
        let mut applied = self.applied.lock();
        if let Some((_, report)) = applied.recent.iter().find(|(known, _)| known == commit) {
            return *report;
        }
        let mut total = Report::default();
        for change in &commit.changes {
            match self.change(&mut applied, commit.revision, change) {
                Ok(report) => add(&mut total, report),
                // What the engine does not take is refused by its bounds: the state holds it, and it is said.
                Err(error) => {
                    error!(revision = %commit.revision, %error, "a change is not carried out")
                }
            }
        }
        self.remember(&mut applied, commit, total);
        total
    }

    /// Carries out what the watch brings.
    pub fn brought(&self, commit: &Commit) {
        let _turn = self.turn.lock();
        self.apply(commit);
    }

    /// Carries the policy of a commit out in one step with bindings of the configuration: the watch that brings it finds
    /// it done.
    ///
    /// # Errors
    /// Those of `commit`, or [`NodeError`] when there is no room for a binding.
    pub fn reload(
        &self,
        bindings: Changes,
        commit: impl FnOnce() -> Result<Option<Commit>, NodeError>,
    ) -> Result<Report, NodeError> {
        let _turn = self.turn.lock();
        let commit = commit()?;
        let mut applied = self.applied.lock();
        let mut changes = bindings;
        for change in commit.iter().flat_map(|commit| &commit.changes) {
            if let Change::ApplyPolicy { owner, content, .. } = change {
                applied.owners.insert(*owner, Arc::clone(content));
            }
        }
        if let Some(commit) = &commit {
            let set = compiler::union(&applied.owners, commit.revision.max(applied.revision));
            changes.policies = Some((Arc::new(set.map_err(NodeError::Policy)?), Concerns::All));
        }
        let report = self.enforcer.handle(Input::Changes(changes));
        if let Some(commit) = &commit {
            self.remember(&mut applied, commit, report.clone().unwrap_or_default());
        }
        Ok(report?)
    }

    /// A commit is carried out.
    fn remember(&self, applied: &mut Applied, commit: &Commit, report: Report) {
        applied.revision = applied.revision.max(commit.revision);
        // The door of this process decides inline: no session comes any more that was decided before.
        let _ = self.enforcer.handle(Input::Installed(applied.revision));
        applied.recent.push_back((commit.clone(), report));
        if applied.recent.len() > REMEMBERED {
            applied.recent.pop_front();
        }
    }

    /// Lets go of an order that the state did not take, and of the commit that it came with.
    pub fn withdraw(&self, order: RevocationId) {
        let mut applied = self.applied.lock();
        let brings =
            |change: &Change| matches!(change, Change::Revoke(brought) if brought.id == order);
        applied
            .recent
            .retain(|(commit, _)| !commit.changes.iter().any(brings));
        // Withdrawing cannot be refused.
        let _ = self.enforcer.handle(Input::Withdraw(order));
    }

    /// Tells the engine the whole state again: for a watcher that fell behind.
    pub fn catch_up(&self, state: &State) {
        let _turn = self.turn.lock();
        let mut applied = self.applied.lock();
        let bindings = std::mem::take(&mut applied.bindings);
        let subjects = std::mem::take(&mut applied.subjects);
        // What admits comes before what asks for it, and goes after: whom both states admit is never without.
        self.tell_all(&mut applied, state);
        applied.owners = owners(state);
        if let Err(error) = self.policies(&applied.owners, state.revision) {
            error!(%error, "the policy of the state does not compile; the one before stays in force");
        }
        for gone in bindings.difference(&applied.bindings) {
            let _ = self
                .enforcer
                .handle(Input::BindingRemoved(Keeper::State, gone.clone()));
        }
        for gone in subjects.difference(&applied.subjects) {
            let _ = self.enforcer.handle(forgotten(gone));
        }
        // What was carried out before it was in this state is taken back by it: the watch brings it again.
        let newest = state.revision;
        applied.recent.retain(|(known, _)| known.revision <= newest);
    }

    fn tell_all(&self, applied: &mut Applied, state: &State) {
        let bindings = state
            .bindings
            .values()
            .map(|binding| Input::BindingSet(Keeper::State, binding.clone()));
        let orders = state
            .revocations
            .values()
            .filter(|order| self.is_ours(order))
            .map(|order| Input::Revoke(order.clone()));
        // Before the bindings, so that nobody is decided about without what is known.
        let subjects = state.subjects.values().map(known);
        for input in subjects.chain(bindings).chain(orders) {
            if let Err(error) = self.enforcer.handle(input) {
                error!(%error, "a part of the state is not carried out");
            }
        }
        applied.bindings = state.bindings.keys().cloned().collect();
        applied.subjects = state.subjects.keys().cloned().collect();
        applied.revision = state.revision;
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
            Change::ApplyPolicy { owner, content, .. } => {
                applied.owners.insert(*owner, Arc::clone(content));
                // Where a later commit was carried out before, this completes what it began.
                self.policies(&applied.owners, revision.max(applied.revision))
                    .unwrap_or_else(|error| {
                        // It compiled when it was applied, so this is a defect: the policy before stays in force.
                        error!(%revision, %error, "a policy set does not compile");
                        Ok(Report::default())
                    })
            }
            Change::Revoke(order) if self.is_ours(order) => {
                self.enforcer.handle(Input::Revoke(Revocation {
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
            Change::Revoke(_)
            | Change::ForgetRevocation(_)
            | Change::PutToken(_)
            | Change::RemoveToken(_)
            | Change::Ended { .. }
            | Change::ForgetEnds { .. }
            | Change::WallSeen(_) => Ok(Report::default()),
        }
    }

    fn policies(
        &self,
        owners: &BTreeMap<Owner, Arc<str>>,
        revision: Revision,
    ) -> Result<Result<Report, EngineError>, String> {
        let set = compiler::union(owners, revision)?;
        Ok(self.enforcer.handle(Input::Policies {
            set: Arc::new(set),
            concerns: Concerns::All,
        }))
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
mod tests {
    use std::sync::Weak;

    use curfew_enforcer::{Bounds, Deadlines, Engine, Open, Peer, Record, Sink};
    use curfew_gateway::door::GatewayDoor;
    use curfew_model::{
        Binding, Clock as _, Facts, Identity, Issuer, Kind, Proof, SessionId, WallInstant,
    };
    use curfew_state::{EmbeddedStore, Expected, Store};
    use curfew_testkit::{BootClock, alice};

    use super::*;

    struct Silent;

    impl Sink for Silent {
        fn record(&self, _records: Vec<Record>) {}
    }

    const SEGMENT: &str = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\n\
        spec: {sensitivity: low, access: policy, members: [{cidr: 10.1.0.0/16}]}\n---\n";

    /// Admits a group into the only segment.
    fn admit(group: &str) -> Change {
        apply(Owner::Files, format!("{SEGMENT}{}", admission(group)))
    }

    fn admission(group: &str) -> String {
        format!(
            "apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: {group}}}\n\
             spec: {{from: {{groups: [{group}]}}, to: {{segments: [db]}}}}\n"
        )
    }

    fn apply(owner: Owner, text: String) -> Change {
        let source = curfew_control::Source {
            path: "p.yaml".to_owned(),
            text,
        };
        let content = curfew_control::pack(&[source]).unwrap();
        let (at, by) = (WallInstant(1), "files".to_owned());
        Change::ApplyPolicy {
            owner,
            content: content.into(),
            at,
            by,
        }
    }

    fn key(net: &str) -> BindingKey {
        BindingKey::Address(net.parse().unwrap())
    }

    fn bind(net: &str, user: &str, groups: &[&str]) -> Change {
        let identity = Identity {
            proof: Proof::Bound,
            kind: Kind::User,
            issuer: Issuer::local(),
            id: user.to_owned(),
            display: None,
        };
        Change::Bind(Binding {
            key: key(net),
            identity,
            groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            until: None,
            refreshed_at: None,
        })
    }

    fn start(state: &State) -> (Deadlines, Desired) {
        let set = compiler::union(&owners(state), state.revision).unwrap();
        let engine = Engine::new(Arc::new(set), Bounds::default(), BootClock.now());
        let door = Weak::<GatewayDoor>::new();
        let deadlines =
            Enforcer::start(engine, door, Arc::new(BootClock), Arc::new(Silent)).unwrap();
        let enforcer = Arc::clone(deadlines.enforcer());
        let desired = Desired::new(enforcer, EnforcerId::new("gw-1").unwrap(), state);
        (deadlines, desired)
    }

    fn open(deadlines: &Deadlines, client: u8) -> Option<SessionId> {
        let id = format!("019ac2f0-0000-7000-8000-00000000000{client}");
        let id: SessionId = id.parse().unwrap();
        let facts = Facts {
            identities: Vec::new(),
            ..alice(
                ([127, 0, 0, client], 40_000).into(),
                ([10, 1, 0, 1], 5432).into(),
                BootClock.now().boot,
            )
        };
        let open = Open {
            id,
            facts,
            peer: Peer::default(),
            decided_at: None,
        };
        deadlines.enforcer().open(open).is_ok().then_some(id)
    }

    #[test]
    fn what_catching_up_takes_back_is_carried_out_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let before = [admit("dba"), bind("127.0.0.1/32", "alice", &["dba"])];
        store.commit(Expected::Nothing, &before).unwrap();
        let state = store.read();
        let (deadlines, desired) = start(&state);
        let commit = Commit {
            revision: Revision(state.revision.0 + 1),
            changes: vec![Change::Unbind(key("127.0.0.1/32"))],
        };
        // The API has it carried out before the watch, which fell behind, reads a state without it, and then brings it.
        desired.apply(&commit);
        desired.catch_up(&state);
        desired.apply(&commit);
        assert_eq!(open(&deadlines, 1), None);
    }

    #[test]
    fn policies_that_are_carried_out_in_another_order_are_all_in_force() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let before = [admit("dba"), bind("127.0.0.1/32", "alice", &["ops"])];
        store.commit(Expected::Nothing, &before).unwrap();
        let state = store.read();
        let (deadlines, desired) = start(&state);
        let commit = |later, change| Commit {
            revision: Revision(state.revision.0 + later),
            changes: vec![change],
        };
        desired.apply(&commit(2, admit("admins")));
        assert_eq!(open(&deadlines, 1), None);
        desired.apply(&commit(1, apply(Owner::Api, admission("ops"))));
        assert!(open(&deadlines, 1).is_some());
    }

    #[test]
    fn an_order_does_not_wait_for_the_disk_of_a_reload() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let before = [admit("dba"), bind("127.0.0.1/32", "alice", &["dba"])];
        store.commit(Expected::Nothing, &before).unwrap();
        let state = store.read();
        let (deadlines, desired) = start(&state);
        let id = open(&deadlines, 1).unwrap();
        let commit = Commit {
            revision: Revision(state.revision.0 + 1),
            changes: vec![Change::Unbind(key("127.0.0.1/32"))],
        };
        desired
            .reload(Changes::default(), || {
                // The disk takes its time.
                desired.apply(&commit);
                let view = deadlines.enforcer().look(|engine| engine.session(id));
                assert!(view.is_none_or(|view| view.state != curfew_enforcer::State::Open));
                Ok(None)
            })
            .unwrap();
    }

    #[test]
    fn catching_up_ends_only_whom_the_new_state_does_not_admit() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let commit = |changes: &[Change]| {
            store.commit(Expected::Nothing, changes).unwrap();
            store.read()
        };
        let before = commit(&[
            admit("dba"),
            bind("127.0.0.1/32", "alice", &["dba", "admins"]),
            bind("127.0.0.2/32", "bob", &["dba", "admins"]),
            bind("127.0.0.3/32", "carol", &["dba"]),
        ]);
        let (deadlines, desired) = start(&before);
        let sessions = [1, 2, 3].map(|client| open(&deadlines, client).unwrap());
        // Alice's key is written wider, bob's is gone, carol joins the group that is asked for from now on.
        let after = commit(&[
            admit("admins"),
            Change::Unbind(key("127.0.0.1/32")),
            bind("127.0.0.0/31", "alice", &["dba", "admins"]),
            Change::Unbind(key("127.0.0.2/32")),
            bind("127.0.0.3/32", "carol", &["dba", "admins"]),
        ]);
        desired.catch_up(&after);
        let is_open = sessions.map(|id| {
            let view = deadlines.enforcer().look(|engine| engine.session(id));
            view.is_some_and(|view| view.state == curfew_enforcer::State::Open)
        });
        assert_eq!(is_open, [true, false, true]);
    }
}
