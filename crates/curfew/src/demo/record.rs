//! Reads the demo's audit log while it is written, record by record, and adds up what it says in the end.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

use curfew_audit::{AuditError, Entry, Record, RecordKind};
use curfew_model::{Detail, EndReason, EventKind};

/// A place in the log.
pub struct Reader {
    dir: PathBuf,
    next: u64,
}

impl Reader {
    /// From the first record.
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, next: 1 }
    }

    /// What came since the last time.
    ///
    /// # Errors
    /// [`AuditError`] when the log cannot be read.
    pub fn news(&mut self) -> Result<Vec<Entry>, AuditError> {
        let mut news = Vec::new();
        for line in curfew_audit::export(&self.dir, self.next)? {
            // What is no record yet is one the next time, or found by `audit verify`.
            let Ok(record) = serde_json::from_str::<Record>(&line?) else {
                break;
            };
            self.next = record.seq + 1;
            news.push(record.entry);
        }
        Ok(news)
    }
}

/// What a log says was done.
#[derive(Debug, Default)]
pub struct Sums {
    pub ended: BTreeMap<EndReason, u64>,
    pub refused: BTreeMap<EndReason, u64>,
    /// From each deadline until the door had closed, as the log has it.
    pub late: Vec<Duration>,
}

/// Adds up a whole log.
///
/// # Errors
/// [`AuditError`] when it cannot be read.
pub fn sums(dir: &Path) -> Result<Sums, AuditError> {
    let mut sums = Sums::default();
    for entry in Reader::new(dir.to_owned()).news()? {
        let Some(reason) = entry.reason else { continue };
        match entry.event {
            RecordKind::Event(EventKind::SessionEnded) => {
                *sums.ended.entry(reason).or_default() += 1;
                let late = entry.detail.get("late_us");
                let late = late.and_then(Detail::as_number);
                sums.late.extend(late.map(Duration::from_micros));
            }
            RecordKind::Event(EventKind::SessionRefused) => {
                *sums.refused.entry(reason).or_default() += 1;
            }
            _ => {}
        }
    }
    Ok(sums)
}

/// The middle and the largest; none of nothing.
pub fn middle_and_most(times: &[Duration]) -> Option<(Duration, Duration)> {
    let mut times = times.to_vec();
    times.sort_unstable();
    let middle = times.get(times.len().saturating_sub(1) / 2)?;
    Some((*middle, *times.last()?))
}
