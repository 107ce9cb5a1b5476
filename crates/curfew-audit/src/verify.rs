//! Offline verification: whether the records are those that were written, in their order, and where not.
//!
//! What the chain proves: no record before the last was altered, dropped, inserted or moved, up to the newest head
//! that the reader trusts. Without a head exported earlier, the end of the log may have been cut off.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};

use curfew_model::{Detail, EventKind};

use crate::{
    AuditError, Digest, Head, Record, RecordKind,
    counts::Counts,
    head::Purpose,
    read,
    record::{self, LineError},
    segment,
};

/// Findings that are listed; more are counted.
const LISTED: usize = 100;
/// How findings name the head that verification was given.
const GIVEN: &str = "given head";
/// How often a log is read again whose beginning was removed meanwhile.
const AGAIN: u32 = 3;

/// What is wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Not the form of a record or a head.
    #[error("not a record: {0}")]
    Malformed(String),
    /// The bytes do not have their hash.
    #[error("altered: the record does not have the hash that it states")]
    Altered,
    /// Records are missing, inserted or moved before this one.
    #[error("out of place: record {found} stands where record {expected} belongs")]
    OutOfPlace {
        /// The number that belongs here.
        expected: u64,
        /// The number that is here.
        found: u64,
    },
    /// The record names another one before it.
    #[error("the chain is broken: the record before this one was altered or replaced")]
    Broken,
    /// The last line is not whole: a crash, or a cut.
    #[error("the last line is torn")]
    Torn,
    /// The segment's name does not fit its first record.
    #[error("the segment is named after another record than its first")]
    Misnamed,
    /// A head whose signature is not that of its key.
    #[error("the signature of this head is wrong")]
    BadSignature,
    /// Heads of different keys.
    #[error("this head was signed by another key than the log's")]
    OtherKey,
    /// A signed head names a record that is not there.
    #[error("truncated: a signed head names record {0}, which is missing")]
    Truncated(u64),
    /// A signed head names another hash for a record.
    #[error("rewritten: record {0} is not the one that a signed head names")]
    Rewritten(u64),
    /// There are records, and no head.
    #[error("the signed heads are missing")]
    NoHeads,
    /// There is no record, so nothing can be proved.
    #[error("there is no record: nothing was recorded yet, or everything was removed")]
    NoRecords,
}

/// Where something was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file's name in the log's directory; `given head` for the head that verification was given, `records` for all.
    pub file: String,
    /// The line, counted from one; zero for the file as a whole.
    pub line: u64,
    /// The record, where it is known.
    pub seq: Option<u64>,
}

/// Something wrong at a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Where.
    pub place: Place,
    /// What.
    pub problem: Problem,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Place { file, line, seq } = &self.place;
        write!(f, "{file}:{line}: ")?;
        if let Some(seq) = seq {
            write!(f, "record {seq}: ")?;
        }
        write!(f, "{}", self.problem)
    }
}

/// What is known about the end of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Truncation {
    /// Nothing up to this record was cut off: a head exported earlier names it. What came after it is not covered.
    ExcludedThrough(u64),
    /// No head was given: records after this one may have been cut off.
    NotExcludedAfter(u64),
    /// The given head names a record older than those that are left: it says nothing of them.
    HeadOutdated {
        /// The record that it names.
        head: u64,
        /// Records after this one may have been cut off.
        last: u64,
    },
}

/// What verification found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// The first one there; greater than one after retention.
    pub first: Option<u64>,
    /// The last one there, with its hash.
    pub last: Option<(u64, Digest)>,
    /// The key that signed the log's heads.
    pub key: Option<Digest>,
    /// What is wrong, at most 100 entries.
    pub findings: Vec<Finding>,
    /// How many more are wrong.
    pub more: u64,
    /// What is known about the end.
    pub truncation: Truncation,
    /// Records that the log itself says it lost (`log.gap`).
    pub lost: u64,
    /// Events missing from the enforcers' own counts.
    pub enforcer_gaps: u64,
}

impl Report {
    fn new() -> Self {
        Self {
            records: 0,
            first: None,
            last: None,
            key: None,
            findings: Vec::new(),
            more: 0,
            truncation: Truncation::NotExcludedAfter(0),
            lost: 0,
            enforcer_gaps: 0,
        }
    }

    /// Whether nothing is wrong.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.findings.is_empty()
    }

    fn add(&mut self, file: &str, line: u64, seq: Option<u64>, problem: Problem) {
        if self.findings.len() >= LISTED {
            self.more += 1;
            return;
        }
        let place = Place {
            file: file.to_owned(),
            line,
            seq,
        };
        self.findings.push(Finding { place, problem });
    }
}

/// A head still to be compared with its record.
struct Claim {
    file: &'static str,
    line: u64,
    hash: Digest,
}

/// Verifies the log in `dir`, against a head exported earlier if there is one. Reads everything, changes nothing.
///
/// # Errors
/// [`AuditError`] when a file cannot be read.
pub fn verify(dir: &Path, head: Option<&Head>) -> Result<Report, AuditError> {
    let mut tries = 0..AGAIN;
    loop {
        let anchor = segment::read_small(dir, segment::ANCHOR)?;
        let report = verify_from(dir, &anchor, head);
        // Retention may have removed meanwhile what it began with.
        let is_same = segment::read_small(dir, segment::ANCHOR)? == anchor;
        if is_same || tries.next().is_none() {
            return report;
        }
    }
}

