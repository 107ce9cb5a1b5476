//! Orders: which sessions they end by index, which new ones their blocks keep out, and when they are done with
//! (rule 14).

use std::collections::{BTreeMap, BTreeSet};

use curfew_model::{
    Block, BootInstant, DeviceId, EndReason, EventKind, Facts, Identity, Now, Revision, Revocation,
    RevocationId, Scope, SessionId,
};
use hashbrown::{DefaultHashBuilder, HashMap};

use crate::{Engine, EngineError, Report, action::Fate, index::Key, intern::short_hash};

/// An order as the engine keeps it.
#[derive(Clone, Debug)]
struct Order {
    revocation: Revocation,
    /// Until when it blocks; none for no block.
    blocks_until: Option<BootInstant>,
}

impl Order {
    /// Whether it keeps anybody out by these clocks. A block that ends by itself has ended by both: no step of the wall
    /// clock ends it early.
    fn blocks(&self, now: Now) -> bool {
        let shown = |block| matches!(block, Block::Until(wall) if now.wall < wall);
        self.blocks_until
            .is_some_and(|until| now.boot < until || shown(self.revocation.block))
    }
}

/// The orders that a session, open or new, may still match.
#[derive(Debug, Default)]
pub(crate) struct Orders {
    held: BTreeMap<RevocationId, Order>,
    /// By the hash of what they are looked up by.
    keys: HashMap<u32, BTreeSet<RevocationId>>,
    /// Without a block, by revision.
    spent: BTreeSet<(Revision, RevocationId)>,
    /// Blocks that end by themselves.
    timed: BTreeSet<(BootInstant, RevocationId)>,
    /// No session comes any more that was decided before this.
    floor: Revision,
    hasher: DefaultHashBuilder,
}

impl Orders {
    fn insert(&mut self, revocation: Revocation, now: Now) {
        let id = revocation.id;
        let blocks_until = match revocation.block {
            _ if revocation.lifted_at.is_some() => None,
            Block::None => None,
            Block::UntilLifted => Some(BootInstant::NEVER),
            Block::Until(wall) => Some(now.boot_at(wall)),
        };
        match blocks_until {
            None => {
                self.spent.insert((revocation.revision, id));
            }
            Some(BootInstant::NEVER) => {}
            Some(until) => {
                self.timed.insert((until, id));
            }
        }
        let hash = short_hash(&self.hasher, &Key::of(&revocation.scope));
        self.keys.entry(hash).or_default().insert(id);
        let order = Order {
            revocation,
            blocks_until,
        };
        self.held.insert(id, order);
    }

    /// Takes a block away; answers whether there was one, none for an order that is not held.
    fn lift(&mut self, id: RevocationId) -> Option<bool> {
        let order = self.held.get_mut(&id)?;
        let until = order.blocks_until.take();
        if let Some(until) = until {
            self.timed.remove(&(until, id));
            self.spent.insert((order.revocation.revision, id));
        }
        Some(until.is_some())
    }

    /// Lifts a block that has ended by the boot clock, unless the wall clock was set back meanwhile.
    fn lift_or_wait(&mut self, id: RevocationId, now: Now) {
        if let Some(order) = self.held.get_mut(&id)
            && order.blocks(now)
            && let Block::Until(wall) = order.revocation.block
            && let Some(until) = order.blocks_until.replace(now.boot_at(wall))
        {
            self.timed.remove(&(until, id));
            self.timed.insert((now.boot_at(wall), id));
        } else {
            self.lift(id);
        }
    }

    pub(crate) fn installed(&mut self, revision: Revision) {
        self.floor = self.floor.max(revision);
    }

    /// Drops what no session can match: no block, and none open or to come is as old.
    fn drop_spent(&mut self, oldest: Option<u64>, now: Now) {
        while let Some(&(until, id)) = self.timed.first()
            && until <= now.boot
        {
            self.lift_or_wait(id, now);
        }
        while let Some(&(revision, id)) = self.spent.first() {
            if revision > self.floor || oldest.is_some_and(|oldest| oldest <= revision.0) {
                break;
            }
            self.remove(id);
        }
    }

    /// Lets go of the oldest order without a block, which only a session in audit mode may still match, so that there is
    /// room for one that keeps somebody out.
    fn make_room(&mut self) {
        if let Some(&(revision, id)) = self.spent.first()
            && revision <= self.floor
        {
            self.remove(id);
        }
    }

    fn remove(&mut self, id: RevocationId) {
        self.lift(id);
        let Some(order) = self.held.remove(&id) else {
            return;
        };
        self.spent.remove(&(order.revocation.revision, id));
        let hash = short_hash(&self.hasher, &Key::of(&order.revocation.scope));
        if let Some(ids) = self.keys.get_mut(&hash) {
            ids.remove(&id);
            if ids.is_empty() {
                self.keys.remove(&hash);
            }
        }
    }

    fn under(&self, key: Key<'_>) -> impl Iterator<Item = &Order> {
        let ids = self.keys.get(&short_hash(&self.hasher, &key));
        let orders = ids.into_iter().flatten().filter_map(|id| self.held.get(id));
        // Two scopes may share a hash.
        orders.filter(move |order| Key::of(&order.revocation.scope) == key)
    }
}

