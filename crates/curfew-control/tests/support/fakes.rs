//! What stands around the server in tests: enforcers that do as they are told, and a store and a log that are real,
//! count, and can be held at a place.
#![cfg(test)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use curfew_audit::{AppendError, DurableError, Entry, Head, Health, Log, Ticket};
use curfew_control::{
    Answer, Door, Enforcer, Explanation, Filter, Fleet, FleetError, Journal, OpenCount, Outcome,
    Session, SessionState, WhenDurable,
};
use curfew_model::{
    Binding, BindingKey, Block, BootInstant, Bound, Clock as _, EndReason, EnforcerId, Identity,
    Issuer, Kind, Lease, Mode, Proof, Provenance, Revision, RevocationId, SessionId, WallInstant,
};
use curfew_state::{
    Accepted, BLOCKS, Change, Commit, CommitError, Committed, EmbeddedStore, Expected, Hash, State,
    Store, StoreError, Watch, WatchError,
};
use curfew_testkit::BootClock;
use parking_lot::{Condvar, Mutex};
use uuid::Uuid;

use super::SOON;

/// The order in which things happened, and gates that hold some of them until others did.
#[derive(Default)]
pub struct Pass {
    happened: Mutex<Vec<&'static str>>,
    changed: Condvar,
    gates: Mutex<BTreeMap<&'static str, &'static str>>,
    held: Mutex<Vec<&'static str>>,
}

impl Pass {
    /// Lets `held` go on only after `until` has happened.
    pub fn hold(&self, held: &'static str, until: &'static str) {
        self.gates.lock().insert(held, until);
    }

    /// Notes that something is about to be over, when its gate lets it.
    pub fn pass(&self, name: &'static str) {
        let gate = self.gates.lock().get(name).copied();
        let mut happened = self.happened.lock();
        if let Some(until) = gate {
            self.held.lock().push(name);
            self.changed.notify_all();
            let waits = |happened: &mut Vec<&str>| !happened.contains(&until);
            let waited = self.changed.wait_while_for(&mut happened, waits, SOON);
            assert!(!waited.timed_out(), "{name} waits for {until} in vain");
        }
        happened.push(name);
        self.changed.notify_all();
    }

    pub fn happened(&self) -> Vec<&'static str> {
        self.happened.lock().clone()
    }

    pub fn wait_for(&self, name: &'static str) {
        let mut happened = self.happened.lock();
        let waits = |happened: &mut Vec<&str>| !happened.contains(&name);
        let waited = self.changed.wait_while_for(&mut happened, waits, SOON);
        assert!(!waited.timed_out(), "{name} does not happen");
    }

    /// Waits until something stands at its gate.
    pub fn wait_until_held(&self, name: &'static str) {
        let mut happened = self.happened.lock();
        let waits = |_: &mut Vec<&str>| !self.held.lock().contains(&name);
        let waited = self.changed.wait_while_for(&mut happened, waits, SOON);
        assert!(!waited.timed_out(), "{name} does not come to its gate");
    }

    pub fn forget(&self) {
        self.happened.lock().clear();
        self.held.lock().clear();
    }
}

/// A real store that notes when a commit is asked for and when it ends.
pub struct WatchedStore {
    inner: EmbeddedStore,
    pub pass: Arc<Pass>,
    /// Refuses commits as a broken disk does, after they were accepted, and to look keys up.
    pub broken: Mutex<bool>,
    /// Takes no further order that keeps somebody out.
    pub full: Mutex<bool>,
}

impl WatchedStore {
    pub fn new(inner: EmbeddedStore, pass: &Arc<Pass>) -> Self {
        Self {
            inner,
            pass: Arc::clone(pass),
            broken: Mutex::new(false),
            full: Mutex::new(false),
        }
    }

    /// Commits past the gates, as another caller in between.
    pub fn meanwhile(&self, change: Change) -> Revision {
        self.inner.commit(Expected::Nothing, &[change]).unwrap()
    }
}

impl Store for WatchedStore {
    fn commit_with(
        &self,
        key: Option<&str>,
        expected: Expected,
        changes: &[Change],
        accepted: Accepted,
    ) -> Result<Committed, CommitError> {
        self.pass.pass("asked");
        if *self.broken.lock() {
            accepted(&Arc::new(Commit {
                revision: Revision(self.read().revision.0 + 1),
                changes: changes.to_vec(),
            }));
            self.pass.pass("commit failed");
            return Err(CommitError::Storage("no space left".to_owned()));
        }
        let blocks =
            |change: &Change| matches!(change, Change::Revoke(order) if order.block != Block::None);
        if *self.full.lock() && changes.iter().any(blocks) {
            let (what, limit) = ("revocations", BLOCKS);
            return Err(CommitError::Limit { what, limit });
        }
        let committed = self.inner.commit_with(key, expected, changes, accepted);
        self.pass.pass("durable");
        committed
    }

