//! The cancels of sessions that ended: how many are on their way, and when one is sent again. Sending may not live here.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use curfew_model::{BootInstant, UpstreamAddress};

/// Cancels of our own on their way at a time, so that a server is not flooded when many sessions end at once.
const TOGETHER: usize = 64;
/// How long after it was sent a cancel is sent again. The server does not say whether it helped, and a statement can
/// catch one.
const AGAIN: [Duration; 2] = [Duration::from_millis(300), Duration::from_secs(2)];

/// How late a repeat may be; where so many wait, those that were never sent come first.
const LATE: Duration = Duration::from_secs(5);

/// A session is over: its running query is to be cancelled.
pub(super) struct Cancel {
    /// At this server.
    pub(super) upstream: UpstreamAddress,
    /// With these bytes.
    pub(super) request: Vec<u8>,
    /// How often it was sent.
    sent: usize,
}

impl Cancel {
    pub(super) fn new(upstream: UpstreamAddress, request: Vec<u8>) -> Self {
        Self {
            upstream,
            request,
            sent: 0,
        }
    }
}

/// The cancels that are on their way, or are to be.
#[derive(Default)]
pub(super) struct Cancels {
    /// The connections of those on their way.
    started: BTreeSet<u64>,
    /// Those that wait their turn.
    waiting: VecDeque<Cancel>,
    /// Those that are to be sent once more, by when, and the connection that they were sent by last.
    again: BTreeMap<(BootInstant, u64), Cancel>,
}

impl Cancels {
    pub(super) fn extend(&mut self, cancels: Vec<Cancel>) {
        self.waiting.extend(cancels);
    }

    /// When the next one is to be sent again; none while one that is on its way has to be over first.
    pub(super) fn due(&self) -> Option<BootInstant> {
        let ((due, _), _) = self.again.first_key_value()?;
        self.may_send().then_some(*due)
    }

    fn may_send(&self) -> bool {
        self.started.len() < TOGETHER
    }

    /// The next that may be sent, if any.
    pub(super) fn next(&mut self, now: BootInstant) -> Option<Cancel> {
        // One that is too late for its turn helps nobody any more.
        while let Some(entry) = self.again.first_entry()
            && entry.key().0.after(LATE) <= now
        {
            entry.remove();
        }
        let due = self.due().is_some_and(|due| due <= now);
        let first = self.may_send().then(|| self.waiting.pop_front()).flatten();
        first.or_else(|| {
            due.then(|| self.again.pop_first())?
                .map(|(_, cancel)| cancel)
        })
    }

    /// It is on its way, by this connection.
    pub(super) fn sent(&mut self, mut cancel: Cancel, id: u64, now: BootInstant) {
        self.started.insert(id);
        if let Some(pause) = AGAIN.get(cancel.sent) {
            cancel.sent += 1;
            self.again.insert((now.after(*pause), id), cancel);
        }
    }

    /// Forgets the connections that are over.
    pub(super) fn keep(&mut self, lives: impl Fn(u64) -> bool) {
        self.started.retain(|id| lives(*id));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_sent_three_times_and_no_more_than_64_at_once() {
        let mut cancels = Cancels::default();
        let at = |millis: u64| BootInstant(millis * 1_000_000);
        let server = UpstreamAddress::Unix("/run/server".into());
        let all = (0..65).map(|_| Cancel::new(server.clone(), vec![1]));
        cancels.extend(all.collect());
        for id in 0..64 {
            let cancel = cancels.next(at(0)).unwrap();
            cancels.sent(cancel, id, at(0));
        }
        assert!(cancels.next(at(0)).is_none());
        assert!(cancels.next(at(300)).is_none());
        // All but one connection are over. What was never sent comes before what is sent again.
        cancels.keep(|id| id == 0);
        let mut sent = Vec::new();
        for millis in (300..4_000).step_by(100) {
            while let Some(cancel) = cancels.next(at(millis)) {
                sent.push((millis, cancel.sent));
                cancels.sent(cancel, 1_000 + sent.len() as u64, at(millis));
                cancels.keep(|_| false);
            }
        }
        let expected = [
            vec![(300, 0)],
            vec![(300, 1); 64],
            vec![(600, 1)],
            vec![(2_300, 2); 64],
            vec![(2_600, 2)],
        ]
        .concat();
        assert_eq!(sent, expected);
        assert_eq!(cancels.due(), None);
    }

    #[test]
    fn a_repeat_that_is_too_late_is_left_out() {
        let mut cancels = Cancels::default();
        let cancel = Cancel::new(UpstreamAddress::Unix("/run/server".into()), vec![1]);
        cancels.sent(cancel, 1, BootInstant(0));
        let due = cancels.due().unwrap();
        assert!(cancels.next(due.after(LATE)).is_none());
        assert_eq!(cancels.due(), None);
    }
}
