//! Commits carried out late, twice, in another order and all at once, against a real engine.

use std::sync::{Arc, Weak};

use curfew_enforcer::{Bounds, Changes, Deadlines, Enforcer, Engine, Open, Peer, Record, Sink};
use curfew_gateway::door::GatewayDoor;
use curfew_model::{
    BindingKey, Block, Clock as _, EnforcerId, Facts, Kind, Revision, Revocation, Scope, SessionId,
    WallInstant,
};
use curfew_state::{Change, Commit, EmbeddedStore, Expected, Owner, State, Store};
use curfew_testkit::{BootClock, alice, bound};
use parking_lot::Mutex;

use super::super::{compiler, in_force::owners};
use super::Desired;

/// What is to happen as soon as the first session ends.
#[derive(Default)]
struct Meanwhile(Mutex<Option<Box<dyn FnOnce() + Send>>>);

impl Sink for Meanwhile {
    fn record(&self, records: Vec<Record>) {
        if records.iter().any(|record| record.recorded.event.is_over())
            && let Some(happens) = self.0.lock().take()
        {
            happens();
        }
    }
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
    Change::Bind(bound(key(net), user, groups))
}

/// A store, and an engine that was started with what was in it.
struct Lab {
    store: EmbeddedStore,
    /// What it was started with.
    state: Arc<State>,
    deadlines: Deadlines,
    desired: Desired,
    meanwhile: Arc<Meanwhile>,
    _dir: tempfile::TempDir,
}

impl Lab {
    fn new(before: &[Change]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        store.commit(Expected::Nothing, before).unwrap();
        let state = store.read();
        let set = Arc::new(compiler::union(&owners(&state.policies), state.revision).unwrap());
        let engine = Engine::new(set.clone(), Bounds::default(), BootClock.now());
        let door = Weak::<GatewayDoor>::new();
        let meanwhile = Arc::new(Meanwhile::default());
        let deadlines =
            Enforcer::start(engine, door, Arc::new(BootClock), meanwhile.clone()).unwrap();
        let enforcer = Arc::clone(deadlines.enforcer());
        let desired = Desired::new(enforcer, EnforcerId::new("gw-1").unwrap(), &state, set);
        Self {
            store,
            state,
            deadlines,
            desired,
            meanwhile,
            _dir: dir,
        }
    }

    /// A commit that comes so many revisions after what it was started with, whether the store has it or not.
    fn commit(&self, later: u64, change: Change) -> Commit {
        Commit {
            revision: Revision(self.state.revision.0 + later),
            changes: vec![change],
        }
    }

    /// The state once the store has these.
    fn kept(&self, commits: &[&Commit]) -> Arc<State> {
        for commit in commits {
            let revision = self.store.commit(Expected::Nothing, &commit.changes);
            assert_eq!(revision, Ok(commit.revision));
        }
        self.store.read()
    }

    fn open(&self, client: u8) -> Option<SessionId> {
        open(self.deadlines.enforcer(), client)
    }

    fn is_open(&self, id: SessionId) -> bool {
        let view = self.deadlines.enforcer().look(|engine| engine.session(id));
        view.is_some_and(|view| view.state == curfew_enforcer::State::Open)
    }
}

/// A session from 127.0.0.CLIENT, if it is admitted.
fn open(enforcer: &Enforcer, client: u8) -> Option<SessionId> {
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
    enforcer.open(open).is_ok().then_some(id)
}

#[test]
fn what_catching_up_takes_back_is_carried_out_again() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.1/32", "alice", &["dba"])]);
    let commit = lab.commit(1, Change::Unbind(key("127.0.0.1/32")));
    // The API has it carried out before the watch, which fell behind, reads a state without it, and then brings it.
    lab.desired.apply(&commit);
    lab.desired.catch_up(&lab.state);
    lab.desired.apply(&commit);
    assert_eq!(lab.open(1), None);
}

