//! The engine: its state, its two ways in, its one way out, and how a record enters and leaves every index.
//! What an input means lives in the module of its name.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use curfew_model::{
    BootInstant, EndReason, Event, EventKind, Facts, LiveOnLoss, Now, Revision, RevocationId,
    SegmentName, SessionId, Target, WallInstant,
};
use curfew_policy::Decide;
use hashbrown::HashMap;

use crate::{
    Action, AuditLog, EngineError, Input, Report, SessionView, State,
    binding::Bindings,
    intern::Interner,
    record::{List, NEVER, Table},
    revoke::Order,
    session::{Class, Key, Ties, Who, subject_text},
    wheel::Wheel,
};

/// How much the engine holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions, closing ones included; over it new ones are refused `overloaded`.
    pub sessions: usize,
    /// Orders.
    pub revocations: usize,
    /// Bindings.
    pub bindings: usize,
    /// Last ends by subject and segment; over it the older half is dropped.
    pub last_ends: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions: 4_000_000,
            revocations: 100_000,
            bindings: 1_000_000,
            last_ends: 1_000_000,
        }
    }
}

/// The pure session engine.
pub struct Engine {
    pub(crate) set: Arc<dyn Decide>,
    pub(crate) revision: Revision,
    pub(crate) bounds: Bounds,
    pub(crate) now: Now,
    pub(crate) table: Table,
    pub(crate) wheel: Wheel,
    pub(crate) whos: Interner<Who>,
    pub(crate) classes: Interner<Class>,
    pub(crate) targets: Interner<Target>,
    pub(crate) ties: Interner<Ties>,
    pub(crate) index: HashMap<Key, Vec<u32>>,
    pub(crate) bindings: Bindings,
    pub(crate) orders: BTreeMap<RevocationId, Order>,
    pub(crate) blocks: HashMap<Key, Vec<RevocationId>>,
    pub(crate) last_ends: HashMap<(String, SegmentName), u64>,
    pub(crate) contact: BootInstant,
    pub(crate) loss_done: Option<Duration>,
    pub(crate) closers: BTreeSet<(Duration, u32)>,
    pub(crate) audit: AuditLog,
    pub(crate) probes: Vec<SessionId>,
    /// When the door was asked about the sessions that it has not answered for.
    pub(crate) probed: HashMap<u32, BootInstant>,
    pub(crate) out: VecDeque<Action>,
}

impl Engine {
    /// An empty engine that hears the control plane at `now`.
    #[must_use]
    pub fn new(set: Arc<dyn Decide>, bounds: Bounds, now: Now) -> Self {
        Self {
            revision: set.revision(),
            set,
            bounds,
            now,
            table: Table::default(),
            wheel: Wheel::default(),
            whos: Interner::default(),
            classes: Interner::default(),
            targets: Interner::default(),
            ties: Interner::default(),
            index: HashMap::new(),
            bindings: Bindings::default(),
            orders: BTreeMap::new(),
            blocks: HashMap::new(),
            last_ends: HashMap::new(),
            contact: now.boot,
            loss_done: None,
            closers: BTreeSet::new(),
            audit: AuditLog::default(),
            probes: Vec::new(),
            probed: HashMap::new(),
            out: VecDeque::new(),
        }
    }

