//! Equal values stored once, counted, each with the head of the list of sessions that share it.

use std::hash::{BuildHasher, Hash};

use hashbrown::{DefaultHashBuilder, HashTable};

use crate::record::NIL;

#[derive(Debug)]
struct Entry<T> {
    value: T,
    uses: u32,
    head: u32,
}

#[derive(Debug)]
pub(crate) struct Interner<T> {
    entries: Vec<Option<Entry<T>>>,
    free: Vec<u32>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl<T> Default for Interner<T> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<T: Hash + Eq> Interner<T> {
    fn entry(&self, key: u32) -> Option<&Entry<T>> {
        self.entries.get(key as usize)?.as_ref()
    }

    pub(crate) fn get(&self, key: u32) -> Option<&T> {
        self.entry(key).map(|entry| &entry.value)
    }

    pub(crate) fn head(&self, key: u32) -> u32 {
        self.entry(key).map_or(NIL, |entry| entry.head)
    }

    pub(crate) fn set_head(&mut self, key: u32, head: u32) {
        if let Some(Some(entry)) = self.entries.get_mut(key as usize) {
            entry.head = head;
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

    /// The key of an equal value, and whether it is new; counts one use.
    pub(crate) fn acquire(&mut self, value: T) -> (u32, bool) {
        let hash = self.hasher.hash_one(&value);
        let found = self
            .table
            .find(hash, |&key| self.get(key).is_some_and(|v| *v == value))
            .copied();
        if let Some(key) = found {
            if let Some(Some(entry)) = self.entries.get_mut(key as usize) {
                entry.uses = entry.uses.saturating_add(1);
            }
            return (key, false);
        }
        let entry = Some(Entry {
            value,
            uses: 1,
            head: NIL,
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
        let (entries, hasher) = (&self.entries, &self.hasher);
        self.table.insert_unique(hash, key, |&key| {
            let entry = entries.get(key as usize).and_then(Option::as_ref);
            entry.map_or(0, |entry| hasher.hash_one(&entry.value))
        });
        (key, true)
    }

    /// Gives up one use; the value comes back when it was the last.
    pub(crate) fn release(&mut self, key: u32) -> Option<T> {
        let place = self.entries.get_mut(key as usize)?;
        let entry = place.as_mut()?;
        entry.uses = entry.uses.saturating_sub(1);
        if entry.uses > 0 {
            return None;
        }
        let value = place.take()?.value;
        let hash = self.hasher.hash_one(&value);
        if let Ok(found) = self.table.find_entry(hash, |&other| other == key) {
            found.remove();
        }
        self.free.push(key);
        Some(value)
    }
}
