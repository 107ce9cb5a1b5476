//! Reading a log for people and for export: whole lines in order and the newest head, without checking the chain.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead, BufReader, Read as _},
    path::{Path, PathBuf},
};

use crate::{AuditError, Head, MAX_RECORD, Problem, segment};

/// The lines of a log, oldest first, each without its newline. A torn last line is left out.
#[derive(Debug)]
pub struct Lines {
    segments: VecDeque<PathBuf>,
    open: Option<(PathBuf, BufReader<File>)>,
}

impl Iterator for Lines {
    type Item = Result<String, AuditError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let (path, reader) = match &mut self.open {
                Some(open) => open,
                None => {
                    let path = self.segments.pop_front()?;
                    match File::open(&path).map_err(AuditError::io("open", &path)) {
                        Ok(file) => self.open.insert((path, BufReader::new(file))),
                        Err(error) => return Some(Err(error)),
                    }
                }
            };
            match next_line(reader).map_err(AuditError::io("read", path)) {
                Ok(Some(line)) => {
                    if let Some(whole) = line.strip_suffix(b"\n") {
                        return Some(Ok(String::from_utf8_lossy(whole).into_owned()));
                    }
                }
                Ok(None) => self.open = None,
                Err(error) => {
                    self.open = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

/// One line with its newline, cut into pieces of at most [`MAX_RECORD`] bytes; none at the end.
pub(crate) fn next_line(reader: &mut BufReader<File>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let limit = u64::try_from(MAX_RECORD).unwrap_or(u64::MAX);
    reader.by_ref().take(limit).read_until(b'\n', &mut line)?;
    Ok(if line.is_empty() { None } else { Some(line) })
}

/// Every line from record `from` on. Starts at the segment that holds it, so a few earlier ones are skipped by count.
///
/// # Errors
/// [`AuditError`] when the directory cannot be listed; reading errors come as items.
pub fn export(
    dir: &Path,
    from: u64,
) -> Result<impl Iterator<Item = Result<String, AuditError>> + use<>, AuditError> {
    let segments = segment::list(dir)?;
    let start = segments
        .partition_point(|(first, _)| *first <= from)
        .saturating_sub(1);
    let first = segments.get(start).map_or(from, |(first, _)| *first);
    let lines = Lines {
        segments: segments
            .into_iter()
            .skip(start)
            .map(|(_, path)| path)
            .collect(),
        open: None,
    };
    let skip = usize::try_from(from.saturating_sub(first)).unwrap_or(usize::MAX);
    Ok(lines.skip(skip))
}

/// The last `count` lines, oldest first.
///
/// # Errors
/// [`AuditError`] when the log cannot be read.
pub fn tail(dir: &Path, count: usize) -> Result<Vec<String>, AuditError> {
    let mut found: Vec<String> = Vec::new();
    for (_, path) in segment::list(dir)?.into_iter().rev() {
        let missing = count.saturating_sub(found.len());
        if missing == 0 {
            break;
        }
        let mut here = match segment::last_lines(&path, missing) {
            // Retention removed it since, and with it whatever is older.
            Err(error) if error.is_not_found() => break,
            here => here?,
        };
        here.append(&mut found);
        found = here;
    }
    Ok(found)
}

/// The newest head that was signed beside a log; none where none was.
///
/// # Errors
/// [`AuditError`] when the heads cannot be read, or the newest is no signed head.
pub fn newest_head(dir: &Path) -> Result<Option<Head>, AuditError> {
    let text = segment::read_small(dir, segment::HEADS)?;
    // A torn last line is left out.
    let (whole, _) = text.rsplit_once('\n').unwrap_or_default();
    let Some((number, line)) = (1..).zip(whole.lines()).last() else {
        return Ok(None);
    };
    let damaged = |problem: String| AuditError::Damaged {
        path: dir.join(segment::HEADS),
        line: number,
        problem,
    };
    let head: Head = line
        .parse()
        .map_err(|error: AuditError| damaged(error.to_string()))?;
    if !head.is_signed() {
        return Err(damaged(Problem::BadSignature.to_string()));
    }
    let newest = segment::read_newest(dir)?.parse::<Head>().ok();
    let newest = newest
        .filter(|newest| newest.is_signed() && newest.key == head.key && newest.seq > head.seq);
    Ok(Some(newest.unwrap_or(head)))
}
