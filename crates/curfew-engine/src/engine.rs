//! The engine: its state, its two ways in, its one way out, and how a session enters and leaves what it shares.
//! What an input means lives in the module of its name.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use curfew_model::{
    BootInstant, EndReason, EventKind, Now, Revision, SegmentName, SessionId, Target, WallInstant,
};
use curfew_policy::Decide;
use hashbrown::{HashMap, HashSet};

use crate::{
    Action, AuditLog, Changes, EngineError, Input, Report,
    action::Fate,
    binding::Bindings,
    change::Tightened,
    class::{Class, Decided, Kept, Ties},
    intern::Interner,
    past::PastSessions,
    postings::Postings,
    record::{List, NEVER, NIL, Table, WouldEnd},
    revoke::Orders,
    shadow::Shadow,
    subject::Subjects,
    wheel::Wheel,
    who::Encoded,
};

/// How much the engine holds at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Sessions, closing ones included; over it new ones are refused `overloaded`.
    pub sessions: usize,
    /// Orders; over it the oldest without a block is forgotten, and where all block, a further one ends what is open and
    /// keeps nobody out.
    pub revocations: usize,
    /// Bindings.
    pub bindings: usize,
    /// Subjects that something is known of.
    pub subjects: usize,
    /// Last ends by subject and segment; over it the older half is dropped.
    pub last_ends: usize,
    /// Sessions that ended; over it the one whose end is the oldest is forgotten.
    pub ended: usize,
    /// Sessions that were refused; over it the one that was refused first is forgotten.
    pub refused: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self {
            sessions: 4_000_000,
            revocations: 100_000,
            bindings: 1_000_000,
            subjects: 1_000_000,
            last_ends: 1_000_000,
            ended: 10_000,
            refused: 1_000,
        }
    }
}

/// The pure session engine.
pub struct Engine {
    pub(crate) set: Arc<dyn Decide>,
    pub(crate) revision: Revision,
    pub(crate) bounds: Bounds,
    pub(crate) now: Now,
    /// What the wall clock shows, which may be earlier than what is judged by.
    pub(crate) shown: WallInstant,
    /// The highest wall time seen, and when.
    pub(crate) highest: Now,
    pub(crate) table: Table,
    pub(crate) wheel: Wheel,
    pub(crate) whos: Interner<Encoded>,
    pub(crate) classes: Interner<Arc<Kept>>,
    pub(crate) targets: Interner<Arc<Target>>,
    /// By target, the class that the last session into it was put under: it may be gone, or another by now.
    usual: Vec<u32>,
    pub(crate) ties: Interner<Ties>,
    pub(crate) index: Postings,
    /// Identity sets by client address.
    pub(crate) addresses: BTreeSet<([u8; 16], u32)>,
    /// Living sessions under a limit, by subject and segment.
    pub(crate) counts: HashMap<(String, SegmentName), u32>,
    /// How many living sessions were opened on each revision.
    pub(crate) ages: BTreeMap<u64, u32>,
    pub(crate) bindings: Bindings,
    pub(crate) subjects: Subjects,
    pub(crate) orders: Orders,
    pub(crate) last_ends: HashMap<(String, SegmentName), u64>,
    pub(crate) ended_sessions: PastSessions,
    pub(crate) refused_sessions: PastSessions,
    pub(crate) contact: BootInstant,
    pub(crate) loss_done: Option<Duration>,
    pub(crate) closers: BTreeSet<(Duration, u32)>,
    pub(crate) audit: AuditLog,
    pub(crate) probes: Vec<SessionId>,
    /// When the door was asked about the sessions that it has not answered for.
    pub(crate) probed: HashMap<u32, BootInstant>,
    /// Sessions that were idle for too long, by what was known, when their idle limit became what it is.
    pub(crate) tightened: HashMap<u32, Tightened>,
    /// Sessions that a refresh renewed by itself, until somebody asks for it.
    pub(crate) renewed: HashSet<u32>,
    /// What segments in audit mode hold sessions to that enforced ones let live.
    pub(crate) shadows: HashMap<u32, Shadow>,
    /// Sessions that segments in audit mode would have refused or ended.
    pub(crate) gone: HashSet<u32>,
    pub(crate) scratch: Vec<u8>,
    pub(crate) out: VecDeque<Action>,
    /// Records so far.
    pub(crate) records: u64,
    /// Copies of leases that doors were given.
    pub(crate) door_leases: u64,
}

