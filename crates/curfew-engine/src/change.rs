//! What a change does to live sessions: a new policy set, alone or with bindings, a window, fresh proof. A looser rule
//! leaves a lease as it is.

use std::{collections::HashSet, sync::Arc};

use curfew_model::{BootInstant, EndReason, EventKind, Lease, Now, Revision, WallInstant};
use curfew_policy::{ComingEnd, Decide, Decision, Difference, Refusal};

use crate::{
    Action, Changes, Engine, EngineError, Report,
    action::{Fate, Tally},
    attribution::Touched,
    class::{Decided, Ties, all_audit, bound_at, nanos},
    index::Key,
    record::{List, WouldEnd},
    timing::{ahead, cause_of, is_ahead},
};

/// Why a session is looked at again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The documents changed.
    Policies(Revision),
    /// A window opened or closed, or a grant ended, at this instant.
    Window(BootInstant),
    /// The subject proved itself again.
    Proof,
    /// The binding says something else, without fresh proof.
    Binding,
}

/// What set off an end that a look found because of [`Why::Binding`].
const CHANGED: &str = "since a binding of its client or what is known of its subject changed";

impl Why {
    /// What of the old lease a new decision may not make later.
    pub(crate) fn held(self, old: Lease) -> Lease {
        match self {
            Self::Policies(_) | Self::Window(_) => old,
            Self::Binding => Lease {
                binding_until: None,
                ..old
            },
            Self::Proof => Lease {
                expires_at: old.expires_at,
                credential_until: old.credential_until,
                ..Lease::default()
            },
        }
    }

    /// When what it is about took effect, if it is looked at `now`.
    fn at(self, now: BootInstant) -> BootInstant {
        match self {
            Self::Window(at) => at,
            Self::Policies(_) | Self::Proof | Self::Binding => now,
        }
    }

    /// The reason of an end that a look found: a change of the documents is one of its own.
    fn told(self, reason: EndReason) -> EndReason {
        match self {
            Self::Policies(_) => EndReason::PolicyChanged,
            Self::Window(_) | Self::Proof | Self::Binding => reason,
        }
    }
}

/// An idle limit that was passed as it came.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tightened {
    /// When it came.
    pub(crate) at: BootInstant,
    /// The reason of the end that it brings.
    pub(crate) reason: EndReason,
    /// Whether that end was due at an instant, and not by an order.
    pub(crate) timed: bool,
}

impl Engine {
    /// Notes in a session's ties what a decision at `now` says of its instants.
    pub(crate) fn tie_lease(
        &self,
        ties: &mut Ties,
        lease: &Lease,
        coming: Option<&ComingEnd>,
        (look, now): (Option<BootInstant>, Now),
    ) {
        ties.decided_on = self.revision;
        ties.ahead = coming.map(|coming| ahead(lease, coming));
        ties.lease_credential = bound_at(&lease.credential_until);
        ties.lease_binding = bound_at(&lease.binding_until);
        let look = look.filter(|look| *look > now.boot);
        ties.look_again = nanos(look);
        ties.clock = now.wall_at(BootInstant(0)).0;
    }

    /// When a living session is decided on. It is the clock that it was leased on that counts: a window that was slept
    /// through leaves what it would have left, and no step of the wall clock moves what a window will bring. Only new
    /// documents come by the clock of now, unless that was set back.
    fn review_time(&self, ties: &Ties, why: Why) -> Now {
        let began = Now {
            boot: BootInstant(0),
            wall: WallInstant(ties.clock),
        };
        let boot = why.at(self.now.boot);
        let leased = began.wall_at(boot);
        let wall = match why {
            Why::Policies(_) => leased.max(self.now.wall),
            Why::Window(_) | Why::Proof | Why::Binding => leased,
        };
        Now { boot, wall }
    }

    pub(crate) fn set_ties(&mut self, slot: u32, ties: Ties) {
        let ties = self.ties.acquire(ties);
        if let Some(record) = self.table.get_mut(slot) {
            let old = std::mem::replace(&mut record.ties, ties);
            self.ties.release(old);
        }
    }

