//! How many sessions one subject may have open into one segment (rule 9): counted as they come and go, walked only
//! where a limit is passed. Every session into the segment that some limit covers counts, but one that segments in audit
//! mode would have kept out or ended for these.

use std::collections::BTreeSet;

use curfew_model::{EndReason, Mode, SegmentName};
use curfew_policy::MatchedSegment;

use crate::{
    Engine, Report,
    action::Fate,
    class::Class,
    index::Key,
    record::List,
    timing::words,
    who::{Who, encoded_subject, octets},
};

type Place = (String, SegmentName);

fn limited(class: &Class) -> impl Iterator<Item = &MatchedSegment> {
    let segments = class.segments.iter();
    segments.filter(|segment| segment.max_concurrent.is_some())
}

impl Engine {
    /// The subject and segments under which a session is counted.
    pub(crate) fn places(&self, slot: u32) -> Vec<Place> {
        let Some(class) = self.class(slot) else {
            return Vec::new();
        };
        if limited(class).next().is_none() {
            return Vec::new();
        }
        let gone = self.gone.contains(&slot);
        let counts = limited(class).filter(|segment| !gone || segment.mode == Mode::Enforce);
        let subject = self.subject_of(slot);
        let place = |segment: &MatchedSegment| Some((subject.clone()?, segment.name.clone()));
        counts.filter_map(place).collect()
    }

    /// Counts a session that entered its lists.
    pub(crate) fn count(&mut self, slot: u32) {
        for place in self.places(slot) {
            *self.counts.entry(place).or_default() += 1;
        }
    }

    /// Takes back [`Engine::count`], before the session leaves a list.
    pub(crate) fn uncount(&mut self, slot: u32) {
        for place in self.places(slot) {
            if let Some(count) = self.counts.get_mut(&place) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.counts.remove(&place);
                }
            }
        }
    }

    fn count_at(&self, place: &Place) -> u32 {
        self.counts.get(place).copied().unwrap_or(0)
    }

    /// What refuses a session that was just counted, as the newest; an enforcing segment first.
    pub(crate) fn refuses_by_count(&self, slot: u32) -> Option<(String, Mode)> {
        let places = self.places(slot);
        let over = limited(self.class(slot)?).filter(|segment| {
            let place = places.iter().find(|(_, name)| *name == segment.name);
            let max = segment.max_concurrent.as_ref().map_or(0, |(max, _)| *max);
            place.is_some_and(|place| self.count_at(place) > max)
        });
        let segment = over.min_by_key(|segment| segment.mode == Mode::Audit)?;
        Some((cause(segment), segment.mode))
    }

    /// Ends the newest where a subject has too many after a change that concerned `slots`.
    pub(crate) fn trim(&mut self, slots: &[u32], report: &mut Report) {
        let mut done = BTreeSet::new();
        for &slot in slots {
            if self.table.get(slot).is_none_or(|r| r.closing.is_some()) {
                continue;
            }
            if self.refuses_by_count(slot).is_none() {
                continue;
            }
            for place in self.places(slot) {
                if done.insert(place.clone())
                    && let Some(who) = self.who_of(slot)
                {
                    self.trim_place(&who, &place, report);
                }
            }
        }
    }

    fn trim_place(&mut self, who: &Who, place: &Place, report: &mut Report) {
        let mut kept = 0;
        for slot in self.peers(who) {
            report.visited += 1;
            let segment = self.class(slot).and_then(|class| {
                let mut into = limited(class).filter(|segment| segment.name == place.1);
                into.next().cloned()
            });
            let Some(segment) = segment else {
                continue;
            };
            if segment.mode == Mode::Audit && self.gone.contains(&slot) {
                continue;
            }
            let max = segment.max_concurrent.as_ref().map_or(0, |(max, _)| *max);
            if kept < max {
                kept += 1;
                continue;
            }
            match self.end_of_excess(slot, cause(&segment), segment.mode) {
                Fate::Closes => report.closed += 1,
                Fate::WouldEnd => report.audit_only += 1,
                Fate::Lives => {}
            }
        }
    }

    /// Ends a session for a segment of this mode. Where the segment is in audit mode and others act, that it would is on
    /// record alone.
    fn end_of_excess(&mut self, slot: u32, cause: String, mode: Mode) -> Fate {
        let reason = EndReason::ConcurrencyExceeded;
        let acts = self.class(slot).is_some_and(|class| !class.is_audit());
        if mode == Mode::Audit && acts {
            self.tell_once(slot, reason, cause);
            return Fate::Lives;
        }
        self.end(slot, reason, cause, None)
    }

    /// Notes that the segments in audit mode would have refused a session or ended it: none of them counts it any more.
    pub(crate) fn mark_gone(&mut self, slot: u32) {
        if !self.gone.contains(&slot) {
            self.uncount(slot);
            self.gone.insert(slot);
            self.count(slot);
        }
    }

    /// Takes [`Engine::mark_gone`] back once all its segments act, and let it live. It is not counted at this moment.
    pub(crate) fn unmark_gone(&mut self, slot: u32) {
        let acts = |segment: &MatchedSegment| segment.mode == Mode::Enforce;
        let all = |class: &Class| class.segments.iter().all(acts);
        if self.class(slot).is_some_and(all) {
            self.gone.remove(&slot);
        }
    }

    /// The living sessions of a subject, the oldest first.
    fn peers(&self, who: &Who) -> Vec<u32> {
        let subject = who.subject_text();
        let groups = match who.subject() {
            Some(subject) => self.groups(Key::Identity(subject.kind, &subject.id)),
            None => {
                let address = octets(who.client);
                let range = self.addresses.range((address, 0)..=(address, u32::MAX));
                range.map(|&(_, group)| group).collect()
            }
        };
        let same = |&group: &u32| {
            let who = self.whos.get(group);
            who.and_then(|who| encoded_subject(who)).as_ref() == Some(&subject)
        };
        self.of_groups(List::Who, groups.into_iter().filter(same).collect())
    }
}

fn cause(segment: &MatchedSegment) -> String {
    let limit = segment.max_concurrent.as_ref();
    let limit = limit.map(|(max, by)| format!("at most {max}, {}", words(by)));
    format!("segment {}: {}", segment.name, limit.unwrap_or_default())
}
