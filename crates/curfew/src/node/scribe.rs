//! The enforcer's sink: a thread that puts on record what is handed over, in the order in which it happened, so that
//! whoever closes sessions goes on to the next. What is put on record, and how, may not live here.

use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    time::Duration,
};

use curfew_enforcer::{Record, Sink};

/// Handovers that may wait. The thread waits for no disk and no peer, so more is a processor that is overloaded; then
/// whoever closes has to wait for it.
const WAITING: usize = 16_384;
/// Records that wait for an earlier one at most. A thread that hands over does so within microseconds; one that never
/// does holds nothing up for ever.
const OUT_OF_ORDER: usize = 65_536;

enum Handed {
    Records(Vec<Record>),
    /// Everything before this is to be on record.
    Settle(SyncSender<()>),
}

/// The way to the thread, which ends after the last record when this is dropped.
pub struct Scribe(SyncSender<Handed>);

impl Scribe {
    /// Starts the thread; `keep` gets one record after the other.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start(keep: impl Fn(Record) + Send + 'static) -> io::Result<Arc<Self>> {
        let (hand, handed) = mpsc::sync_channel(WAITING);
        std::thread::Builder::new()
            .name("scribe".to_owned())
            .spawn(move || {
                let mut line = Line::new(OUT_OF_ORDER);
                let mut settling = Vec::new();
                for handed in handed {
                    match handed {
                        Handed::Records(records) => {
                            for record in records {
                                line.join(record.recorded.number, record);
                            }
                            std::iter::from_fn(|| line.next()).for_each(&keep);
                        }
                        Handed::Settle(settled) => settling.push(settled),
                    }
                    if line.is_empty() {
                        for settled in settling.drain(..) {
                            // Whoever asked may have lost patience.
                            let _ = settled.send(());
                        }
                    }
                }
            })?;
        Ok(Arc::new(Self(hand)))
    }

    /// Waits until what was handed over is on record, at most for `patience`; false if it is not.
    pub fn settle(&self, patience: Duration) -> bool {
        let (tell, told) = mpsc::sync_channel(1);
        self.0.send(Handed::Settle(tell)).is_ok() && told.recv_timeout(patience).is_ok()
    }
}

impl Sink for Scribe {
    fn record(&self, records: Vec<Record>) {
        // The thread ends only with this.
        let _ = self.0.send(Handed::Records(records));
    }
}

/// Puts numbered things in order.
struct Line<T> {
    /// The number that comes next.
    next: u64,
    waiting: BTreeMap<u64, T>,
    bound: usize,
}

impl<T> Line<T> {
    fn new(bound: usize) -> Self {
        Self {
            next: 0,
            waiting: BTreeMap::new(),
            bound,
        }
    }

    fn join(&mut self, number: u64, thing: T) {
        self.waiting.insert(number, thing);
    }

    /// The next in order, if it has come; where too many wait for it, the first that has.
    fn next(&mut self) -> Option<T> {
        let first = self.waiting.first_entry()?;
        let number = *first.key();
        if number > self.next && self.waiting.len() <= self.bound {
            return None;
        }
        self.next = self.next.max(number + 1);
        self.waiting.remove(&number)
    }

    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(line: &mut Line<u64>) -> Vec<u64> {
        std::iter::from_fn(|| line.next()).collect()
    }

    #[test]
    fn what_comes_early_waits_for_what_happened_before_it() {
        let mut line = Line::new(10);
        line.join(1, 1);
        line.join(2, 2);
        assert!(all(&mut line).is_empty());
        assert!(!line.is_empty());
        line.join(0, 0);
        assert_eq!(all(&mut line), [0, 1, 2]);
        assert!(line.is_empty());
    }

    #[test]
    fn one_that_never_comes_holds_nothing_up_for_ever() {
        let mut line = Line::new(2);
        (1..=2).for_each(|number| line.join(number, number));
        assert!(all(&mut line).is_empty());
        line.join(3, 3);
        assert_eq!(all(&mut line), [1, 2, 3]);
        // If it comes after all, it is not lost.
        line.join(0, 0);
        assert_eq!(all(&mut line), [0]);
        line.join(4, 4);
        assert_eq!(all(&mut line), [4]);
    }
}
