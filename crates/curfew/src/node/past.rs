//! What the processes before this one left on record: sessions that never ended, which are put on record as ended, once,
//! the highest wall time, below which admissions are not judged (rule 10), and what is in force without a record.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
};

use curfew_audit::{AuditError, Log, LogEvent, Record, RecordKind};
use curfew_model::{EventKind, Now, Revision, Revocation, SessionId, WallInstant};
use curfew_state::{PolicyPointer, State};

/// In the data directory: the number of the first record of the process that ran last, and the highest wall time on
/// record before it.
const SINCE: &str = "audit-since";

/// What the processes before this one left behind.
pub struct Past {
    /// The openings of sessions without an end, as they are told of last.
    pub unfinished: Vec<Record>,
    /// The number that this process's first record has.
    pub next: u64,
    /// The highest wall time on record since an administrator accepted the clock; none where nothing is on record.
    pub highest_wall: Option<WallInstant>,
    /// The revision that the process before this one began with; none where its records do not say.
    began_with: Option<Revision>,
    /// The revisions of the orders and policy sets that it put on record.
    told: BTreeSet<Revision>,
    /// The latest that the state certainly had, at a start or a stop.
    kept: Option<Revision>,
}

impl Past {
    /// Reads the records of the process that ran last; `seq` is the last one in the log.
    ///
    /// # Errors
    /// [`AuditError`] when the log cannot be read.
    pub fn read(data_dir: &Path, seq: u64) -> Result<Self, AuditError> {
        // Without the note the whole log is read: slower, and right.
        let (since, mut highest_wall) = read_note(data_dir)
            .filter(|(since, _)| *since <= seq + 1)
            .unwrap_or((1, None));
        let mut open: BTreeMap<SessionId, Record> = BTreeMap::new();
        let (mut began_with, mut told) = (None, BTreeSet::new());
        let mut kept = None;
        for line in curfew_audit::export(&data_dir.join(super::AUDIT), since)? {
            // What is no record is for `audit verify` to say.
            let Ok(record) = serde_json::from_str::<Record>(&line?) else {
                continue;
            };
            let at = record.entry.at;
            let latest = |before| record.entry.event.latest(before, at);
            highest_wall = Some(highest_wall.map_or(at, latest));
            match record.entry.event {
                RecordKind::Event(EventKind::EnforcerStarted) => {
                    began_with = began_with.or(record.entry.revision);
                    kept = kept.max(record.entry.revision);
                }
                RecordKind::Event(EventKind::RevocationCreated | EventKind::PolicyApplied) => {
                    told.extend(record.entry.revision);
                }
                RecordKind::Event(EventKind::EnforcerStopped) => {
                    kept = kept.max(record.entry.revision);
                }
                _ => {}
            }
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
            highest_wall,
            began_with,
            told,
            kept,
        })
    }

    /// The revision that the state had, if it is an earlier one now.
    pub fn ahead_of(&self, state: &State) -> Option<Revision> {
        self.kept.filter(|kept| *kept > state.revision)
    }

    /// The orders and policy sets in force that the process before this one died with before they were on record.
    pub fn untold<'a>(&self, state: &'a State) -> (Vec<&'a Revocation>, Vec<&'a PolicyPointer>) {
        let Some(began_with) = self.began_with else {
            return Default::default();
        };
        let is_untold = |at: Revision| at > began_with && !self.told.contains(&at);
        let orders = state.revocations.values();
        let sets = state.policies.values().map(|(pointer, _)| pointer);
        (
            orders.filter(|order| is_untold(order.revision)).collect(),
            sets.filter(|set| is_untold(set.revision)).collect(),
        )
    }

    /// The clocks, the wall time never below the highest on record.
    pub fn at_least(&self, now: Now) -> Now {
        Now {
            wall: self
                .highest_wall
                .map_or(now.wall, |highest| highest.max(now.wall)),
            ..now
        }
    }

    /// Has the log keep the openings until their ends are on record. Before its first record, so that none is removed.
    pub fn tell(&self, log: &Log) {
        for opening in &self.unfinished {
            if let Some(session) = opening.entry.session {
                log.tells_of(session, opening.seq);
            }
        }
    }

    /// Notes that the records of this process are the next.
    ///
    /// # Errors
    /// The file system's.
    pub fn begin(&self, data_dir: &Path) -> io::Result<()> {
        write_note(data_dir, (self.next, self.highest_wall))
    }
}

/// Notes that the highest wall time before what is on record is this one, which was accepted: the record of that may be
/// removed before the next start.
///
/// # Errors
/// The file system's.
pub fn accept_clock(data_dir: &Path, at: WallInstant) -> io::Result<()> {
    let (since, _) = read_note(data_dir).unwrap_or((1, None));
    write_note(data_dir, (since, Some(at)))
}

type Note = (u64, Option<WallInstant>);

fn read_note(data_dir: &Path) -> Option<Note> {
    let note = fs::read(data_dir.join(SINCE)).ok()?;
    serde_json::from_slice(&note).ok()
}

fn write_note(data_dir: &Path, note: Note) -> io::Result<()> {
    curfew_audit::replace(data_dir, SINCE, &serde_json::to_string(&note)?)
}