    /// Writes what a decision gives into a session's record and indexes.
    fn place(&mut self, slot: u32, decided: &Decided<'_>, old: &Lease, ties: Ties) {
        let told = self.warned_end(slot, old);
        self.set_ties(slot, ties);
        let told = told == self.warned_end(slot, decided.lease);
        let same = self.class(slot).is_some_and(|class| decided.is_of(class));
        let Some(record) = self.table.get_mut(slot) else {
            return;
        };
        record.set_bounds(decided.lease);
        record.warned &= told;
        let (old_class, target) = (record.class, record.target);
        if same {
            return;
        }
        self.uncount(slot);
        self.leave_class_list(slot);
        let class = self.take_class(target, decided);
        self.join_class(slot, class);
        self.release_class(old_class);
        self.unmark_gone(slot);
        self.count(slot);
    }

    /// Decides about a living session again.
    pub(crate) fn review(&mut self, slot: u32, why: Why) -> Fate {
        let Some(record) = self.table.get(slot).filter(|r| r.closing.is_none()) else {
            return Fate::Lives;
        };
        let (id, opened_rev, would_end) = (record.id, record.opened_rev, record.would_end);
        let Some(&(mut ties)) = self.ties.get(record.ties) else {
            return Fate::Lives;
        };
        let now = self.review_time(&ties, why);
        let (Some(facts), Some(old)) = (self.facts(slot, now), self.lease(slot)) else {
            return Fate::Lives;
        };
        let held = self.door_until(slot, &old);
        let Decision {
            segments,
            policies,
            mut lease,
            refusal,
            look_again_at,
            shadow,
            coming,
        } = self.set.decide(&facts, now);
        let shadow = self.hold(slot, &mut lease, shadow, &segments, why);
        let coming = coming.filter(|coming| is_ahead(&lease, coming));
        self.tie_lease(&mut ties, &lease, coming.as_ref(), (look_again_at, now));
        let decided = Decided {
            segments: &segments,
            policies: &policies,
            lease: &lease,
            coming: coming.as_ref(),
        };
        self.place(slot, &decided, &old, ties);
        self.tighten(slot, why, &old, &lease);
        let acts = !all_audit(&segments);
        self.cast(slot, shadow);

        if would_end == WouldEnd::Ordered
            && acts
            && let Some(class) = self.class(slot)
            && let Some((reason, cause)) = self.ordered_out(id, &facts, class.keys(), opened_rev)
        {
            // Ordered to end while the segment was in audit mode.
            return self.end(slot, reason, cause, None);
        }
        let fate = self.act_on_review(slot, why, refusal, &lease);
        if fate == Some(Fate::Closes) {
            return Fate::Closes;
        }
        if self.door_until(slot, &lease) != held {
            let lease = self.door_lease(slot, &lease);
            self.out.push_back(Action::SetLease { id, lease });
        }
        if fate.is_none() {
            self.schedule_with(slot, &lease);
        }
        fate.unwrap_or(Fate::Lives)
    }

    /// Notes since when a session is idle for too long where that is not by its own silence.
    fn tighten(&mut self, slot: u32, why: Why, old: &Lease, new: &Lease) {
        let Some(last) = self.table.get(slot).map(|record| BootInstant(record.last)) else {
            return;
        };
        let due = |lease: &Lease| Some(last.after(lease.idle_timeout.as_ref()?.0));
        let at = why.at(self.now.boot);
        if due(new).is_none_or(|due| due > at) {
            self.tightened.remove(&slot);
        } else if due(old).is_none_or(|due| due > at) {
            let tightened = Tightened {
                at,
                reason: why.told(EndReason::IdleTimeout),
                timed: matches!(why, Why::Window(_)),
            };
            self.tightened.insert(slot, tightened);
        }
    }

