//! Reconnecting is no renewal (rule 3): the last end by lifetime of a subject's session into a segment, and what it asks of
//! the next one. Keeping it durably is the enforcer's.

use curfew_model::{BootInstant, EndReason, Facts, Mode, Provenance, SegmentName};
use curfew_policy::MatchedSegment;

use crate::{Engine, LastEnd, open::Objections, timing::words, who::subject_text};

impl Engine {
    /// Remembers that a session ended by its lifetime.
    pub(crate) fn keep_last_end(&mut self, slot: u32) {
        let (Some(subject), Some(record)) = (self.subject_of(slot), self.table.get(slot)) else {
            return;
        };
        let names = self
            .classes
            .get(record.class)
            .map(|kept| kept.names.clone());
        for name in names.iter().flat_map(|names| names.iter()) {
            self.keep_end((subject.clone(), name.clone()), self.now.boot.0);
        }
    }

    fn keep_end(&mut self, key: (String, SegmentName), at: u64) {
        if self.last_ends.len() >= self.bounds.last_ends && !self.last_ends.contains_key(&key) {
            let mut ends: Vec<u64> = self.last_ends.values().copied().collect();
            let middle = ends.len() / 2;
            if middle < ends.len() {
                let (_, &mut median, _) = ends.select_nth_unstable(middle);
                self.last_ends.retain(|_, end| *end > median);
            }
        }
        let end = self.last_ends.entry(key).or_insert(at);
        *end = (*end).max(at);
    }

    /// What a last end has against a new session, and when the longest wait is over, if one holds.
    pub(crate) fn object_to_reconnecting(
        &self,
        facts: &Facts,
        segments: &[MatchedSegment],
        objections: &mut Objections,
    ) {
        if self.last_ends.is_empty() {
            return;
        }
        let subject = subject_text(facts.subject(), facts.client.ip());
        let mut waits = Vec::new();
        for segment in segments {
            let key = (subject.clone(), segment.name.clone());
            let Some(&end) = self.last_ends.get(&key) else {
                continue;
            };
            let say = |what: &str, by: &Provenance| {
                let name = &segment.name;
                let by = words(by);
                format!("segment {name}: reconnecting after an end by lifetime {what}, {by}")
            };
            if let Some((wait, by)) = &segment.reconnect_wait
                && let over = BootInstant(end).after(*wait)
                && self.now.boot < over
            {
                waits.push((over, segment.mode, say("has to wait", by)));
            }
            if let Some(by) = &segment.reconnect_proof
                && facts.proved_at.is_none_or(|proved| proved.0 <= end)
            {
                let cause = say("needs fresh proof", by);
                objections.add(EndReason::ReauthOverdue, cause, segment.mode);
            }
        }
        // The longest is what has to be waited for.
        for acting in [Mode::Enforce, Mode::Audit] {
            let of_mode = waits.iter().filter(|(_, mode, _)| *mode == acting);
            if let Some((over, mode, cause)) = of_mode.max_by_key(|(over, ..)| *over) {
                objections.retry_at = objections.retry_at.or(Some(*over));
                objections.add(EndReason::LifetimeExpired, cause.clone(), *mode);
            }
        }
    }

    /// The last ends by lifetime that came after an instant, sorted, for the enforcer to keep.
    #[must_use]
    pub fn last_ends(&self, after: BootInstant) -> Vec<LastEnd> {
        let end = |((subject, segment), at): (&(String, SegmentName), &u64)| LastEnd {
            subject: subject.clone(),
            segment: segment.clone(),
            at: BootInstant(*at),
        };
        let later = self.last_ends.iter().filter(|(_, at)| **at > after.0);
        let mut ends: Vec<LastEnd> = later.map(end).collect();
        ends.sort_unstable_by(|a, b| (&a.subject, &a.segment).cmp(&(&b.subject, &b.segment)));
        ends
    }

    /// Takes back a last end that the enforcer kept; the later of two holds.
    pub fn restore_last_end(&mut self, end: LastEnd) {
        self.keep_end((end.subject, end.segment), end.at.0);
    }
}
