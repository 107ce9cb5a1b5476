//! The enforcers' own counts of their events, for verification: what is missing from them. What stands later than it
//! belongs is not missing.

use std::collections::BTreeMap;

use curfew_model::EnforcerId;

/// Enforcers that are followed.
const ENFORCERS: usize = 10_000;
/// Runs of missing events of one enforcer that may still turn up.
const RUNS: usize = 1_000;

/// The counts of all enforcers.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    of: BTreeMap<EnforcerId, Count>,
    missing: u64,
}

/// The count of one enforcer.
#[derive(Debug)]
struct Count {
    last: u64,
    /// The first and last event of each run that is missing.
    runs: BTreeMap<u64, u64>,
}

impl Counts {
    /// Events that are missing.
    pub(crate) fn missing(&self) -> u64 {
        self.missing
    }

    /// Takes the event of this number of an enforcer; one that `started` counts anew.
    pub(crate) fn take(&mut self, enforcer: &EnforcerId, seq: u64, started: bool) {
        let Some(count) = self.of.get_mut(enforcer) else {
            if self.of.len() < ENFORCERS {
                let runs = BTreeMap::new();
                self.of.insert(enforcer.clone(), Count { last: seq, runs });
            }
            return;
        };
        if started {
            count.runs.clear();
            count.last = seq;
        } else if seq > count.last {
            let (first, last) = (count.last + 1, seq - 1);
            if first <= last {
                self.missing = self.missing.saturating_add(seq - first);
                if count.runs.len() < RUNS {
                    count.runs.insert(first, last);
                }
            }
            count.last = seq;
        } else if count.found(seq) {
            self.missing = self.missing.saturating_sub(1);
        }
    }
}

impl Count {
    /// Takes an event out of the runs that are missing; whether it was in one.
    fn found(&mut self, seq: u64) -> bool {
        let run = self.runs.range(..=seq).next_back();
        let Some((&first, &last)) = run.filter(|(_, last)| **last >= seq) else {
            return false;
        };
        self.runs.remove(&first);
        if first < seq {
            self.runs.insert(first, seq - 1);
        }
        if seq < last {
            self.runs.insert(seq + 1, last);
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is missing after these events; zero stands for a start, which is the first of its run.
    fn missing(events: &[(&str, u64)]) -> u64 {
        let mut counts = Counts::default();
        for (enforcer, seq) in events {
            let started = *seq == 0;
            let enforcer = EnforcerId::new(enforcer).unwrap();
            counts.take(&enforcer, (*seq).max(1), started);
        }
        counts.missing()
    }

    #[test]
    fn only_what_turns_up_later_is_taken_back() {
        let of = |seqs: &[u64]| {
            let events: Vec<(&str, u64)> = seqs.iter().map(|seq| ("a", *seq)).collect();
            missing(&events)
        };
        assert_eq!(of(&[1, 2, 5, 6]), 2);
        assert_eq!(of(&[1, 5, 3, 2, 4, 6]), 0);
        assert_eq!(of(&[1, 2, 4, 4]), 1, "twice is not later");
        assert_eq!(of(&[5, 4, 6]), 0, "before the first nothing is known");
        assert_eq!(of(&[1, 2, 0, 2, 3]), 0, "a start counts anew");
        assert_eq!(of(&[1, 3, 0, 2]), 1, "and finds nothing from before");
        assert_eq!(of(&[0, 100, 2, 3]), 96);
    }

    #[test]
    fn enforcers_are_counted_apart() {
        let events = [("a", 1), ("a", 2), ("a", 4), ("b", 8), ("b", 7)];
        assert_eq!(missing(&events), 1);
    }
}