fn verify_from(dir: &Path, anchor_text: &str, head: Option<&Head>) -> Result<Report, AuditError> {
    let mut report = Report::new();
    let mut claims: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
    let heads = segment::read_small(dir, segment::HEADS)?;
    let stored = heads
        .split_inclusive('\n')
        .map(|line| (segment::HEADS, line));
    let anchored = anchor_text
        .split_inclusive('\n')
        .map(|line| (segment::ANCHOR, line));
    let given = head.map(|head| format!("{head}\n"));
    let given = given.iter().map(|line| (GIVEN, line.as_str()));
    let mut anchor = None;
    let mut number = 0;
    let mut file_before = "";
    for (file, line) in stored.chain(anchored).chain(given) {
        number = if file == file_before { number + 1 } else { 1 };
        file_before = file;
        let Some(head) = read_head(&mut report, file, number, line) else {
            continue;
        };
        if file == segment::ANCHOR {
            anchor = Some((head.seq, head.hash));
        }
        claims.entry(head.seq).or_default().push(Claim {
            file,
            line: number,
            hash: head.hash,
        });
    }

    let mut chain = Chain {
        next: anchor.map_or(1, |(seq, _)| seq + 1),
        prev: anchor.map_or(Digest::GENESIS, |(_, hash)| hash),
        anchor: anchor.map_or(0, |(seq, _)| seq),
        counts: Counts::default(),
    };
    let (seq, hash) = anchor.unwrap_or((0, Digest::GENESIS));
    let segments = segment::list(dir)?;
    // Otherwise the record itself is still there, and is compared where it stands.
    if segments.first().is_none_or(|(first, _)| *first > seq) {
        check_claims(&mut report, &mut claims, seq, hash);
    }
    let count = segments.len();
    for (index, (first, path)) in segments.into_iter().enumerate() {
        chain.segment(&mut report, &mut claims, &path, first, index + 1 == count)?;
    }
    if heads.is_empty() && report.records > 0 {
        report.add(segment::HEADS, 0, None, Problem::NoHeads);
    }
    let start = report
        .first
        .unwrap_or(chain.next)
        .min(chain.anchor.saturating_add(1));
    let last = report.last.map_or(chain.anchor, |(seq, _)| seq);
    finish(&mut report, claims, start, head, last);
    Ok(report)
}

/// Verifies an export: a file of records as `export` gives them, from any record on. It holds no signed head, so that it
/// was not written anew as a whole shows only against one.
///
/// # Errors
/// [`AuditError`] when the file cannot be read.
pub fn verify_export(path: &Path, head: Option<&Head>) -> Result<Report, AuditError> {
    let mut report = Report::new();
    let mut claims: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
    let read = head.and_then(|head| read_head(&mut report, GIVEN, 1, &format!("{head}\n")));
    if let Some(head) = read {
        let claim = Claim {
            file: GIVEN,
            line: 1,
            hash: head.hash,
        };
        claims.entry(head.seq).or_default().push(claim);
    }
    let (first, prev) = beginning(path)?;
    let before = first.saturating_sub(1);
    if let Some(prev) = prev {
        check_claims(&mut report, &mut claims, before, prev);
    }
    let mut chain = Chain {
        next: first,
        prev: prev.unwrap_or(Digest::GENESIS),
        anchor: before,
        counts: Counts::default(),
    };
    chain.segment(&mut report, &mut claims, path, first, true)?;
    let last = report.last.map_or(before, |(seq, _)| seq);
    finish(&mut report, claims, first, head, last);
    Ok(report)
}

/// The number of the first record of an export, and, where that can be read, the hash of the one before it.
fn beginning(path: &Path) -> Result<(u64, Option<Digest>), AuditError> {
    let file = File::open(path).map_err(AuditError::io("open", path))?;
    let mut reader = BufReader::new(file);
    let mut wrong = 0;
    while let Some(line) = read::next_line(&mut reader).map_err(AuditError::io("read", path))? {
        let line = line.strip_suffix(b"\n").unwrap_or(&line);
        match record::read_line(line) {
            Ok(record) if record.seq > wrong + 1 => {
                let prev = (wrong == 0).then_some(record.prev);
                return Ok((record.seq - wrong, prev));
            }
            Ok(_) => break,
            Err(_) => wrong += 1,
        }
    }
    Ok((1, Some(Digest::GENESIS)))
}

