//! The wall clock as the oracle judges by it.

use super::{MS, Oracle};

impl Oracle {
    /// Time that was seen stays seen, and while the clock is behind it goes on half as fast.
    pub fn look_at_clock(&mut self, shown: i64) {
        let (highest, seen) = self.highest;
        let half = ((self.boot - seen) / (2 * MS)) as i64;
        self.wall = shown.max(highest + half);
        if self.wall == shown {
            self.highest = (shown, self.boot);
        }
    }

    /// What the clock shows is judged by again, and claims end by it.
    pub fn accept_clock(&mut self, shown: i64) {
        let (wall, boot) = (shown, self.boot);
        self.wall = wall;
        self.highest = (wall, boot);
        let mut changed = Vec::new();
        for claim in &mut self.claims {
            let until = claim
                .ends
                .map(|ends| boot + (ends - wall).max(0) as u64 * MS);
            if until != claim.until && until.max(claim.until) > Some(boot) {
                changed.push(claim.clone());
            }
            claim.until = until;
        }
        self.attribute(|address| changed.iter().any(|claim| claim.covers(address)));
    }

    /// What the wall clock is ahead of the boot clock, in milliseconds.
    pub fn clock(&self) -> i64 {
        self.wall - i64::try_from(self.boot / MS).unwrap()
    }
}
