//! Offline verification: whether the records are those that were written, in their order, and where not.
//!
//! What the chain proves: no record before the last was altered, dropped, inserted or moved, up to the newest head
//! that the reader trusts. Without a head exported earlier, the end of the log may have been cut off; without a key that
//! the reader knows, the whole of it may have been written anew.

use std::{collections::BTreeMap, fs::File, io::BufReader, path::Path};

use curfew_model::{Detail, EventKind};

use crate::{
    AuditError, Digest, Head, KeyFrom, Known, Problem, Record, RecordKind, Report, Truncation,
    counts::Counts,
    head::{self, Purpose},
    read,
    record::{self, LineError},
    segment,
};

/// How findings name the head that verification was given.
const GIVEN: &str = "given head";
/// How often a log is read again whose beginning was removed meanwhile.
const AGAIN: u32 = 3;

/// A head still to be compared with its record.
struct Claim {
    file: &'static str,
    line: u64,
    hash: Digest,
}

/// Verifies the log in `dir`, against a head exported earlier if there is one, and against `key`, or else that of the head
/// or of `audit.key` beside the log. Reads everything, changes nothing; retention waits for it for a while.
///
/// # Errors
/// [`AuditError`] when a file cannot be read.
pub fn verify(dir: &Path, head: Option<&Head>, key: Option<Digest>) -> Result<Report, AuditError> {
    let _reading = segment::keep_all(dir)?;
    let known = match known(head, key) {
        None => head::public_key(dir)?.map(|key| Known {
            key,
            from: KeyFrom::File,
        }),
        known => known,
    };
    let mut tries = 0..AGAIN;
    loop {
        let anchor = segment::read_small(dir, segment::ANCHOR)?;
        // Before the records: what it names is there.
        let newest = segment::read_newest(dir)?;
        let report = verify_from(dir, (&anchor, &newest), head, known);
        // Retention may have removed meanwhile what it began with, where it waited no longer.
        let is_gone = report.as_ref().is_err_and(AuditError::is_not_found);
        // The first records of a log that is being written may have been signed since.
        let is_unsigned = report.as_ref().is_ok_and(Report::is_unsigned);
        let is_signed = is_unsigned && segment::read_newest(dir)? != newest;
        let is_same = segment::read_small(dir, segment::ANCHOR)? == anchor;
        if is_same && !is_gone && !is_signed || tries.next().is_none() {
            return report;
        }
    }
}

/// The key that the reader brings along.
fn known(head: Option<&Head>, key: Option<Digest>) -> Option<Known> {
    let given = key.map(|key| (key, KeyFrom::Given));
    let of_head = || {
        let head = head.filter(|head| head.is_signed())?;
        Some((head.key, KeyFrom::Head))
    };
    let (key, from) = given.or_else(of_head)?;
    Some(Known { key, from })
}

fn verify_from(
    dir: &Path,
    (anchor_text, newest): (&str, &str),
    head: Option<&Head>,
    known: Option<Known>,
) -> Result<Report, AuditError> {
    let mut report = Report::new(known);
    report.newest_missing = newest.is_empty();
    let mut claims: BTreeMap<u64, Vec<Claim>> = BTreeMap::new();
    let heads = segment::read_small(dir, segment::HEADS)?;
    let stored = heads
        .split_inclusive('\n')
        .map(|line| (segment::HEADS, line));
    let anchored = anchor_text
        .split_inclusive('\n')
        .map(|line| (segment::ANCHOR, line));
    let newest = newest
        .split_inclusive('\n')
        .map(|line| (segment::NEWEST, line));
    let given = head.map(|head| format!("{head}\n"));
    let given = given.iter().map(|line| (GIVEN, line.as_str()));
    let mut anchor = None;
    let mut number = 0;
    let mut file_before = "";
    for (file, line) in stored.chain(newest).chain(anchored).chain(given) {
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
    if report.is_ok() && report.is_unsigned() {
        report.add("records", 0, None, Problem::NothingSigned);
    }
    Ok(report)
}

/// Verifies an export: a file of records as `export` gives them, from any record on. It holds no signed head, so that it
/// was not written anew as a whole shows only against one, which has to be signed with `key` if that is given.
///
/// # Errors
/// [`AuditError`] when the file cannot be read.
pub fn verify_export(
    path: &Path,
    head: Option<&Head>,
    key: Option<Digest>,
) -> Result<Report, AuditError> {
    let mut report = Report::new(known(head, key));
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
    let known = report.known.map(|known| known.key).or(report.key);
    if known.is_some_and(|key| key != head.key) {
        report.add(file, number, Some(head.seq), Problem::OtherKey);
        return None;
    }
    report.key = Some(head.key);
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
        if claim.hash == hash {
            report.signed_through = report.signed_through.max(Some(seq));
        } else {
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