/// What is left when every record was read: heads of records that are not there, and what is known about the end.
fn finish(
    report: &mut Report,
    claims: BTreeMap<u64, Vec<Claim>>,
    start: u64,
    head: Option<&Head>,
    last: u64,
) {
    let mut outdated = false;
    for (seq, claims) in claims {
        for claim in claims {
            if seq >= start {
                report.add(claim.file, claim.line, Some(seq), Problem::Truncated(seq));
            } else {
                // Heads of records that retention removed cannot be compared any more.
                outdated |= claim.file == GIVEN;
            }
        }
    }
    if report.is_ok() && report.records == 0 {
        report.add("records", 0, None, Problem::NoRecords);
    }
    report.truncation = match head {
        Some(head) if outdated && report.is_ok() => Truncation::HeadOutdated {
            head: head.seq,
            last,
        },
        Some(head) if report.is_ok() => Truncation::ExcludedThrough(head.seq),
        _ => Truncation::NotExcludedAfter(last),
    };
}

/// A line as a head, if it is one, in the one way of writing it, signed, and of the log's key.
fn read_head(report: &mut Report, file: &str, number: u64, line: &str) -> Option<Head> {
    let head = match line.parse::<Head>() {
        Ok(head) if format!("{head}\n") == line => head,
        Ok(_) => {
            report.add(
                file,
                number,
                None,
                Problem::Malformed("not written by Curfew".to_owned()),
            );
            return None;
        }
        Err(error) => {
            report.add(file, number, None, Problem::Malformed(error.to_string()));
            return None;
        }
    };
    let purpose = if file == segment::ANCHOR {
        Purpose::Anchor
    } else {
        Purpose::Head
    };
    if !head.is_signed_as(purpose) {
        report.add(file, number, Some(head.seq), Problem::BadSignature);
        return None;
    }
    if *report.key.get_or_insert(head.key) != head.key {
        report.add(file, number, Some(head.seq), Problem::OtherKey);
        return None;
    }
    Some(head)
}

/// Compares the heads of one record with it.
fn check_claims(
    report: &mut Report,
    claims: &mut BTreeMap<u64, Vec<Claim>>,
    seq: u64,
    hash: Digest,
) {
    for claim in claims.remove(&seq).into_iter().flatten() {
        if claim.hash != hash {
            report.add(claim.file, claim.line, Some(seq), Problem::Rewritten(seq));
        }
    }
}

/// Where the reading of the chain is.
struct Chain {
    next: u64,
    prev: Digest,
    /// The last record that retention removed.
    anchor: u64,
    counts: Counts,
}

impl Chain {
    fn segment(
        &mut self,
        report: &mut Report,
        claims: &mut BTreeMap<u64, Vec<Claim>>,
        path: &Path,
        first: u64,
        is_last: bool,
    ) -> Result<(), AuditError> {
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let file = File::open(path).map_err(AuditError::io("open", path))?;
        let mut reader = BufReader::new(file);
        let mut number = 0;
        while let Some(line) = read::next_line(&mut reader).map_err(AuditError::io("read", path))? {
            number += 1;
            let expected = Some(self.next);
            let Some(line) = line.strip_suffix(b"\n") else {
                report.add(&name, number, expected, Problem::Torn);
                self.next += 1;
                continue;
            };
            match record::read_line(line) {
                Ok(record) => {
                    if number == 1 && record.seq != first {
                        report.add(&name, number, Some(record.seq), Problem::Misnamed);
                    }
                    self.record(report, claims, &name, number, record);
                }
                Err(error) => {
                    let problem = match error {
                        LineError::Malformed(text) => Problem::Malformed(text),
                        LineError::Altered => Problem::Altered,
                    };
                    report.add(&name, number, expected, problem);
                    self.next += 1;
                }
            }
        }
        if number == 0 && (!is_last || first != self.next) {
            report.add(&name, 0, Some(first), Problem::Truncated(first));
        }
        Ok(())
    }

    fn record(
        &mut self,
        report: &mut Report,
        claims: &mut BTreeMap<u64, Vec<Claim>>,
        file: &str,
        line: u64,
        record: Record,
    ) {
        // A removal that a crash interrupted leaves older segments: the chain starts there, and has to meet the anchor.
        let starts_early = report.first.is_none() && record.seq <= self.anchor;
        if !starts_early {
            if record.seq != self.next {
                let problem = Problem::OutOfPlace {
                    expected: self.next,
                    found: record.seq,
                };
                report.add(file, line, Some(record.seq), problem);
            } else if record.prev != self.prev {
                report.add(file, line, Some(record.seq), Problem::Broken);
            }
        }
        check_claims(report, claims, record.seq, record.hash);
        self.count(report, &record);
        report.records += 1;
        report.first.get_or_insert(record.seq);
        report.last = Some((record.seq, record.hash));
        self.next = record.seq.saturating_add(1);
        self.prev = record.hash;
    }

    fn count(&mut self, report: &mut Report, record: &Record) {
        let entry = &record.entry;
        if entry.event == RecordKind::Log(crate::LogEvent::Gap) {
            let lost = entry.detail.get("lost").and_then(Detail::as_number);
            report.lost = report.lost.saturating_add(lost.unwrap_or(0));
        }
        let (Some(enforcer), Some(seq)) = (&entry.enforcer, entry.enforcer_seq) else {
            return;
        };
        let started = entry.event == RecordKind::Event(EventKind::EnforcerStarted);
        self.counts.take(enforcer, seq, started);
        report.enforcer_gaps = self.counts.missing();
    }
}