#[test]
fn a_change_that_comes_after_a_later_one_of_the_same_is_left_out() {
    let lab = Lab::new(&[admit("dba")]);
    let commit = |change| {
        let changes = vec![change];
        let revision = lab.store.commit(Expected::Nothing, &changes).unwrap();
        Commit { revision, changes }
    };
    let bound = commit(bind("127.0.0.1/32", "leaver", &["dba"]));
    let other = commit(bind("127.0.0.2/32", "bob", &["dba"]));
    let removed = commit(Change::Unbind(key("127.0.0.1/32")));
    // Two calls of the API, of which the later is quicker.
    lab.desired.apply(&removed);
    lab.desired.apply(&bound);
    lab.desired.apply(&other);
    assert_eq!(lab.open(1), None);
    assert!(lab.open(2).is_some());
    // The watch, in order, after that.
    for commit in [&bound, &other, &removed] {
        lab.desired.brought(commit);
    }
    assert_eq!(lab.open(1), None);
    // A call that is slower than the watch, and one that is slower than a watch that fell behind.
    lab.desired.catch_up(&lab.store.read());
    lab.desired.apply(&bound);
    assert_eq!(lab.open(1), None);
}

/// An order against alice.
fn order() -> Revocation {
    Revocation {
        id: "019ac2f0-0000-7000-8000-0000000000ff".parse().unwrap(),
        scope: Scope::Subject {
            kind: Kind::User,
            issuer: None,
            id: "alice".to_owned(),
        },
        block: Block::UntilLifted,
        reason: "left".to_owned(),
        source: "operator".to_owned(),
        created_at: WallInstant(1),
        revision: Revision(0),
        lifted_at: None,
    }
}

#[test]
fn an_order_that_comes_after_a_later_commit_ends_what_opened_in_between() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.0/30", "alice", &["dba"])]);
    let other = Revocation {
        id: "019ac2f0-0000-7000-8000-0000000000fe".parse().unwrap(),
        scope: Scope::Session("019ac2f0-0000-7000-8000-0000000000fd".parse().unwrap()),
        ..order()
    };
    lab.desired.apply(&lab.commit(2, Change::Revoke(other)));
    let id = lab.open(1).unwrap();
    let order = lab.commit(1, Change::Revoke(order()));
    assert_eq!(lab.desired.apply(&order).closed, 1);
    assert!(!lab.is_open(id));
}

#[test]
fn an_order_that_only_catching_up_brings_ends_what_opened_in_between() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.0/30", "alice", &["dba"])]);
    lab.store
        .commit(Expected::Nothing, &[Change::Revoke(order())])
        .unwrap();
    // A later one of the API is quicker than the one before it, which the watch brings only as part of the whole.
    lab.desired.apply(&lab.commit(2, admit("dba")));
    let id = lab.open(1).unwrap();
    lab.desired.catch_up(&lab.store.read());
    assert!(!lab.is_open(id));
}

#[test]
fn an_order_that_was_carried_out_ends_nobody_when_catching_up_brings_it_again() {
    for block in [Block::None, Block::Until(WallInstant(1))] {
        let lab = Lab::new(&[admit("dba"), bind("127.0.0.0/30", "alice", &["dba"])]);
        let order = Revocation { block, ..order() };
        let commit = lab.commit(1, Change::Revoke(order));
        let state = lab.kept(&[&commit]);
        lab.desired.apply(&commit);
        let id = lab.open(1).unwrap();
        lab.desired.catch_up(&state);
        assert!(lab.is_open(id), "{block:?}");
    }
}

#[test]
fn a_lift_that_only_catching_up_brings_lets_in_again() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.0/30", "alice", &["dba"])]);
    let commit = lab.commit(1, Change::Revoke(order()));
    lab.kept(&[&commit]);
    lab.desired.apply(&commit);
    assert!(lab.open(1).is_none());
    let (id, at) = (order().id, WallInstant(2));
    let lift = lab.commit(2, Change::Lift { id, at });
    lab.desired.catch_up(&lab.kept(&[&lift]));
    assert!(lab.open(1).is_some());
}