    /// Ends a session that a look found to be refused or past due, and tells of one that segments in audit mode would end.
    fn act_on_review(
        &mut self,
        slot: u32,
        why: Why,
        refusal: Option<Refusal>,
        lease: &Lease,
    ) -> Option<Fate> {
        // What was not due before this look is late from the look on.
        let (from, timed) = (why.at(self.now.boot), matches!(why, Why::Window(_)));
        let due = |lease: &Lease| {
            let end = lease.fixed_deadline().filter(|end| end.at <= from)?;
            let cause = match why {
                Why::Binding => format!("{}, {CHANGED}", cause_of(lease, end)),
                Why::Policies(_) | Why::Window(_) | Why::Proof => cause_of(lease, end),
            };
            Some((end.at.max(from), why.told(end.reason), cause))
        };
        let mut ends: Vec<_> = due(lease).into_iter().collect();
        let mut would_end: Vec<_> = self.shadow(slot).and_then(due).into_iter().collect();
        let acts = self.class(slot).is_some_and(|class| !class.is_audit());
        if let Some(refusal) = refusal {
            let reason = why.told(refusal.reason);
            let cause = match why {
                Why::Policies(at) => format!("{}@{at}", refusal.cause),
                Why::Binding => format!("{}, {CHANGED}", refusal.cause),
                Why::Window(_) | Why::Proof => refusal.cause,
            };
            let only_told = refusal.audit_only && acts;
            let found = if only_told { &mut would_end } else { &mut ends };
            found.push((from, reason, cause));
        }
        if let Some((_, reason, cause)) = would_end.into_iter().min() {
            self.tell_once(slot, reason, cause);
        }
        let (at, reason, cause) = ends.into_iter().min()?;
        Some(self.end(slot, reason, cause, timed.then_some(at)))
    }

    /// Takes in all of these, and then holds the outcome against live sessions. A binding that there is no room for is
    /// the error; the rest is carried out.
    pub(crate) fn change(&mut self, changes: Changes) -> Result<Report, EngineError> {
        let Changes {
            policies,
            bound,
            unbound,
        } = changes;
        // First, so that everything that comes of these is on record under one revision.
        let policies = policies.filter(|(set, _)| self.take(set));
        let mut touched: Vec<Touched> = unbound
            .into_iter()
            .filter_map(|(keeper, key)| self.unbind(keeper, key))
            .collect();
        let mut refused = None;
        for (keeper, binding) in bound {
            match self.bind(keeper, binding) {
                Ok(touches) => touched.push(touches),
                Err(error) => refused = refused.or(Some(error)),
            }
        }
        let mut tally = Tally::default();
        for (groups, cause) in touched {
            self.attribute_again(groups, EventKind::BindingChanged, &cause, &mut tally);
        }
        if let Some((set, difference)) = policies {
            self.review_all(set.revision(), &difference, &mut tally);
        }
        refused.map_or(Ok(tally.report), Err)
    }

    /// Decides by this set from now on, unless it is older than the one in force.
    fn take(&mut self, set: &Arc<dyn Decide>) -> bool {
        let revision = set.revision();
        if revision < self.set.revision() {
            return false;
        }
        self.set = Arc::clone(set);
        self.revision = self.revision.max(revision);
        self.note(EventKind::PolicyApplied, format!("revision {revision}"));
        true
    }

    fn review_all(&mut self, revision: Revision, difference: &Difference, tally: &mut Tally) {
        let slots = self.concerned(difference);
        for &slot in &slots {
            let fate = self.review(slot, Why::Policies(revision));
            tally.count_last(slot, fate);
        }
        self.trim(&slots, &mut tally.report);
        self.loss_done = None;
        self.act_on_loss();
    }

    /// Living sessions into segments that changed, and those whose target came into a segment or left one, the oldest
    /// first.
    fn concerned(&self, difference: &Difference) -> Vec<u32> {
        let keys = difference.segments.iter().map(Key::Segment);
        let mut classes: Vec<u32> = keys.flat_map(|key| self.groups(key)).collect();
        classes.sort_unstable();
        classes.dedup();
        let mut slots = self.of_groups(List::Class, classes);
        slots.extend(self.moved_targets(difference));
        let mut slots = self.by_age(slots);
        slots.dedup();
        slots
    }

    /// The living sessions whose target may have come into a segment or left one. Sessions share few targets: each is
    /// looked at once, and without one that moved, no session is.
    fn moved_targets(&self, difference: &Difference) -> Vec<u32> {
        let moves = |&key: &u32| self.targets.get(key).is_some_and(|t| difference.moves(t));
        let moved: HashSet<u32> = self.targets.keys().filter(moves).collect();
        if moved.is_empty() {
            return Vec::new();
        }
        let concerned = |&slot: &u32| {
            let record = self.table.get(slot);
            record.is_some_and(|r| r.closing.is_none() && moved.contains(&r.target))
        };
        self.table.slots().filter(concerned).collect()
    }
}
