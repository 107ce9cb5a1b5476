//! What verification says: what is wrong and where, and what is known of the end. Reading the log may not live here.

use crate::Digest;

/// Findings that are listed; more are counted.
const LISTED: usize = 100;

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
    /// There are records, and the heads name none of them.
    #[error(
        "no signature names any of the records: whoever writes the log's files can have written them all"
    )]
    NothingSigned,
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

/// The key that a log is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// The key.
    pub key: Digest,
    /// Where it was learnt.
    pub from: KeyFrom,
}

/// Where the key was learnt that a log is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFrom {
    /// It was given.
    Given,
    /// The head that was given was signed with it.
    Head,
    /// From `audit.key` beside the log.
    File,
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
    /// The key that they had to be signed with. Without one, whoever can write the files can have written the log anew.
    pub known: Option<Known>,
    /// Whether the file of the newest head is missing, which a log always has.
    pub newest_missing: bool,
    /// The last record that a signed head names: those after it, whoever writes the files can have written.
    pub signed_through: Option<u64>,
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
    pub(crate) fn new(known: Option<Known>) -> Self {
        Self {
            records: 0,
            first: None,
            last: None,
            key: None,
            known,
            newest_missing: false,
            signed_through: None,
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

    /// Whether the heads name none of the records, and there is more than the first.
    pub(crate) fn is_unsigned(&self) -> bool {
        let ends = self.first.zip(self.last);
        ends.is_some_and(|(first, (last, _))| last > 1 && self.signed_through.unwrap_or(0) < first)
    }

    pub(crate) fn add(&mut self, file: &str, line: u64, seq: Option<u64>, problem: Problem) {
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
