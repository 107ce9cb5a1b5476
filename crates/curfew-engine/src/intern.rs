//! Equal values stored once, counted, each with the head of the list of sessions that share it and of its places in
//! the index. What the values mean may not live here.

use std::{
    borrow::Borrow,
    hash::{BuildHasher, Hash},
};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::record::NIL;

/// Spreads 32 bits of hash over the 64 that a table looks at.
pub(crate) fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

/// The 32 bits of a value's hash that are kept.
pub(crate) fn short_hash<T: Hash + ?Sized>(hasher: &DefaultHashBuilder, value: &T) -> u32 {
    let hash = hasher.hash_one(value);
    (hash ^ (hash >> 32)) as u32
}

#[derive(Debug)]
struct Entry<T> {
    value: T,
    hash: u32,
    uses: u32,
    head: u32,
    posts: u32,
}

/// Where a value is kept, if it is: good until one comes or goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sought {
    hash: u32,
    key: Option<u32>,
}

#[derive(Debug)]
pub(crate) struct Interner<T> {
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    /// Hash and key: growing and looking up need not touch the values.
    table: HashTable<(u32, u32)>,
    hasher: DefaultHashBuilder,
    /// The key of the value that was acquired last: it may be gone, or another by now.
    last: u32,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
            last: NIL,
        }
    }
}

impl<T> Interner<T> {
    fn entry(&self, key: u32) -> Option<&Entry<T>> {
        self.entries.get(key as usize)?.as_ref()
    }

    fn entry_mut(&mut self, key: u32) -> Option<&mut Entry<T>> {
        self.entries.get_mut(key as usize)?.as_mut()
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.entry(key).map(|entry| &entry.value)
    }

    /// The first session that shares the value.
    pub(crate) fn head(&self, key: u32) -> u32 {
        self.entry(key).map_or(NIL, |entry| entry.head)
    }

    pub(crate) fn set_head(&mut self, key: u32, head: u32) {
        if let Some(entry) = self.entry_mut(key) {
            entry.head = head;
        }
    }

    /// Notes the first place of the value in the index.
    pub(crate) fn set_posts(&mut self, key: u32, posts: u32) {
        if let Some(entry) = self.entry_mut(key) {
            entry.posts = posts;
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..)
            .zip(&self.entries)
            .filter_map(|(key, entry)| entry.as_ref().map(|_| key))
    }

    pub(crate) fn hash(&self, value: &(impl Hash + ?Sized)) -> u32 {
        short_hash(&self.hasher, value)
    }

    /// Looks for the value of this hash that `same` recognises.
    pub(crate) fn seek(&self, hash: u32, same: impl Fn(&T) -> bool) -> Sought {
        let is = |&(other, key): &(u32, u32)| other == hash && self.get(key).is_some_and(&same);
        let found = self.table.find(spread(hash), is);
        Sought {
            hash,
            key: found.map(|&(_, key)| key),
        }
    }

    /// Counts one use of the value of this key, if it is what `same` recognises; false if not.
    pub(crate) fn again(&mut self, key: u32, same: impl Fn(&T) -> bool) -> bool {
        let entry = self.entry_mut(key).filter(|entry| same(&entry.value));
        let is = entry.is_some();
        if let Some(entry) = entry {
            entry.uses = entry.uses.saturating_add(1);
        }
        is
    }

    fn is_of(&self, key: u32, hash: u32) -> bool {
        self.entry(key).is_some_and(|entry| entry.hash == hash)
    }

    /// The key of a value that was looked for, while none has come or gone, and whether it is new; counts one use.
    pub(crate) fn take(&mut self, sought: Sought, make: impl FnOnce() -> T) -> (u32, bool) {
        match sought.key {
            Some(key) if self.is_of(key, sought.hash) && self.again(key, |_| true) => (key, false),
            _ => (self.insert(sought.hash, make()), true),
        }
    }

    fn insert(&mut self, hash: u32, value: T) -> u32 {
        let entry = Some(Entry {
            value,
            hash,
            uses: 1,
            head: NIL,
            posts: NIL,
        });
        let key = match self.free.pop() {
            Some(key) => {
                if let Some(place) = self.entries.get_mut(key as usize) {
                    *place = entry;
                }
                key
            }
            None => {
                let key = u32::try_from(self.entries.len()).unwrap_or(NIL);
                self.entries.push(entry);
                key
            }
        };
        self.table
            .insert_unique(spread(hash), (hash, key), |&(hash, _)| spread(hash));
        key
    }

    /// Gives up one use; the value and its first place in the index come back when it was the last.
    pub(crate) fn release(&mut self, key: u32) -> Option<(T, u32)> {
        let place = self.entries.get_mut(key as usize)?;
        let entry = place.as_mut()?;
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses > 0 {
            return None;
        }
        let entry = place.take()?;
        let is = |&(_, other): &(u32, u32)| other == key;
        if let Ok(found) = self.table.find_entry(spread(entry.hash), is) {
            found.remove();
        }
        self.free.push(key);
        Some((entry.value, entry.posts))
    }
}

impl<T> Interner<T> {
    /// Looks for an equal value.
    pub(crate) fn seek_equal<V: Hash + Eq + ?Sized>(&self, value: &V) -> Sought
    where
        T: Borrow<V>,
    {
        self.seek(self.hash(value), |other| other.borrow() == value)
    }
}

impl<T: Hash + Eq> Interner<T> {
    /// The key of an equal value, which is often the one that was acquired last; counts one use.
    pub(crate) fn acquire(&mut self, value: T) -> u32 {
        if !self.again(self.last, |last| *last == value) {
            let sought = self.seek_equal::<T>(&value);
            self.last = self.take(sought, || value).0;
        }
        self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_key_is_not_taken_for_what_has_its_place_now() {
        let mut interner = Interner::default();
        let one = interner.acquire("one");
        assert_eq!(interner.release(one), Some(("one", NIL)));
        let other = interner.acquire("other");
        let again = interner.acquire("one");
        assert_ne!(other, again);
        assert_eq!(interner.get(other), Some(&"other"));
        assert_eq!(interner.get(again), Some(&"one"));
        assert_eq!(interner.acquire("one"), again);
        assert_eq!(interner.release(again), None);
        assert_eq!(interner.release(again), Some(("one", NIL)));
    }
}
