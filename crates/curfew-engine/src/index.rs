//! What sessions are found by, and how a group of them enters and leaves the index. What is done with the sessions
//! found may not live here.

use curfew_model::{Kind, PolicyName, Scope, SegmentName, SessionId};

use crate::{
    Engine,
    intern::Sought,
    record::{List, NIL},
    who::{self, Who},
};

/// What an index or a block is looked up by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Key<'a> {
    Everything,
    Identity(Kind, &'a str),
    Device(&'a str),
    Uid(u32),
    /// Of a socket of this host of which could not be learnt whose it is.
    Unlearnt,
    Cgroup(&'a str),
    Segment(&'a SegmentName),
    Policy(&'a PolicyName),
    Session(SessionId),
}

impl<'a> Key<'a> {
    pub(crate) fn of(scope: &'a Scope) -> Self {
        match scope {
            Scope::All | Scope::Enforcer(_) => Self::Everything,
            Scope::Segment(name) => Self::Segment(name),
            Scope::Policy(name) => Self::Policy(name),
            Scope::Subject { kind, id, .. } => Self::Identity(*kind, id),
            Scope::Device(device) => Self::Device(device.as_str()),
            Scope::Session(id) => Self::Session(*id),
        }
    }

    /// Which groups carry such keys.
    fn list(self) -> List {
        match self {
            Self::Segment(_) | Self::Policy(_) => List::Class,
            _ => List::Who,
        }
    }
}

impl Engine {
    pub(crate) fn who(&self, key: u32) -> Option<Who> {
        who::decode(self.whos.get(key)?)
    }

    pub(crate) fn who_of(&self, slot: u32) -> Option<Who> {
        self.who(self.table.get(slot)?.who)
    }

    /// The subject of a session, by which concurrency and reconnecting count.
    pub(crate) fn subject_of(&self, slot: u32) -> Option<String> {
        who::encoded_subject(self.whos.get(self.table.get(slot)?.who)?)
    }

    fn index_who(&mut self, key: u32, bytes: &[u8]) {
        let mut posts = NIL;
        for name in who::keys(bytes).unwrap_or_default() {
            posts = self.index.add(self.index.hash(&name), key, posts);
        }
        self.whos.set_posts(key, posts);
        if let Some(address) = bytes.first_chunk() {
            self.addresses.insert((*address, key));
        }
    }

    pub(crate) fn index_class(&mut self, key: u32) {
        let Some(kept) = self.classes.get(key) else {
            return;
        };
        let mut posts = NIL;
        for name in kept.class.keys() {
            posts = self.index.add(self.index.hash(&name), key, posts);
        }
        self.closers
            .extend(kept.class.losses().map(|after| (after, key)));
        self.classes.set_posts(key, posts);
    }

    /// Looks for an identity set.
    pub(crate) fn seek_who(&self, bytes: &[u8]) -> Sought {
        self.whos.seek_equal(bytes)
    }

    /// Puts a session under an identity set that was looked for; the list keeps the newest first.
    pub(crate) fn join_who(&mut self, slot: u32, bytes: &[u8], sought: Sought) {
        let (key, is_new) = self.whos.take(sought, || bytes.into());
        if is_new {
            self.index_who(key, bytes);
        }
        let head = self.table.link(List::Who, self.whos.head(key), slot);
        self.whos.set_head(key, head);
        if let Some(record) = self.table.get_mut(slot) {
            record.who = key;
        }
    }

    pub(crate) fn leave_who_list(&mut self, slot: u32) {
        let Some(key) = self.table.get(slot).map(|record| record.who) else {
            return;
        };
        let head = self.table.unlink(List::Who, self.whos.head(key), slot);
        self.whos.set_head(key, head);
    }

    pub(crate) fn release_who(&mut self, key: u32) {
        if let Some((bytes, posts)) = self.whos.release(key) {
            self.index.remove(posts);
            if let Some(address) = bytes.first_chunk() {
                self.addresses.remove(&(*address, key));
            }
        }
    }

    /// The groups that carry a key, each once.
    pub(crate) fn groups(&self, key: Key<'_>) -> Vec<u32> {
        let carries = |&group: &u32| match key.list() {
            List::Class => self
                .classes
                .get(group)
                .is_some_and(|kept| kept.class.keys().any(|other| other == key)),
            List::Who | List::Wheel => self
                .whos
                .get(group)
                .and_then(|bytes| who::keys(bytes))
                .is_some_and(|keys| keys.contains(&key)),
        };
        let groups = self.index.groups(self.index.hash(&key));
        let mut groups: Vec<u32> = groups.filter(carries).collect();
        groups.sort_unstable();
        groups.dedup();
        groups
    }

    /// The living sessions of a key, each once, the oldest first.
    pub(crate) fn under(&self, key: Key<'_>) -> Vec<u32> {
        self.of_groups(key.list(), self.groups(key))
    }

    /// The living sessions of groups, the oldest first.
    pub(crate) fn of_groups(&self, list: List, groups: Vec<u32>) -> Vec<u32> {
        let heads = groups.into_iter().map(|group| match list {
            List::Who => self.whos.head(group),
            List::Class | List::Wheel => self.classes.head(group),
        });
        let slots = heads.flat_map(|head| self.table.walk(list, head)).collect();
        self.by_age(slots)
    }

    pub(crate) fn by_age(&self, mut slots: Vec<u32>) -> Vec<u32> {
        slots.sort_unstable_by_key(|&slot| self.table.get(slot).map(|r| (r.opened_at, r.id)));
        slots
    }

    /// Every session that is not closing, the oldest first.
    pub(crate) fn living(&self) -> Vec<u32> {
        let open = |&slot: &u32| self.table.get(slot).is_some_and(|r| r.closing.is_none());
        self.by_age(self.table.slots().filter(open).collect())
    }
}