impl Engine {
    /// An empty engine that hears the control plane at `now`, the wall time of which is the highest on record.
    #[must_use]
    pub fn new(set: Arc<dyn Decide>, bounds: Bounds, now: Now) -> Self {
        Self {
            revision: set.revision(),
            set,
            bounds,
            now,
            shown: now.wall,
            highest: now,
            table: Table::default(),
            wheel: Wheel::default(),
            whos: Interner::default(),
            classes: Interner::default(),
            targets: Interner::default(),
            usual: Vec::new(),
            ties: Interner::default(),
            index: Postings::default(),
            addresses: BTreeSet::new(),
            counts: HashMap::new(),
            ages: BTreeMap::new(),
            bindings: Bindings::default(),
            subjects: Subjects::default(),
            orders: Orders::default(),
            last_ends: HashMap::new(),
            ended_sessions: PastSessions::new(bounds.ended),
            refused_sessions: PastSessions::new(bounds.refused),
            contact: now.boot,
            loss_done: None,
            closers: BTreeSet::new(),
            audit: AuditLog::default(),
            probes: Vec::new(),
            probed: HashMap::new(),
            tightened: HashMap::new(),
            renewed: HashSet::new(),
            shadows: HashMap::new(),
            gone: HashSet::new(),
            scratch: Vec::new(),
            out: VecDeque::new(),
            records: 0,
            door_leases: 0,
        }
    }

    /// Takes one input. What became due before it ends first, for its own reason.
    ///
    /// # Errors
    /// [`EngineError`] when the input names something unknown, lacks proof, or a bound is reached.
    pub fn handle(&mut self, input: Input, now: Now) -> Result<Report, EngineError> {
        self.poll(now);
        let answer = match input {
            Input::Commit(revision) => {
                self.revision = self.revision.max(revision);
                Ok(Report::default())
            }
            Input::Policies { set, difference } => self.change(Changes {
                policies: Some((set, difference)),
                ..Changes::default()
            }),
            Input::BindingSet(keeper, binding) => self.change(Changes {
                bound: vec![(keeper, binding)],
                ..Changes::default()
            }),
            Input::BindingRemoved(keeper, key) => self.change(Changes {
                unbound: vec![(keeper, key)],
                ..Changes::default()
            }),
            Input::Changes(changes) => self.change(changes),
            Input::Subject(subject) => self.set_subject(subject),
            Input::Revoke(order) => self.revoke(order),
            Input::Lift(id) => self.lift(id),
            Input::Withdraw(id) => Ok(self.withdraw(id)),
            Input::Activity(seen) => {
                let closed = self.activity(&seen);
                Ok(Report {
                    closed,
                    ..Report::default()
                })
            }
            Input::Warned { id, deadline } => {
                self.warned(id, deadline);
                Ok(Report::default())
            }
            Input::Owners(owners) => Ok(self.own(owners)),
            Input::Hears(id) => {
                self.hears(id);
                Ok(Report::default())
            }
            Input::Ended {
                id,
                reason,
                cause,
                moved,
                late,
            } => {
                if let Some(moved) = moved {
                    self.moved(moved);
                }
                let report = self.end_reported(id, reason, cause);
                self.ended_sessions.settle(id, late);
                Ok(report)
            }
            Input::Cancel { id, cause } => self.cancel(id, cause),
            Input::Renew(id) => self.renew(id),
            Input::Snapshot { taken_at, sockets } => Ok(self.reconcile(taken_at, sockets)),
            Input::Contact => {
                self.contact = self.now.boot;
                self.loss_done = None;
                Ok(Report::default())
            }
            Input::Installed(revision) => {
                self.orders.installed(revision);
                self.drop_spent_orders();
                Ok(Report::default())
            }
            Input::Audit(audit) => {
                self.audit = audit;
                Ok(Report::default())
            }
            Input::AcceptClock => Ok(self.accept_clock()),
            Input::Shutdown => Ok(self.shut_down()),
        };
        self.flush_probes();
        answer
    }

