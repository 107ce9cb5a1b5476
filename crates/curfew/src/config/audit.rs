//! The `audit` part of `curfew.yaml`: how much of the log is kept, and what a log that takes no records does. Reading
//! the file is next door, writing the log `curfew-audit`'s.

use std::{num::NonZeroUsize, path::PathBuf, time::Duration};

use curfew_audit::{MAX_RECORD, Options};
use curfew_enforcer::AuditLog;
use curfew_policy::{Node, Source};

/// The smallest segment: one record of any length fits.
const MIN_SEGMENT: u64 = MAX_RECORD as u64;
/// The largest.
const MAX_SEGMENT: u64 = 1 << 40;
/// Records that may wait for the disk, at most: each takes some hundred bytes of memory.
const MAX_QUEUE: usize = 1_000_000;
/// Segments that are kept, at most: more than a disk holds.
const MAX_KEPT: usize = 1_000_000_000;
const FIELDS: [&str; 5] = [
    "segment_size",
    "keep_segments",
    "keep_for",
    "queue",
    "on_full",
];

/// What a log that takes no records means for new sessions. Ending always works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// High and critical segments take none.
    #[default]
    RefuseNew,
    /// They go on everywhere, and what is lost is counted.
    Continue,
}

impl OnFull {
    /// What the engine is told of a log that keeps its records, or does not.
    #[must_use]
    pub fn log(self, keeps_records: bool) -> AuditLog {
        match self {
            Self::RefuseNew if !keeps_records => AuditLog::Full,
            Self::RefuseNew | Self::Continue => AuditLog::Writable,
        }
    }
}

/// How the log is kept; what is none is as `curfew-audit` has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Bytes after which a new segment starts.
    segment_size: Option<u64>,
    /// Segments that are kept.
    keep_segments: Option<NonZeroUsize>,
    /// How long a segment is kept after its last record.
    keep_for: Option<Duration>,
    /// Records that may wait for the disk.
    queue: Option<NonZeroUsize>,
    /// What becomes of new sessions while it takes no records.
    pub on_full: OnFull,
}

impl Audit {
    /// The log in this directory.
    pub fn options(&self, dir: PathBuf) -> Options {
        let usual = Options::new(dir);
        Options {
            queue: self.queue.unwrap_or(usual.queue),
            max_segment: self.segment_size.unwrap_or(usual.max_segment),
            keep_segments: self.keep_segments.or(usual.keep_segments),
            keep_for: self.keep_for.or(usual.keep_for),
            ..usual
        }
    }
}

/// Reads it; what has an error in it is left out.
pub(super) fn read(source: &Source<'_>, node: &Node) -> Audit {
    let Some(map) = source.map(node, "`audit`", &FIELDS) else {
        return Audit::default();
    };
    let count =
        |field: &str, most: usize| source.number(map.get(field)?, &format!("`{field}`"), 1..=most);
    let segment_size = map.get("segment_size").and_then(|node| {
        size(source.text(node, "`segment_size`")?)
            .map_err(|why| source.error(node, format!("`segment_size` {why}")))
            .ok()
    });
    let words = [
        ("refuse-new", OnFull::RefuseNew),
        ("continue", OnFull::Continue),
    ];
    Audit {
        segment_size,
        keep_segments: count("keep_segments", MAX_KEPT).and_then(NonZeroUsize::new),
        keep_for: map
            .get("keep_for")
            .and_then(|node| source.duration(node, "`keep_for`")),
        queue: count("queue", MAX_QUEUE).and_then(NonZeroUsize::new),
        on_full: map
            .get("on_full")
            .and_then(|node| source.word(node, "`on_full`", &words))
            .unwrap_or_default(),
    }
}

/// Reads `64MiB` and the like.
fn size(text: &str) -> Result<u64, String> {
    let units = [("KiB", 10), ("MiB", 20), ("GiB", 30)];
    let bytes = units.into_iter().find_map(|(unit, bits)| {
        let number: u64 = text.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(1 << bits)
    });
    match bytes {
        Some(bytes) if (MIN_SEGMENT..=MAX_SEGMENT).contains(&bytes) => Ok(bytes),
        Some(_) => Err(format!("is {text:?}: segments have 64KiB to 1024GiB")),
        None => Err(format!(
            "is {text:?}: write a whole number and KiB, MiB or GiB, like 64MiB"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_unit_and_within_bounds() {
        assert_eq!(size("64KiB"), Ok(65_536));
        assert_eq!(size("64MiB"), Ok(64 << 20));
        assert_eq!(size("1024GiB"), Ok(1 << 40));
        for text in ["63KiB", "1025GiB"] {
            assert!(size(text).unwrap_err().contains("64KiB to 1024GiB"));
        }
        for text in [
            "",
            "64",
            "64MB",
            "-1MiB",
            "1.5GiB",
            "99999999999999999999GiB",
            "MiB",
        ] {
            assert!(size(text).unwrap_err().contains("like 64MiB"), "{text}");
        }
    }

    #[test]
    fn only_a_log_that_fails_refuses_and_only_where_it_should() {
        assert_eq!(OnFull::default().log(false), AuditLog::Full);
        assert_eq!(OnFull::default().log(true), AuditLog::Writable);
        assert_eq!(OnFull::Continue.log(false), AuditLog::Writable);
    }

    #[test]
    fn what_is_left_out_is_as_the_log_has_it() {
        let (usual, options) = (Options::new("x"), Audit::default().options("x".into()));
        assert_eq!(
            (
                options.queue,
                options.max_segment,
                options.keep_segments,
                options.keep_for
            ),
            (
                usual.queue,
                usual.max_segment,
                usual.keep_segments,
                usual.keep_for
            )
        );
        // The guide says these.
        assert_eq!((usual.queue.get(), usual.max_segment), (65_536, 64 << 20));
        assert_eq!((usual.keep_segments, usual.keep_for), (None, None));
    }
}