    /// Takes one input. What became due before it ends first, for its own reason.
    ///
    /// # Errors
    /// [`EngineError`] when the input names something unknown, lacks proof, or a bound is reached.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<Report, EngineError> {
        self.poll(now);
        let answer = match input {
            Input::Policies { set, concerns } => Ok(self.apply_policies(set, &concerns)),
            Input::BindingSet(binding) => self.set_binding(binding),
            Input::BindingRemoved(key) => Ok(self.remove_binding(&key)),
            Input::Revoke(order) => self.revoke(order),
            Input::Lift(id) => self.lift(id),
            Input::Activity(activity) => {
                self.activity(activity);
                Ok(Report::default())
            }
            Input::Ended { id, reason } => Ok(self.ended(id, reason)),
            Input::Cancel { id, cause } => self.cancel(id, &cause),
            Input::Renew(id) => self.renew(id),
            Input::Snapshot { taken_at, sockets } => Ok(self.reconcile(taken_at, sockets)),
            Input::Contact => {
                self.contact = self.now.boot;
                self.loss_done = None;
                Ok(Report::default())
            }
            Input::Audit(audit) => {
                self.audit = audit;
                Ok(Report::default())
            }
        };
        self.flush_probes();
        answer
    }

    /// The next action, in order.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.pop_front()
    }

    /// The revision of the desired state that the engine has heard of.
    #[must_use]
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// How many sessions are open or closing.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether no session is open or closing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// The ids of all sessions, open and closing.
    pub fn ids(&self) -> impl Iterator<Item = SessionId> + '_ {
        let id = |slot| self.table.get(slot).map(|record| record.id);
        self.table.slots().filter_map(id)
    }

    /// One session as it stands.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<SessionView> {
        let slot = self.table.find(id)?;
        let record = self.table.get(slot)?;
        let class = self.classes.get(record.class)?;
        let facts = self.facts(slot)?;
        Some(SessionView {
            id,
            state: record.closing.map_or(State::Open, State::Closing),
            target: facts.target.clone(),
            facts,
            segments: class.segments.iter().map(|s| s.name.clone()).collect(),
            policies: class.policies.to_vec(),
            revision: class.revision,
            lease: class.lease(record, self.ties.get(record.ties)?),
            last_activity: BootInstant(record.last),
            bytes_in: record.bytes_in,
            bytes_out: record.bytes_out,
        })
    }

    /// The facts of a session, as `decide` takes them now.
    pub(crate) fn facts(&self, slot: u32) -> Option<Facts> {
        let record = self.table.get(slot)?;
        let who = self.whos.get(record.who)?;
        let ties = self.ties.get(record.ties)?;
        let wall = |at: u64| (at != NEVER).then(|| self.now.wall_at(BootInstant(at)));
        Some(Facts {
            identities: who.identities.to_vec(),
            groups: who.groups.to_vec(),
            device: who.device.clone(),
            attributes: who.attributes.clone(),
            client: record.client(),
            target: self.targets.get(record.target)?.clone(),
            opened_at: BootInstant(record.opened_at),
            proved_at: (ties.proved != NEVER).then_some(BootInstant(ties.proved)),
            credential_until: wall(ties.credential),
            binding_until: wall(ties.binding),
            ambiguous: who.ambiguous,
        })
    }

    /// Both clocks with the highest wall time on record: a clock set back revives nothing (rule 10).
    pub(crate) fn see(&mut self, now: Now) {
        self.now = Now {
            boot: self.now.boot.max(now.boot),
            wall: WallInstant(self.now.wall.0.max(now.wall.0)),
        };
    }

    pub(crate) fn record(
        &mut self,
        slot: u32,
        event: EventKind,
        reason: Option<EndReason>,
        cause: Option<String>,
    ) {
        let Some(record) = self.table.get(slot) else {
            return;
        };
        let class = self.classes.get(record.class);
        let segments = class.map(|c| c.segments.iter().map(|s| s.name.clone()).collect());
        let event = Event {
            at: self.now.wall,
            event,
            session: Some(record.id),
            subject: self.whos.get(record.who).and_then(Who::subject).cloned(),
            segments: segments.unwrap_or_default(),
            reason,
            revision: class.map_or(self.revision, |class| class.revision),
            cause,
        };
        self.out.push_back(Action::Record(Box::new(event)));
    }

    pub(crate) fn note(&mut self, event: EventKind, cause: String) {
        self.out.push_back(Action::Record(Box::new(Event {
            at: self.now.wall,
            event,
            session: None,
            subject: None,
            segments: Vec::new(),
            reason: None,
            revision: self.revision,
            cause: Some(cause),
        })));
    }

    fn index(&mut self, keys: Vec<Key>, value: u32) {
        for key in keys {
            self.index.entry(key).or_default().push(value);
        }
    }

    fn unindex(&mut self, keys: Vec<Key>, value: u32) {
        for key in keys {
            if let Some(values) = self.index.get_mut(&key) {
                values.retain(|&other| other != value);
                if values.is_empty() {
                    self.index.remove(&key);
                }
            }
        }
    }

    /// Puts a session under an identity set; the list keeps the newest first.
    pub(crate) fn join_who(&mut self, slot: u32, who: Who) {
        let (key, new) = self.whos.acquire(who);
        if new && let Some(who) = self.whos.get(key) {
            self.index(who.keys(), key);
        }
        let head = self.table.link(List::Who, self.whos.head(key), slot);
        self.whos.set_head(key, head);
        if let Some(record) = self.table.get_mut(slot) {
            record.who = key;
        }
    }

    /// Puts a session under a class of decisions.
    pub(crate) fn join_class(&mut self, slot: u32, class: Class) {
        let (key, new) = self.classes.acquire(class);
        if new && let Some(class) = self.classes.get(key) {
            let closer = loss_of(class);
            self.index(class.keys(), key);
            self.closers.extend(closer.map(|after| (after, key)));
        }
        let head = self.table.link(List::Class, self.classes.head(key), slot);
        self.classes.set_head(key, head);
        if let Some(record) = self.table.get_mut(slot) {
            record.class = key;
        }
    }

    pub(crate) fn leave_class_list(&mut self, slot: u32) {
        let Some(key) = self.table.get(slot).map(|record| record.class) else {
            return;
        };
        let head = self.table.unlink(List::Class, self.classes.head(key), slot);
        self.classes.set_head(key, head);
    }

    pub(crate) fn leave_who_list(&mut self, slot: u32) {
        let Some(key) = self.table.get(slot).map(|record| record.who) else {
            return;
        };
        let head = self.table.unlink(List::Who, self.whos.head(key), slot);
        self.whos.set_head(key, head);
    }

    pub(crate) fn release_class(&mut self, key: u32) {
        if let Some(class) = self.classes.release(key) {
            self.unindex(class.keys(), key);
            if let Some(after) = loss_of(&class) {
                self.closers.remove(&(after, key));
            }
        }
    }

    /// Takes a session out of everything.
    pub(crate) fn forget(&mut self, slot: u32) {
        let Some(record) = self.table.get(slot).cloned() else {
            return;
        };
        if record.closing.is_none() {
            self.leave_class_list(slot);
            self.leave_who_list(slot);
            self.wheel.disarm(&mut self.table, slot);
        }
        if record.probing {
            self.probed.remove(&slot);
        }
        self.table.remove(slot);
        self.release_class(record.class);
        if let Some(who) = self.whos.release(record.who) {
            self.unindex(who.keys(), record.who);
        }
        self.targets.release(record.target);
        self.ties.release(record.ties);
    }

    /// Ends a session: ordered, recorded, out of the lists of the living. In audit mode only recorded, once.
    /// Answers whether it closes.
    pub(crate) fn end(
        &mut self,
        slot: u32,
        reason: EndReason,
        cause: String,
        deadline: Option<BootInstant>,
    ) -> bool {
        let Some(record) = self.table.get(slot) else {
            return false;
        };
        let (id, first) = (record.id, !record.would_end);
        if record.closing.is_some() {
            return false;
        }
        let audit = self.classes.get(record.class).is_some_and(Class::is_audit);
        if audit && reason != EndReason::SessionCancelled {
            self.wheel.disarm(&mut self.table, slot);
            if let Some(record) = self.table.get_mut(slot) {
                record.would_end = true;
                record.wake = NEVER;
            }
            if first {
                self.record(slot, EventKind::SessionWouldEnd, Some(reason), Some(cause));
            }
            return false;
        }
        self.out.push_back(Action::Close {
            id,
            reason,
            deadline,
        });
        self.record(slot, EventKind::SessionEnded, Some(reason), Some(cause));
        if reason == EndReason::LifetimeExpired {
            self.keep_last_end(slot);
        }
        self.leave_class_list(slot);
        self.leave_who_list(slot);
        self.wheel.disarm(&mut self.table, slot);
        if let Some(record) = self.table.get_mut(slot) {
            record.closing = Some(reason);
            record.wake = NEVER;
        }
        true
    }

    fn keep_last_end(&mut self, slot: u32) {
        let Some(record) = self.table.get(slot) else {
            return;
        };
        let subject = self.whos.get(record.who).and_then(Who::subject);
        let subject = subject_text(subject, record.client());
        let class = self.classes.get(record.class);
        let segments: Vec<SegmentName> = class.map_or_else(Vec::new, |c| {
            c.segments.iter().map(|s| s.name.clone()).collect()
        });
        for segment in segments {
            self.keep_end((subject.clone(), segment), self.now.boot.0);
        }
    }

    pub(crate) fn keep_end(&mut self, key: (String, SegmentName), at: u64) {
        if self.last_ends.len() >= self.bounds.last_ends && !self.last_ends.contains_key(&key) {
            let mut ends: Vec<u64> = self.last_ends.values().copied().collect();
            let middle = ends.len() / 2;
            if middle < ends.len() {
                let (_, &mut median, _) = ends.select_nth_unstable(middle);
                self.last_ends.retain(|_, end| *end > median);
            }
        }
        let end = self.last_ends.entry(key).or_insert(at);
        *end = (*end).max(at);
    }

    fn ended(&mut self, id: SessionId, reason: EndReason) -> Report {
        let Some(slot) = self.table.find(id) else {
            return Report::default();
        };
        if self.table.get(slot).is_some_and(|r| r.closing.is_none()) {
            self.record(slot, EventKind::SessionEnded, Some(reason), None);
        }
        self.forget(slot);
        Report {
            matched: 1,
            closed: 0,
            audit_only: 0,
            visited: 1,
        }
    }

    fn cancel(&mut self, id: SessionId, cause: &str) -> Result<Report, EngineError> {
        let slot = self.table.find(id).ok_or(EngineError::UnknownSession(id))?;
        let closed = self.end(slot, EndReason::SessionCancelled, cause.to_owned(), None);
        Ok(Report {
            matched: 1,
            closed: u64::from(closed),
            audit_only: 0,
            visited: 1,
        })
    }
}

/// After how long without the control plane sessions of a class end.
fn loss_of(class: &Class) -> Option<Duration> {
    let rules = class.segments.iter().map(|s| s.on_control_plane_loss);
    rules
        .filter(|rule| rule.live == LiveOnLoss::Close)
        .map(|rule| rule.after)
        .min()
}
