//! The compact record of one session, the slab of them, and the intrusive lists through it. Meaning may not live here.

use curfew_model::{BootInstant, EndReason, Lease, SessionId};
use hashbrown::{DefaultHashBuilder, HashTable};

use crate::{
    Activity,
    class::bound_at,
    intern::{short_hash, spread},
};

/// No slot.
pub(crate) const NIL: u32 = u32::MAX;
/// No instant.
pub(crate) const NEVER: u64 = u64::MAX;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    prev: u32,
    pub(crate) next: u32,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            prev: NIL,
            next: NIL,
        }
    }
}

/// Which list a node belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum List {
    Who,
    Class,
    Wheel,
}

/// Whether audit mode kept a session alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WouldEnd {
    No,
    /// It would have ended.
    Yes,
    /// An order would have ended it, and does where the segment is enforced at last.
    Ordered,
}

/// Instants are nanoseconds on the boot clock; `NEVER` is none.
#[derive(Clone, Debug)]
pub(crate) struct Record {
    pub(crate) id: SessionId,
    pub(crate) opened_at: u64,
    pub(crate) opened_rev: u64,
    pub(crate) expires: u64,
    pub(crate) reauth: u64,
    pub(crate) last: u64,
    pub(crate) wake: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
    pub(crate) who: u32,
    pub(crate) class: u32,
    pub(crate) target: u32,
    pub(crate) ties: u32,
    of_who: Node,
    of_class: Node,
    of_wheel: Node,
    /// The client's port; its address is that of its identity set.
    pub(crate) port: u16,
    pub(crate) bucket: u16,
    pub(crate) closing: Option<EndReason>,
    pub(crate) probing: bool,
    pub(crate) warned: bool,
    pub(crate) would_end: WouldEnd,
}

impl Record {
    pub(crate) fn new(id: SessionId, port: u16, opened_at: u64) -> Self {
        Self {
            id,
            opened_at,
            opened_rev: 0,
            expires: NEVER,
            reauth: NEVER,
            last: opened_at,
            wake: NEVER,
            bytes_in: 0,
            bytes_out: 0,
            who: NIL,
            class: NIL,
            target: NIL,
            ties: NIL,
            of_who: Node::default(),
            of_class: Node::default(),
            of_wheel: Node::default(),
            port,
            bucket: u16::MAX,
            closing: None,
            probing: false,
            warned: false,
            would_end: WouldEnd::No,
        }
    }

    /// Takes over the bounds of a lease that are a session's own.
    pub(crate) fn set_bounds(&mut self, lease: &Lease) {
        self.expires = bound_at(&lease.expires_at);
        self.reauth = bound_at(&lease.reauth_by);
    }

    /// What is known of what it moved.
    pub(crate) fn activity(&self) -> Activity {
        Activity {
            id: self.id,
            last: BootInstant(self.last),
            bytes_in: self.bytes_in,
            bytes_out: self.bytes_out,
        }
    }

    /// Takes over what a session moved: of two answers, the later.
    pub(crate) fn moved(&mut self, activity: Activity) {
        self.last = self.last.max(activity.last.0);
        self.bytes_in = self.bytes_in.max(activity.bytes_in);
        self.bytes_out = self.bytes_out.max(activity.bytes_out);
    }

    pub(crate) fn node(&self, list: List) -> Node {
        match list {
            List::Who => self.of_who,
            List::Class => self.of_class,
            List::Wheel => self.of_wheel,
        }
    }

    fn node_mut(&mut self, list: List) -> &mut Node {
        match list {
            List::Who => &mut self.of_who,
            List::Class => &mut self.of_class,
            List::Wheel => &mut self.of_wheel,
        }
    }
}

/// Records addressed by slot and by id.
#[derive(Debug, Default)]
pub(crate) struct Table {
    records: Vec<Option<Record>>,
    free: Vec<u32>,
    /// Hash and slot: growing does not touch the records.
    by_id: HashTable<(u32, u32)>,
    hasher: DefaultHashBuilder,
}

impl Table {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn get(&self, slot: u32) -> Option<&Record> {
        self.records.get(slot as usize)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, slot: u32) -> Option<&mut Record> {
        self.records.get_mut(slot as usize)?.as_mut()
    }

    pub(crate) fn find(&self, id: SessionId) -> Option<u32> {
        let hash = short_hash(&self.hasher, &id);
        let is = |&(other, slot): &(u32, u32)| {
            other == hash && self.get(slot).is_some_and(|record| record.id == id)
        };
        let found = self.by_id.find(spread(hash), is);
        found.map(|&(_, slot)| slot)
    }

    /// The caller made sure that the id is new.
    pub(crate) fn insert(&mut self, record: Record) -> u32 {
        let hash = short_hash(&self.hasher, &record.id);
        let slot = match self.free.pop() {
            Some(slot) => {
                if let Some(place) = self.records.get_mut(slot as usize) {
                    *place = Some(record);
                }
                slot
            }
            None => {
                let slot = u32::try_from(self.records.len()).unwrap_or(NIL);
                self.records.push(Some(record));
                slot
            }
        };
        self.by_id
            .insert_unique(spread(hash), (hash, slot), |&(hash, _)| spread(hash));
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) -> Option<Record> {
        let record = self.records.get_mut(slot as usize)?.take()?;
        let hash = short_hash(&self.hasher, &record.id);
        let is = |&(_, other): &(u32, u32)| other == slot;
        if let Ok(entry) = self.by_id.find_entry(spread(hash), is) {
            entry.remove();
        }
        self.free.push(slot);
        Some(record)
    }

    pub(crate) fn slots(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.records)
            .filter_map(|(slot, record)| record.as_ref().map(|_| slot))
    }

    /// Puts `slot` before `head` and returns the new head.
    pub(crate) fn link(&mut self, list: List, head: u32, slot: u32) -> u32 {
        if let Some(record) = self.get_mut(head) {
            record.node_mut(list).prev = slot;
        }
        if let Some(record) = self.get_mut(slot) {
            *record.node_mut(list) = Node {
                prev: NIL,
                next: head,
            };
        }
        slot
    }

    /// Takes `slot` out of the list of `head` and returns the new head.
    pub(crate) fn unlink(&mut self, list: List, head: u32, slot: u32) -> u32 {
        let Some(record) = self.get_mut(slot) else {
            return head;
        };
        let node = std::mem::take(record.node_mut(list));
        if let Some(next) = self.get_mut(node.next) {
            next.node_mut(list).prev = node.prev;
        }
        match self.get_mut(node.prev) {
            Some(prev) => {
                prev.node_mut(list).next = node.next;
                head
            }
            None if head == slot => node.next,
            None => head,
        }
    }

    /// The slots of a list.
    pub(crate) fn walk(&self, list: List, head: u32) -> impl Iterator<Item = u32> + '_ {
        let next = move |&slot: &u32| self.get(slot).map(|record| record.node(list).next);
        std::iter::successors(Some(head), next).take_while(|&slot| slot != NIL)
    }
}
