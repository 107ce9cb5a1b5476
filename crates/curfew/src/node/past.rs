//! Sessions of a process that died: open in its records, and never ended. They are put on record as ended, once.

use std::{
    collections::BTreeMap,
    fs,
    io::{self, Write},
    path::Path,
};

use curfew_audit::{AuditError, Log, LogEvent, Record, RecordKind};
use curfew_model::{EventKind, SessionId};

/// In the data directory: the number of the first record of the process that ran last.
const SINCE: &str = "audit-since";

/// What the processes before this one left behind.
pub struct Past {
    /// The openings of sessions without an end, as they are told of last.
    pub unfinished: Vec<Record>,
    /// The number that this process's first record has.
    pub next: u64,
}

impl Past {
    /// Reads the records of the process that ran last; `seq` is the last one in the log.
    ///
    /// # Errors
    /// [`AuditError`] when the log cannot be read.
    pub fn read(data_dir: &Path, seq: u64) -> Result<Self, AuditError> {
        // Without the note the whole log is read: slower, and right.
        let since = fs::read_to_string(data_dir.join(SINCE))
            .ok()
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1);
        let mut open: BTreeMap<SessionId, Record> = BTreeMap::new();
        for line in curfew_audit::export(&data_dir.join(super::AUDIT), since)? {
            // What is no record is for `audit verify` to say.
            let Ok(record) = serde_json::from_str::<Record>(&line?) else {
                continue;
            };
            let Some(session) = record.entry.session else {
                continue;
            };
            match record.entry.event {
                RecordKind::Event(EventKind::SessionOpened)
                | RecordKind::Log(LogEvent::Carried) => {
                    drop(open.insert(session, record));
                }
                RecordKind::Event(EventKind::SessionEnded) => drop(open.remove(&session)),
                _ => {}
            }
        }
        Ok(Self {
            unfinished: open.into_values().collect(),
            next: seq + 1,
        })
    }

    /// Has the log keep the openings until their ends are on record. Before its first record, so that none is removed.
    pub fn tell(&self, log: &Log) {
        for opening in &self.unfinished {
            if let Some(session) = opening.entry.session {
                log.tells_of(session, opening.seq);
            }
        }
    }
}

/// Notes that the records of this process begin with `next`; atomically, so that a crash leaves the old note.
///
/// # Errors
/// The file system's.
pub fn begin(data_dir: &Path, next: u64) -> io::Result<()> {
    let fresh = data_dir.join(format!("{SINCE}.new"));
    let mut file = fs::File::create(&fresh)?;
    writeln!(file, "{next}")?;
    file.sync_all()?;
    fs::rename(&fresh, data_dir.join(SINCE))
}