fn carries(scope: &Scope, identities: &[Identity]) -> bool {
    let Scope::Subject { kind, issuer, id } = scope else {
        return true;
    };
    identities.iter().any(|i| {
        i.kind == *kind && i.id == *id && issuer.as_ref().is_none_or(|issuer| *issuer == i.issuer)
    })
}

fn cause(revocation: &Revocation) -> String {
    format!("revocation {}: {}", revocation.id, revocation.reason)
}

impl Engine {
    /// How many orders are held: those that block, and those that a session may still match.
    #[must_use]
    pub fn orders(&self) -> usize {
        self.orders.held.len()
    }

    /// Ends what an order names. The shell hands over orders of scope `enforcer` only to the enforcer that they name.
    pub(crate) fn revoke(&mut self, revocation: Revocation) -> Result<Report, EngineError> {
        let mut report = Report::default();
        if self.orders.held.contains_key(&revocation.id) {
            if revocation.lifted_at.is_some() {
                // Whoever missed the lift hears of it this way.
                self.orders.lift(revocation.id);
                self.drop_spent_orders();
            }
            return Ok(report);
        }
        let scope = revocation.scope.clone();
        let (at, cause) = (revocation.revision, cause(&revocation));
        self.revision = self.revision.max(at);
        self.drop_spent_orders();
        if self.orders.held.len() >= self.bounds.revocations {
            self.orders.make_room();
        }
        let full = self.orders.held.len() >= self.bounds.revocations;
        if !full {
            // By what the clock shows: a later time, by which sessions are judged, would end a block early.
            self.orders.insert(revocation, self.clocks());
        }
        self.note(EventKind::RevocationCreated, cause.clone());
        let slots = match &scope {
            Scope::All | Scope::Enforcer(_) => self.living(),
            Scope::Session(session) => self.table.find(*session).into_iter().collect(),
            Scope::Segment(_) | Scope::Policy(_) | Scope::Subject { .. } | Scope::Device(_) => {
                self.under(Key::of(&scope))
            }
        };
        for slot in slots {
            let Some(record) = self.table.get(slot) else {
                continue;
            };
            let who = self.who(record.who);
            let named = who.is_some_and(|who| carries(&scope, &who.identities()));
            if record.closing.is_some() || record.opened_rev > at.0 || !named {
                report.visited += 1;
                continue;
            }
            let same = record.opened_rev == at.0;
            let fate = self.end(slot, scope.reason(), cause.clone(), None);
            if same && fate == Fate::WouldEnd {
                self.predate(slot, at);
            }
            report.count(fate);
        }
        self.drop_spent_orders();
        if full {
            // The sessions are ended all the same; only new ones are not kept out.
            return Err(EngineError::Full {
                what: "revocations",
                limit: self.bounds.revocations,
            });
        }
        Ok(report)
    }

    /// A session that lives on was there before an order of its own revision: from here on that is told by its revision.
    fn predate(&mut self, slot: u32, order: Revision) {
        let before = order.0.saturating_sub(1);
        if let Some(record) = self.table.get_mut(slot) {
            record.opened_rev = before;
            *self.ages.entry(before).or_default() += 1;
            self.forget_age(order.0);
        }
    }

    pub(crate) fn lift(&mut self, id: RevocationId) -> Result<Report, EngineError> {
        let lifted = self.orders.lift(id);
        if lifted.ok_or(EngineError::UnknownRevocation(id))? {
            self.note(EventKind::RevocationLifted, format!("revocation {id}"));
        }
        self.drop_spent_orders();
        Ok(Report::default())
    }

    /// Lets go of an order that the desired state did not take. What it ended stays ended.
    pub(crate) fn withdraw(&mut self, id: RevocationId) -> Report {
        self.orders.remove(id);
        Report::default()
    }

    pub(crate) fn drop_spent_orders(&mut self) {
        let oldest = self.ages.first_key_value().map(|(age, _)| *age);
        self.orders.drop_spent(oldest, self.clocks());
    }

    /// The order that keeps a session out: a block, or one that was given after `opened_rev` (I7).
    pub(crate) fn ordered_out<'a>(
        &self,
        id: SessionId,
        facts: &'a Facts,
        of_class: impl Iterator<Item = Key<'a>>,
        opened_rev: u64,
    ) -> Option<(EndReason, String)> {
        if self.orders.held.is_empty() {
            return None;
        }
        let identities = facts.identities.iter();
        let identities = identities.map(|i| Key::Identity(i.kind, &i.id));
        let device = facts.device.as_ref().map(DeviceId::as_str);
        let device = device.map(Key::Device);
        let keys = identities.chain(device).chain(of_class);
        let keys = keys.chain([Key::Everything, Key::Session(id)]);
        let clocks = self.clocks();
        let keeps_out = |order: &&Order| {
            carries(&order.revocation.scope, &facts.identities)
                && (order.blocks(clocks) || opened_rev < order.revocation.revision.0)
        };
        let rank = |order: &&Order| (order.revocation.scope.reason(), order.revocation.id);
        let first = |key| {
            let mut orders = self.orders.under(key).filter(keeps_out);
            match key {
                Key::Everything => orders.min_by_key(rank),
                // Under any other key the reason is one, and they come by id. There may be very many of a subject: the first
                // is enough.
                _ => orders.next(),
            }
        };
        let order = keys.filter_map(first).min_by_key(rank)?;
        Some((order.revocation.scope.reason(), cause(&order.revocation)))
    }
}