#[test]
fn an_order_that_catching_up_brings_ends_what_opens_while_it_does() {
    let lab = Lab::new(&[
        admit("dba"),
        bind("127.0.0.1/32", "alice", &["dba"]),
        bind("127.0.0.2/32", "bob", &["dba"]),
    ]);
    lab.open(2).unwrap();
    // Bob's end is put on record in the midst of it, and alice comes.
    let enforcer = Arc::clone(lab.deadlines.enforcer());
    let (tell, opened) = std::sync::mpsc::channel();
    let comes = move || tell.send(open(&enforcer, 1)).unwrap();
    *lab.meanwhile.0.lock() = Some(Box::new(comes));
    for change in [
        Change::Revoke(order()),
        bind("127.0.0.2/32", "carol", &["dba"]),
    ] {
        lab.store.commit(Expected::Nothing, &[change]).unwrap();
    }
    lab.desired.catch_up(&lab.store.read());
    let alice = opened.try_recv().unwrap().unwrap();
    assert!(!lab.is_open(alice));
}

#[test]
fn an_order_is_carried_out_once_however_much_comes_before_the_watch_brings_it() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.0/30", "alice", &["dba"])]);
    let order = Revocation {
        block: Block::None,
        ..order()
    };
    let order = lab.commit(1, Change::Revoke(order));
    lab.desired.apply(&order);
    for later in 2..400 {
        let net = format!("10.9.{}.{}/32", later / 256, later % 256);
        lab.desired
            .apply(&lab.commit(later, bind(&net, "bob", &["dba"])));
    }
    lab.desired.apply(&lab.commit(400, admit("dba")));
    let id = lab.open(1).unwrap();
    lab.desired.brought(&order);
    assert!(lab.is_open(id));
}

#[test]
fn a_lift_that_comes_before_its_order_holds() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.0/30", "alice", &["dba"])]);
    let id = lab.open(1).unwrap();
    let order = order();
    let lift = Change::Lift {
        id: order.id,
        at: WallInstant(2),
    };
    lab.desired.apply(&lab.commit(2, lift));
    // It ends what was open, and keeps nobody out any more.
    assert_eq!(
        lab.desired
            .apply(&lab.commit(1, Change::Revoke(order)))
            .matched,
        1
    );
    assert!(!lab.is_open(id));
    assert!(lab.open(2).is_some());
}

#[test]
fn policies_that_are_carried_out_in_another_order_are_all_in_force() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.1/32", "alice", &["ops"])]);
    lab.desired.apply(&lab.commit(2, admit("admins")));
    assert_eq!(lab.open(1), None);
    lab.desired
        .apply(&lab.commit(1, apply(Owner::Api, admission("ops"))));
    assert!(lab.open(1).is_some());
}

#[test]
fn an_order_does_not_wait_for_the_disk_of_a_reload() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.1/32", "alice", &["dba"])]);
    let id = lab.open(1).unwrap();
    let commit = lab.commit(1, Change::Unbind(key("127.0.0.1/32")));
    lab.desired
        .reload(Changes::default(), || {
            // The disk takes its time.
            lab.desired.apply(&commit);
            assert!(!lab.is_open(id));
            Ok(None)
        })
        .unwrap();
}

#[test]
fn an_order_does_not_wait_for_a_policy_that_is_compiled() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.1/32", "alice", &["dba"])]);
    let id = lab.open(1).unwrap();
    let policy = lab.commit(1, apply(Owner::Api, admission("ops")));
    lab.desired.apply_by(&policy, |in_force, revision| {
        lab.desired
            .apply(&lab.commit(2, Change::Unbind(key("127.0.0.1/32"))));
        assert!(!lab.is_open(id));
        in_force.next(revision)
    });
    lab.desired
        .apply(&lab.commit(3, bind("127.0.0.2/32", "bob", &["ops"])));
    assert!(lab.open(2).is_some());
}

