//! One record and its line: what is in it, how it is written, hashed and read back. No files.

use std::{collections::BTreeMap, fmt, str::FromStr};

use curfew_model::{
    Detail, EndReason, EnforcerId, Event, EventKind, Identity, Revision, SegmentName, SessionId,
    WallInstant,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The longest record, in bytes of its line.
pub const MAX_RECORD: usize = 64 * 1024;

/// A SHA-256 value, written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// The `prev` of the first record.
    pub const GENESIS: Self = Self([0; 32]);

    pub(crate) fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&to_hex(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Digest {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        from_hex(text)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is not 64 lower-case hexadecimal digits"))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Exactly `N` bytes from lower-case digits.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    if !rest.is_empty() {
        return None;
    }
    let bytes: Option<Vec<u8>> = pairs
        .iter()
        .map(|&[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect();
    bytes?.try_into().ok()
}

/// What the log says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum LogEvent {
    /// A torn last line was cut off after a crash; `detail` has its length and hash.
    #[serde(rename = "log.recovered")]
    Recovered,
    /// Records were found without a signature when the log was opened: those behind `detail.after` up to
    /// `detail.through`. A crash leaves those of the last write so, a power failure more.
    #[serde(rename = "log.unsigned")]
    Unsigned,
    /// Records were lost here; `detail.lost` says how many.
    #[serde(rename = "log.gap")]
    Gap,
    /// Old segments were removed; `detail.through` is the last sequence number removed.
    #[serde(rename = "log.pruned")]
    Pruned,
    /// The opening of a session that is still open, once more, because its record is removed; `detail.opened_at` and
    /// `detail.opened_seq` say when it was opened and which record told of it.
    #[serde(rename = "log.carried")]
    Carried,
}

/// What a record tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum RecordKind {
    /// Something that happened.
    Event(EventKind),
    /// Something about the log.
    Log(LogEvent),
}

impl RecordKind {
    /// The latest time on record once this is, too: an accepted clock takes back what was recorded by a wrong one.
    #[must_use]
    pub fn latest(self, before: WallInstant, at: WallInstant) -> WallInstant {
        match self {
            Self::Event(EventKind::ClockAccepted) => at,
            _ => before.max(at),
        }
    }
}

/// What a caller puts into the log. The field names are a contract: those that every record has are there where they
/// say nothing, too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When, for people; the order is that of `seq`.
    pub at: WallInstant,
    /// What.
    pub event: RecordKind,
    /// The session concerned.
    #[serde(default)]
    pub session: Option<SessionId>,
    /// Its subject.
    #[serde(default)]
    pub subject: Option<Identity>,
    /// Its segments, the most sensitive first.
    #[serde(default)]
    pub segments: Vec<SegmentName>,
    /// Why it ended or was refused.
    #[serde(default)]
    pub reason: Option<EndReason>,
    /// The revision that it was decided on; none for the log's own records.
    #[serde(default)]
    pub revision: Option<Revision>,
    /// What set it off, in words.
    #[serde(default)]
    pub cause: Option<String>,
    /// The enforcer that reports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcer: Option<EnforcerId>,
    /// The enforcer's own count of its events, from one, so that a missing one shows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enforcer_seq: Option<u64>,
    /// More, by name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub detail: BTreeMap<String, Detail>,
}

impl Entry {
    /// An entry for an event that no enforcer numbers.
    #[must_use]
    pub fn new(event: Event) -> Self {
        Self {
            at: event.at,
            event: RecordKind::Event(event.event),
            session: event.session,
            subject: event.subject,
            segments: event.segments,
            reason: event.reason,
            revision: Some(event.revision),
            cause: event.cause,
            enforcer: None,
            enforcer_seq: None,
            detail: event.detail,
        }
    }

    /// The entry as the event `seq` of an enforcer.
    #[must_use]
    pub fn by(mut self, enforcer: EnforcerId, seq: u64) -> Self {
        self.enforcer = Some(enforcer);
        self.enforcer_seq = Some(seq);
        self
    }

    /// The entry with one more detail, in words.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl fmt::Display) -> Self {
        self.detail.insert(name.to_owned(), Detail::text(value));
        self
    }

    /// The entry with one more detail, a number.
    #[must_use]
    pub fn count(mut self, name: &str, number: impl TryInto<u64>) -> Self {
        self.detail.insert(name.to_owned(), Detail::number(number));
        self
    }

    pub(crate) fn of_log(at: WallInstant, event: LogEvent) -> Self {
        Self {
            at,
            event: RecordKind::Log(event),
            session: None,
            subject: None,
            segments: Vec::new(),
            reason: None,
            revision: None,
            cause: None,
            enforcer: None,
            enforcer_seq: None,
            detail: BTreeMap::new(),
        }
    }
}

/// One record of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place, from one, without gaps.
    pub seq: u64,
    /// What it tells.
    #[serde(flatten)]
    pub entry: Entry,
    /// The hash of the record before; zeros for the first.
    pub prev: Digest,
    /// Its own hash.
    pub hash: Digest,
}

const HASH_FIELD: &str = ",\"hash\":\"";
/// Bytes that a line has beside its entry, at most: `seq`, and two hashes with their names.
pub(crate) const FRAME: usize = 192;

/// Writes the line (with its newline) of a record whose entry is already JSON, and gives its hash.
pub(crate) fn write_line(out: &mut Vec<u8>, seq: u64, entry_json: &str, prev: Digest) -> Digest {
    let fields = entry_json.strip_prefix('{').unwrap_or(entry_json);
    let fields = fields.strip_suffix('}').unwrap_or(fields);
    let start = format!("{{\"seq\":{seq},{fields},\"prev\":\"{prev}\"");
    let hash = Digest::of(start.as_bytes());
    out.extend_from_slice(start.as_bytes());
    out.extend_from_slice(format!("{HASH_FIELD}{hash}\"}}\n").as_bytes());
    hash
}

/// Why a line is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LineError {
    /// Not the form of a record.
    Malformed(String),
    /// The bytes do not have the hash that is written at their end.
    Altered,
}

/// Reads a line (without its newline) and checks its own hash.
pub(crate) fn read_line(line: &[u8]) -> Result<Record, LineError> {
    let malformed = |text: &str| LineError::Malformed(text.to_owned());
    let text = std::str::from_utf8(line).map_err(|_| malformed("the line is not UTF-8"))?;
    let (start, rest) = text
        .rsplit_once(HASH_FIELD)
        .ok_or_else(|| malformed("the line does not end with a hash"))?;
    let digits = rest
        .strip_suffix("\"}")
        .ok_or_else(|| malformed("the line does not end with a hash"))?;
    let hash: Digest = digits.parse().map_err(LineError::Malformed)?;
    if Digest::of(start.as_bytes()) != hash {
        return Err(LineError::Altered);
    }
    serde_json::from_str(text).map_err(|error| LineError::Malformed(error.to_string()))
}
