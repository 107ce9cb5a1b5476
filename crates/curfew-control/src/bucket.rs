//! Token buckets: how many requests a caller has left. Pure: the time is a parameter.

use std::{collections::HashMap, hash::Hash};

use curfew_model::BootInstant;

/// Callers that are followed; when there are more, those with full buckets are forgotten first.
const CALLERS: usize = 10_000;
const NANOS: u64 = 1_000_000_000;

/// Buckets by caller. A bucket holds `burst` requests and gains `rate` a second.
#[derive(Debug)]
pub(crate) struct Buckets<K> {
    rate: u64,
    burst: u64,
    /// When each bucket is full again.
    full_at: HashMap<K, u64>,
}

impl<K: Eq + Hash> Buckets<K> {
    pub(crate) fn new(rate: u32, burst: u32) -> Self {
        Self {
            rate: u64::from(rate.max(1)),
            burst: u64::from(burst.max(1)),
            full_at: HashMap::new(),
        }
    }

    /// Takes one request out of a bucket; false when it is empty.
    pub(crate) fn take(&mut self, key: K, now: BootInstant) -> bool {
        if self.full_at.len() >= CALLERS && !self.full_at.contains_key(&key) {
            self.full_at.retain(|_, full_at| *full_at > now.0);
            if self.full_at.len() >= CALLERS {
                return false;
            }
        }
        let (cost, whole) = (NANOS / self.rate, self.burst * (NANOS / self.rate));
        let full_at = self.full_at.entry(key).or_insert(0);
        let next = (*full_at).max(now.0).saturating_add(cost);
        if next > now.0.saturating_add(whole) {
            return false;
        }
        *full_at = next;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_empties_and_fills() {
        let mut buckets = Buckets::new(2, 3);
        let at = |millis: u64| BootInstant(1_000_000 * (1_000_000 + millis));
        let taken: Vec<bool> = (0..4).map(|_| buckets.take("a", at(0))).collect();
        assert_eq!(taken, [true, true, true, false]);
        assert!(buckets.take("b", at(0)), "buckets are separate");
        assert!(!buckets.take("a", at(499)));
        assert!(buckets.take("a", at(500)));
        assert!(!buckets.take("a", at(501)));
    }

    #[test]
    fn callers_are_bounded() {
        let mut buckets = Buckets::new(1, 1);
        let now = BootInstant(NANOS);
        for caller in 0..CALLERS {
            assert!(buckets.take(caller, now));
        }
        assert!(!buckets.take(CALLERS, now), "full, and nobody to forget");
        assert!(buckets.take(CALLERS, BootInstant(3 * NANOS)));
        assert_eq!(buckets.full_at.len(), 1);
    }
}