#[test]
fn catching_up_ends_only_whom_the_new_state_does_not_admit() {
    let lab = Lab::new(&[
        admit("dba"),
        bind("127.0.0.1/32", "alice", &["dba", "admins"]),
        bind("127.0.0.2/32", "bob", &["dba", "admins"]),
        bind("127.0.0.3/32", "carol", &["dba"]),
    ]);
    let sessions = [1, 2, 3].map(|client| lab.open(client).unwrap());
    // Alice's key is written wider, bob's is gone, carol joins the group that is asked for from now on.
    let after = [
        admit("admins"),
        Change::Unbind(key("127.0.0.1/32")),
        bind("127.0.0.0/31", "alice", &["dba", "admins"]),
        Change::Unbind(key("127.0.0.2/32")),
        bind("127.0.0.3/32", "carol", &["dba", "admins"]),
    ];
    lab.store.commit(Expected::Nothing, &after).unwrap();
    lab.desired.catch_up(&lab.store.read());
    let is_open = sessions.map(|id| lab.is_open(id));
    assert_eq!(is_open, [true, false, true]);
}

#[test]
fn a_set_that_says_the_same_of_it_concerns_no_session() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.1/32", "alice", &["dba"])]);
    let id = lab.open(1).unwrap();
    let matched = |later, text: String| {
        let revision = Revision(lab.state.revision.0 + later);
        let changes = vec![apply(Owner::Files, text)];
        lab.desired.apply(&Commit { revision, changes }).matched
    };
    let policy = format!("{SEGMENT}{}", admission("dba"));
    let other = SEGMENT.replace("db", "web").replace("10.1.", "10.2.");
    assert_eq!(matched(1, policy.clone()), 0);
    assert_eq!(matched(2, format!("# Moved.\n{other}{policy}")), 0);
    let view = lab.deadlines.enforcer().look(|engine| engine.session(id));
    assert_eq!(view.unwrap().revision, lab.state.revision);
    let ceiling = policy.replace(
        "segments: [db]}",
        "segments: [db]}, limits: {maxLifetime: 1h}",
    );
    assert_eq!(matched(3, ceiling), 1);
    assert_eq!(matched(4, policy), 1);
    assert_eq!(matched(5, other), 1);
}

#[test]
fn a_reload_takes_what_another_owner_s_commit_before_it_has_not_carried_out_yet() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.1/32", "alice", &["ops"])]);
    let other = lab.commit(1, apply(Owner::Api, admission("ops")));
    let files = lab.commit(2, admit("admins"));
    let reloaded = lab.desired.reload(Changes::default(), || {
        Ok(Some((files.clone(), lab.kept(&[&other, &files]))))
    });
    reloaded.unwrap();
    let id = lab.open(1).unwrap();
    for commit in [&other, &files] {
        lab.desired.brought(commit);
        assert!(lab.is_open(id));
    }
}

#[test]
fn a_reload_is_not_undone_by_an_older_commit_of_its_owner() {
    let lab = Lab::new(&[admit("dba"), bind("127.0.0.1/32", "alice", &["dba"])]);
    // Its caller has not carried it out yet when the files are read again.
    let older = lab.commit(1, admit("dba"));
    let newer = lab.commit(2, admit("ops"));
    let reloaded = lab.desired.reload(Changes::default(), || {
        Ok(Some((newer.clone(), lab.kept(&[&older, &newer]))))
    });
    reloaded.unwrap();
    assert_eq!(lab.open(1), None);
    lab.desired.apply(&older);
    lab.desired.brought(&older);
    assert_eq!(lab.open(1), None);
    lab.desired.brought(&newer);
    assert_eq!(lab.open(1), None);
}