    /// All actions that wait, in order: as [`Engine::poll_action`] until it gives none.
    pub fn take_actions(&mut self) -> VecDeque<Action> {
        std::mem::take(&mut self.out)
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

    /// The class of a session.
    pub(crate) fn class(&self, slot: u32) -> Option<&Class> {
        let kept = self.classes.get(self.table.get(slot)?.class)?;
        Some(&kept.class)
    }

    /// Puts a session under a class that was taken for it.
    pub(crate) fn join_class(&mut self, slot: u32, key: u32) {
        let head = self.table.link(List::Class, self.classes.head(key), slot);
        self.classes.set_head(key, head);
        if let Some(record) = self.table.get_mut(slot) {
            record.class = key;
        }
    }

    /// Takes the class of a decision about a session into this target. Most sessions into one are decided alike.
    pub(crate) fn take_class(&mut self, target: u32, decided: &Decided<'_>) -> u32 {
        let usual = self.usual.get(target as usize).copied().unwrap_or(NIL);
        let is = |kept: &Arc<Kept>| decided.is_of(&kept.class);
        if self.classes.again(usual, is) {
            return usual;
        }
        let sought = self.classes.seek(self.classes.hash(decided), is);
        let make = || Arc::new(Kept::new(decided));
        let (key, is_new) = self.classes.take(sought, make);
        if is_new {
            self.index_class(key);
        }
        if self.usual.len() <= target as usize && target != NIL {
            self.usual.resize(target as usize + 1, NIL);
        }
        if let Some(usual) = self.usual.get_mut(target as usize) {
            *usual = key;
        }
        key
    }

    pub(crate) fn leave_class_list(&mut self, slot: u32) {
        let Some(key) = self.table.get(slot).map(|record| record.class) else {
            return;
        };
        let head = self.table.unlink(List::Class, self.classes.head(key), slot);
        self.classes.set_head(key, head);
    }

    pub(crate) fn release_class(&mut self, key: u32) {
        if let Some((kept, posts)) = self.classes.release(key) {
            self.index.remove(posts);
            for after in kept.class.losses() {
                self.closers.remove(&(after, key));
            }
        }
    }

    /// Takes a session out of the lists and counts of the living.
    fn retire(&mut self, slot: u32) {
        self.uncount(slot);
        self.leave_class_list(slot);
        self.leave_who_list(slot);
        self.wheel.disarm(&mut self.table, slot);
        self.probed.remove(&slot);
        self.tightened.remove(&slot);
        self.renewed.remove(&slot);
        self.shadows.remove(&slot);
        self.gone.remove(&slot);
        if let Some(age) = self.table.get(slot).map(|record| record.opened_rev) {
            self.forget_age(age);
        }
    }

    /// One living session less was decided at this revision.
    pub(crate) fn forget_age(&mut self, age: u64) {
        if let Some(count) = self.ages.get_mut(&age) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.ages.remove(&age);
                self.drop_spent_orders();
            }
        }
    }

    /// Takes a session out of everything.
    pub(crate) fn forget(&mut self, slot: u32) {
        if self.table.get(slot).is_some_and(|r| r.closing.is_none()) {
            self.retire(slot);
        }
        let Some(record) = self.table.remove(slot) else {
            return;
        };
        self.ended_sessions.moved(record.activity());
        self.release_class(record.class);
        self.release_who(record.who);
        self.targets.release(record.target);
        self.ties.release(record.ties);
    }

    /// Ends a session: ordered, recorded, out of the lists of the living. In audit mode only recorded, once.
    pub(crate) fn end(
        &mut self,
        slot: u32,
        reason: EndReason,
        cause: String,
        deadline: Option<BootInstant>,
    ) -> Fate {
        let Some(record) = self.table.get(slot) else {
            return Fate::Lives;
        };
        let (id, first) = (record.id, record.would_end == WouldEnd::No);
        if record.closing.is_some() {
            return Fate::Lives;
        }
        // What has a deadline was decided before it.
        let on = match deadline {
            Some(_) => self.decided_on(slot),
            None => self.revision,
        };
        let audit = self.class(slot).is_some_and(Class::is_audit);
        let always = [EndReason::SessionCancelled, EndReason::Shutdown];
        if audit && !always.contains(&reason) {
            self.wheel.disarm(&mut self.table, slot);
            self.probed.remove(&slot);
            if let Some(record) = self.table.get_mut(slot) {
                record.would_end = match record.would_end {
                    _ if reason.is_order() => WouldEnd::Ordered,
                    WouldEnd::Ordered => WouldEnd::Ordered,
                    WouldEnd::No | WouldEnd::Yes => WouldEnd::Yes,
                };
                record.probing = false;
                record.wake = NEVER;
            }
            self.mark_gone(slot);
            if first {
                self.record_on(
                    on,
                    slot,
                    EventKind::SessionWouldEnd,
                    Some(reason),
                    Some(cause),
                );
            }
            return Fate::WouldEnd;
        }
        self.out.push_back(Action::Close {
            id,
            reason,
            deadline,
        });
        self.record_end(on, slot, reason, Some(cause));
        if reason == EndReason::LifetimeExpired {
            self.keep_last_end(slot);
        }
        self.retire(slot);
        if let Some(record) = self.table.get_mut(slot) {
            record.closing = Some(reason);
            record.wake = NEVER;
        }
        Fate::Closes
    }

    /// The door has no such session any more.
    fn end_reported(&mut self, id: SessionId, reason: EndReason, cause: Option<String>) -> Report {
        let mut report = Report::default();
        if let Some(slot) = self.table.find(id) {
            if self.table.get(slot).is_some_and(|r| r.closing.is_none()) {
                self.record_end(self.revision, slot, reason, cause);
            }
            self.forget(slot);
            report.count(Fate::Lives);
        }
        report
    }

    fn shut_down(&mut self) -> Report {
        let slots: Vec<u32> = self.table.slots().collect();
        let mut report = Report::default();
        for slot in slots {
            let cause = "the process stops".to_owned();
            report.count(self.end(slot, EndReason::Shutdown, cause, None));
        }
        report
    }

    fn cancel(&mut self, id: SessionId, cause: String) -> Result<Report, EngineError> {
        let open = |slot: &u32| self.table.get(*slot).is_some_and(|r| r.closing.is_none());
        let slot = self.table.find(id).filter(open);
        let slot = slot.ok_or(EngineError::UnknownSession(id))?;
        let mut report = Report::default();
        report.count(self.end(slot, EndReason::SessionCancelled, cause, None));
        Ok(report)
    }
}

#[cfg(test)]
mod tests {
    use crate::record::Record;

    #[test]
    fn a_record_fills_two_cache_lines() {
        assert_eq!(size_of::<Option<Record>>(), 128);
    }
}