    fn revision_of(&self, key: &str) -> Result<Option<Revision>, StoreError> {
        if *self.broken.lock() {
            return Err(StoreError::Io {
                what: "read",
                path: "state.db".into(),
                detail: "disk I/O error".to_owned(),
            });
        }
        self.inner.revision_of(key)
    }

    fn is_in_place(&self) -> Result<(), StoreError> {
        self.inner.is_in_place()
    }

    fn read(&self) -> Arc<State> {
        self.inner.read()
    }

    fn watch(&self, from: Revision) -> Result<Box<dyn Watch>, WatchError> {
        self.inner.watch(from)
    }

    fn policy(&self, hash: Hash) -> Result<Option<Arc<str>>, StoreError> {
        self.inner.policy(hash)
    }
}

/// A real log that notes when a record is on disk.
pub struct WatchedJournal {
    inner: Log,
    pub pass: Arc<Pass>,
    /// Takes no record.
    pub full: Mutex<bool>,
}

impl WatchedJournal {
    pub fn new(inner: Log, pass: &Arc<Pass>) -> Self {
        Self {
            inner,
            pass: Arc::clone(pass),
            full: Mutex::new(false),
        }
    }
}

impl Journal for WatchedJournal {
    fn append(&self, entry: &Entry) -> Result<Ticket, AppendError> {
        if *self.full.lock() {
            return Err(AppendError::Full);
        }
        self.inner.append(entry)
    }

    fn when_durable(&self, ticket: Ticket, then: WhenDurable) {
        let pass = Arc::clone(&self.pass);
        let then = move |result: Result<(), DurableError>| {
            pass.pass("recorded");
            then(result);
        };
        self.inner.when_durable(ticket, then);
    }

    fn health(&self) -> Health {
        Health {
            full: *self.full.lock(),
            ..self.inner.health()
        }
    }

    fn head(&self, at: WallInstant) -> Head {
        self.inner.head(at)
    }
}

/// Enforcers whose sessions are a list.
pub struct FakeFleet {
    pub pass: Arc<Pass>,
    pub sessions: Mutex<BTreeMap<SessionId, Session>>,
    pub applied: Mutex<Vec<Commit>>,
    pub withdrawn: Mutex<Vec<RevocationId>>,
    pub outcomes: Mutex<Vec<Outcome>>,
    /// Sessions whose subject has fresh proof.
    pub proved: Mutex<Vec<SessionId>>,
    pub clock_behind_ms: Mutex<u64>,
    /// The bindings of the configuration.
    pub configured: Mutex<Arc<BTreeMap<BindingKey, Binding>>>,
}

impl FakeFleet {
    pub fn new(pass: &Arc<Pass>) -> Self {
        Self {
            pass: Arc::clone(pass),
            sessions: Mutex::default(),
            applied: Mutex::default(),
            withdrawn: Mutex::default(),
            outcomes: Mutex::new(vec![
                outcome("gw-1", Answer::Done, 3),
                outcome("gw-2", Answer::Unreachable, 0),
            ]),
            proved: Mutex::default(),
            clock_behind_ms: Mutex::default(),
            configured: Mutex::default(),
        }
    }

    /// Opens session `number` of a user into a segment.
    pub fn open_session(&self, number: u128, user: &str, segment: &str) -> SessionId {
        let session = session(number, user, segment);
        let id = session.id;
        self.sessions.lock().insert(id, session);
        id
    }

    /// Ends session `number` at its lifetime, 250 µs late.
    pub fn end_session(&self, number: u128) {
        let mut sessions = self.sessions.lock();
        let session = sessions.get_mut(&SessionId(Uuid::from_u128(number)));
        let session = session.unwrap();
        session.state = SessionState::Ended;
        session.reason = Some(EndReason::LifetimeExpired);
        session.ended_at = session.expires_at;
        session.late_us = Some(250);
        session.cause = Some("SessionPolicy/dba".to_owned());
    }
}

pub fn outcome(enforcer: &str, answer: Answer, closed: u64) -> Outcome {
    Outcome {
        enforcer: enforcer.parse().unwrap(),
        answer,
        matched: closed + closed / 3,
        closed,
        audit_only: closed / 3,
        closed_at: None,
    }
}

