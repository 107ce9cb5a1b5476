//! Sessions that the log tells of as open. Retention removes no such opening without repeating it, since the next process
//! puts the ends of a killed one's sessions on record from here. Which files go is decided in `files.rs`.

use std::{
    collections::{BTreeSet, HashMap},
    fs::File,
    io::BufReader,
    ops::RangeInclusive,
    path::Path,
};

use curfew_model::{EventKind, SessionId, WallInstant};
use parking_lot::Mutex;

use crate::{AuditError, Entry, LogEvent, RecordKind, read, record};

/// What a record says of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// It is open.
    Open(SessionId),
    /// It is over.
    Ended(SessionId),
}

impl Mark {
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let session = entry.session?;
        match entry.event {
            RecordKind::Event(EventKind::SessionOpened) | RecordKind::Log(LogEvent::Carried) => {
                Some(Self::Open(session))
            }
            RecordKind::Event(EventKind::SessionEnded) => Some(Self::Ended(session)),
            _ => None,
        }
    }
}

/// An entry on its way to the disk.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    /// What it tells.
    pub(crate) event: RecordKind,
    /// Its time.
    pub(crate) at: WallInstant,
    /// The entry as a JSON object.
    pub(crate) json: String,
    /// What it says of a session.
    pub(crate) mark: Option<Mark>,
}

impl Line {
    /// None for an entry that is no JSON.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        Some(Self {
            event: entry.event,
            at: entry.at,
            json: serde_json::to_string(entry).ok()?,
            mark: Mark::of(entry),
        })
    }
}

/// The record that tells of each open session; none while it waits for the disk.
#[derive(Debug, Default)]
pub(crate) struct OpenSessions(Mutex<HashMap<SessionId, Option<u64>>>);

impl OpenSessions {
    /// Takes in what an earlier process left on record.
    pub(crate) fn told(&self, session: SessionId, seq: u64) {
        self.0.lock().insert(session, Some(seq));
    }

    /// Takes in what will be on record.
    pub(crate) fn accepted(&self, mark: Option<Mark>) {
        if let Some(Mark::Open(session)) = mark {
            self.0.lock().insert(session, None);
        }
    }

    /// Takes in what will never be on record: of an end that is lost it is known all the same.
    pub(crate) fn lost(&self, mark: Option<Mark>) {
        if let Some(Mark::Ended(session)) = mark {
            self.0.lock().remove(&session);
        }
    }

    /// Takes in what is on disk, from the record `seq` on.
    pub(crate) fn written(&self, seq: u64, marks: impl Iterator<Item = Option<Mark>>) {
        let mut open = self.0.lock();
        for (seq, mark) in (seq..).zip(marks) {
            match mark {
                // One that has ended meanwhile stays ended.
                Some(Mark::Open(session)) => {
                    if let Some(told) = open.get_mut(&session) {
                        *told = Some(seq);
                    }
                }
                Some(Mark::Ended(session)) => drop(open.remove(&session)),
                None => {}
            }
        }
    }

    /// The records of a segment that tell of sessions which are still open, to be written once more at `now`. None when
    /// one of them cannot be read.
    pub(crate) fn carried(
        &self,
        path: &Path,
        records: RangeInclusive<u64>,
        now: WallInstant,
    ) -> Result<Option<Vec<Entry>>, AuditError> {
        let wanted: BTreeSet<u64> = {
            let open = self.0.lock();
            let told = open.values().copied().flatten();
            told.filter(|seq| records.contains(seq)).collect()
        };
        let mut carried = Vec::with_capacity(wanted.len());
        if wanted.is_empty() {
            return Ok(Some(carried));
        }
        let file = File::open(path).map_err(AuditError::io("open", path))?;
        let mut reader = BufReader::new(file);
        for seq in records {
            let line = read::next_line(&mut reader).map_err(AuditError::io("read", path))?;
            if !wanted.contains(&seq) {
                continue;
            }
            let line = line.as_deref().and_then(|line| line.strip_suffix(b"\n"));
            let read = line.and_then(|line| record::read_line(line).ok());
            match read.filter(|record| record.seq == seq) {
                Some(record) => carried.push(again(record.entry, seq, now)),
                None => return Ok(None),
            }
        }
        Ok(Some(carried))
    }
}

/// The opening of a session once more; it names the record that told of it first.
fn again(opening: Entry, seq: u64, now: WallInstant) -> Entry {
    if opening.event == RecordKind::Log(LogEvent::Carried) {
        return Entry { at: now, ..opening };
    }
    let at = opening.at;
    let carried = Entry {
        at: now,
        event: RecordKind::Log(LogEvent::Carried),
        enforcer: None,
        enforcer_seq: None,
        ..opening
    };
    carried.with("opened_at", at).count("opened_seq", seq)
}
