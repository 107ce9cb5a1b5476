//! The hierarchical timing wheel over intrusive links: arming and disarming cost the same however many wait.
//! What a waking means may not live here.

use crate::record::{List, NIL, Table};

const BITS: u32 = 6;
const LEVELS: usize = 9;
/// A tick is 2^14 ns, about 16 µs; within a tick instants are compared exactly, which costs a look at each of them.
const TICK: u32 = 14;
const NONE: u16 = u16::MAX;

#[derive(Debug)]
pub(crate) struct Wheel {
    tick: u64,
    heads: Vec<u32>,
    occupied: [u64; LEVELS],
}

impl Default for Wheel {
    fn default() -> Self {
        Self {
            tick: 0,
            heads: vec![NIL; LEVELS << BITS],
            occupied: [0; LEVELS],
        }
    }
}

impl Wheel {
    pub(crate) fn heads(&self) -> &[u32] {
        &self.heads
    }

    /// Arms `slot` for the instant in its record's `wake`; it must not be armed.
    pub(crate) fn arm(&mut self, table: &mut Table, slot: u32) {
        let Some(wake) = table.get(slot).map(|record| record.wake) else {
            return;
        };
        let tick = (wake >> TICK).max(self.tick);
        let differs = tick ^ self.tick;
        let level = differs.checked_ilog2().unwrap_or(0) / BITS;
        let index = (tick >> (level * BITS)) & 63;
        let bucket = u16::try_from(u64::from(level << BITS) | index).unwrap_or(NONE);
        if let Some(head) = self.heads.get_mut(usize::from(bucket)) {
            *head = table.link(List::Wheel, *head, slot);
        }
        if let Some(bits) = self.occupied.get_mut(level as usize) {
            *bits |= 1 << index;
        }
        if let Some(record) = table.get_mut(slot) {
            record.bucket = bucket;
        }
    }

    /// Disarms `slot`, if it is armed.
    pub(crate) fn disarm(&mut self, table: &mut Table, slot: u32) {
        let Some(record) = table.get_mut(slot) else {
            return;
        };
        let bucket = std::mem::replace(&mut record.bucket, NONE);
        if let Some(head) = self.heads.get_mut(usize::from(bucket)) {
            *head = table.unlink(List::Wheel, *head, slot);
            if *head == NIL
                && let Some(bits) = self.occupied.get_mut(usize::from(bucket >> BITS))
            {
                *bits &= !(1 << (bucket & 63));
            }
        }
    }

    /// The first bucket that waits: its level, its head, and the tick at which it starts.
    fn first(&self) -> Option<(u32, u32, u64)> {
        let (level, bits) = (0u32..).zip(&self.occupied).find(|(_, bits)| **bits != 0)?;
        let index = bits.trailing_zeros();
        let head = *self.heads.get(((level << BITS) | index) as usize)?;
        let above = BITS * (level + 1);
        let base = (self.tick >> above) << above;
        Some((level, head, base | (u64::from(index) << (level * BITS))))
    }

    /// When to look again: exact within the current 64 ticks, else the start of the next bucket, never too late.
    pub(crate) fn next(&self, table: &Table) -> Option<u64> {
        let (level, head, start) = self.first()?;
        if level > 0 {
            return Some(start << TICK);
        }
        table
            .walk(List::Wheel, head)
            .filter_map(|slot| table.get(slot).map(|record| record.wake))
            .min()
    }

    /// Disarms everything whose instant is at or before `now`, the earliest first.
    pub(crate) fn advance(&mut self, table: &mut Table, now: u64) -> Vec<u32> {
        let mut due = Vec::new();
        let until = now >> TICK;
        while let Some((level, head, start)) = self.first() {
            if start > until {
                break;
            }
            self.tick = self.tick.max(start);
            let slots: Vec<u32> = table.walk(List::Wheel, head).collect();
            let mut left = false;
            for slot in slots {
                let wake = table.get(slot).map_or(0, |record| record.wake);
                if wake <= now {
                    self.disarm(table, slot);
                    due.push((wake, slot));
                } else if level > 0 {
                    self.disarm(table, slot);
                    self.arm(table, slot);
                } else {
                    left = true;
                }
            }
            if left {
                break;
            }
        }
        self.tick = self.tick.max(until);
        due.sort_unstable();
        due.into_iter().map(|(_, slot)| slot).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use curfew_model::SessionId;

    use super::*;
    use crate::record::Record;

    fn step(state: &mut u64) -> u64 {
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Against a BTreeMap, with spans from nanoseconds to centuries.
    #[test]
    fn wakes_exactly_what_an_ordered_map_says() {
        for seed in 0..200u64 {
            let mut random = seed;
            let mut table = Table::default();
            let mut wheel = Wheel::default();
            let mut model: BTreeMap<(u64, u32), ()> = BTreeMap::new();
            let mut now = step(&mut random) >> 20;
            for round in 0..300 {
                let span = step(&mut random) % 50;
                let at = now.saturating_add(step(&mut random) >> (14 + span));
                match step(&mut random) % 4 {
                    0 | 1 => {
                        let id = SessionId(uuid::Uuid::from_u64_pair(seed, round));
                        let mut record = Record::new(id, 5, 0);
                        record.wake = at;
                        let slot = table.insert(record);
                        wheel.arm(&mut table, slot);
                        model.insert((at, slot), ());
                    }
                    2 => {
                        if let Some(&(at, slot)) = model.keys().next_back() {
                            wheel.disarm(&mut table, slot);
                            table.remove(slot);
                            model.remove(&(at, slot));
                        }
                    }
                    _ => {
                        now = at;
                        let due = wheel.advance(&mut table, now);
                        let mut expected = Vec::new();
                        while let Some((&(at, slot), ())) = model.first_key_value() {
                            if at > now {
                                break;
                            }
                            expected.push(slot);
                            model.pop_first();
                            table.remove(slot);
                        }
                        assert_eq!(due, expected, "seed {seed} round {round}");
                    }
                }
                let next = wheel.next(&table);
                let first = model.keys().next().map(|&(at, _)| at);
                assert_eq!(next.is_some(), first.is_some(), "seed {seed}");
                assert!(next <= first, "seed {seed}: {next:?} after {first:?}");
            }
        }
    }
}