pub fn session(number: u128, user: &str, segment: &str) -> Session {
    let identity = Identity {
        proof: Proof::Bound,
        kind: Kind::User,
        issuer: Issuer::local(),
        id: user.to_owned(),
        display: None,
    };
    let at = |seconds: i64| WallInstant(1_700_000_000_000 + 1_000 * seconds);
    Session {
        id: SessionId(Uuid::from_u128(number)),
        subject: identity.clone(),
        identities: vec![identity],
        segments: vec![segment.parse().unwrap()],
        mode: Mode::Enforce,
        service: Some("orders".parse().unwrap()),
        door: Door::Gateway,
        enforcer: "gw-1".parse().unwrap(),
        state: SessionState::Open,
        reason: None,
        ended_at: None,
        late_us: None,
        cause: None,
        client: "10.0.0.9:40000".parse().unwrap(),
        upstream: Some("10.20.0.1:5432".to_owned()),
        opened_at: at(0),
        expires_at: Some(at(900)),
        idle_deadline: Some(at(300)),
        reauth_by: None,
        credential_until: None,
        binding_until: None,
        deadline: Some(at(300)),
        deadline_reason: Some(EndReason::IdleTimeout),
        bytes_in: 10,
        bytes_out: 20,
        policies: vec!["dba".parse().unwrap()],
        revision: Revision(1),
    }
}

impl Fleet for FakeFleet {
    fn sessions(&self, filter: &Filter, after: Option<SessionId>, limit: usize) -> Vec<Session> {
        let sessions = self.sessions.lock();
        sessions
            .values()
            .filter(|session| after.is_none_or(|after| session.id > after))
            .filter(|session| filter.matches(session))
            .take(limit)
            .cloned()
            .collect()
    }

    fn session(&self, id: SessionId) -> Option<Session> {
        self.sessions.lock().get(&id).cloned()
    }

    fn explain(&self, id: SessionId) -> Option<Explanation> {
        let session = self.session(id)?;
        let now = BootClock.now();
        let document = Provenance::Document {
            document: "SessionPolicy/dba".to_owned(),
            field: "spec.limits.maxLifetime".to_owned(),
            place: Some("policy/dba.yaml:9".to_owned()),
            revision: Revision(1),
        };
        let bound = Bound {
            at: now.boot.after(Duration::from_secs(900)),
            reason: EndReason::LifetimeExpired,
            by: Arc::new(document),
        };
        let lease = Lease {
            expires_at: Some(bound),
            idle_timeout: Some((Duration::from_secs(300), Arc::new(Provenance::Binding))),
            ..Lease::default()
        };
        Some(Explanation::new(session, (&lease, None), now.boot, now))
    }

    fn cancel(&self, id: SessionId, cause: &str) -> Result<Outcome, FleetError> {
        assert!(cause.starts_with("api:"), "{cause}");
        self.pass.pass("cut");
        let mut sessions = self.sessions.lock();
        sessions.remove(&id).ok_or(FleetError::Unknown(id))?;
        Ok(Outcome {
            closed_at: self.outcomes.lock()[0].closed_at,
            ..outcome("gw-1", Answer::Done, 1)
        })
    }

    fn renew(&self, id: SessionId) -> Result<Session, FleetError> {
        let session = self.session(id).ok_or(FleetError::Unknown(id))?;
        if self.proved.lock().contains(&id) {
            Ok(session)
        } else {
            Err(FleetError::ProofRequired(id))
        }
    }

    fn apply(&self, commit: &Commit, _wait: Duration) -> Vec<Outcome> {
        self.applied.lock().push(commit.clone());
        self.pass.pass("cut");
        self.outcomes.lock().clone()
    }

    fn withdraw(&self, order: RevocationId) {
        self.withdrawn.lock().push(order);
    }

    fn open(&self) -> Vec<OpenCount> {
        let mut counts = BTreeMap::new();
        for session in self.sessions.lock().values() {
            let key = (session.segments.first().cloned(), session.door);
            *counts.entry(key).or_insert(0) += 1;
        }
        let count = |((segment, door), open)| OpenCount {
            segment,
            door,
            open,
        };
        counts.into_iter().map(count).collect()
    }

    fn enforcers(&self) -> Vec<Enforcer> {
        vec![Enforcer {
            id: "gw-1".parse().unwrap(),
            doors: vec![Door::Gateway],
            services: vec!["orders".parse().unwrap()],
            revision: Revision(1),
            open: u64::try_from(self.sessions.lock().len()).unwrap(),
            heard_at: WallInstant(1),
            clock_behind_ms: *self.clock_behind_ms.lock(),
        }]
    }

    fn accept_clock(&self, _: &EnforcerId) -> Result<Enforcer, FleetError> {
        *self.clock_behind_ms.lock() = 0;
        Ok(self.enforcers().remove(0))
    }

    fn clock_accepted(&self, _: &EnforcerId, _: WallInstant) -> Result<(), FleetError> {
        self.pass.pass("noted");
        Ok(())
    }

    fn configured(&self) -> Arc<BTreeMap<BindingKey, Binding>> {
        Arc::clone(&self.configured.lock())
    }
}

/// Now.
pub fn boot() -> BootInstant {
    BootClock.now().boot
}
