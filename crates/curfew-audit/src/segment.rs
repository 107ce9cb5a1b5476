//! The files of a log: segments named by their first record, the heads beside them, the anchor of what was removed.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use crate::{AuditError, Head, MAX_RECORD, Record, record, whole};

/// Signed heads, one a line, the oldest first.
pub(crate) const HEADS: &str = "heads.jsonl";
/// The newest signed head, in one line.
pub(crate) const NEWEST: &str = "newest.json";
/// How much of a segment's end is read at first: the last record is within it.
const WINDOW: u64 = 2 * MAX_RECORD as u64;
/// How often a head is read again that is just being written.
const AGAIN: u32 = 3;
/// The signed head of the last record that retention removed.
pub(crate) const ANCHOR: &str = "anchor.json";

/// The file of the segment whose first record is `seq`.
pub(crate) fn path_of(dir: &Path, seq: u64) -> PathBuf {
    dir.join(format!("{seq:020}.jsonl"))
}

/// How many segments there are.
pub(crate) fn count(dir: &Path) -> Result<u64, AuditError> {
    Ok(u64::try_from(list(dir)?.len()).unwrap_or(u64::MAX))
}

/// Every segment with its first sequence number, the oldest first.
pub(crate) fn list(dir: &Path) -> Result<Vec<(u64, PathBuf)>, AuditError> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).map_err(AuditError::io("list", dir))? {
        let path = entry.map_err(AuditError::io("list", dir))?.path();
        let seq = path
            .file_name()
            .and_then(|name| name.to_str())
            .and_then(|name| name.strip_suffix(".jsonl"))
            .filter(|digits| digits.len() == 20)
            .and_then(|digits| digits.parse().ok());
        if let Some(seq) = seq {
            found.push((seq, path));
        }
    }
    found.sort();
    Ok(found)
}

/// Whether a directory holds an audit log, or what is left of one.
///
/// # Errors
/// [`AuditError`] when it cannot be read.
pub fn is_log(dir: &Path) -> Result<bool, AuditError> {
    let left = [HEADS, NEWEST, ANCHOR]
        .iter()
        .any(|name| dir.join(name).exists());
    Ok(left || !list(dir)?.is_empty())
}

/// Has retention remove nothing for as long as the answer lives. Waits while it removes something.
pub(crate) fn keep_all(dir: &Path) -> Result<File, AuditError> {
    lock_names(dir, FlockOperation::LockShared)
}

/// Lets nobody read the log as a whole for as long as the answer lives; none while somebody does.
pub(crate) fn remove_some(dir: &Path) -> Option<File> {
    lock_names(dir, FlockOperation::NonBlockingLockExclusive).ok()
}

fn lock_names(dir: &Path, how: FlockOperation) -> Result<File, AuditError> {
    let names = File::open(dir).map_err(AuditError::io("open", dir))?;
    let locked = flock(&names, how).map_err(std::io::Error::from);
    locked.map_err(AuditError::io("lock", dir))?;
    Ok(names)
}

/// Makes names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<(), AuditError> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .map_err(AuditError::io("sync", dir))
}

/// The last record of a segment, read from its end; none when there is no whole readable one.
pub(crate) fn last_record(path: &Path) -> Result<Option<Record>, AuditError> {
    let (mut file, len) = open(path)?;
    let bytes = end(&mut file, len, WINDOW).map_err(AuditError::io("read", path))?;
    let last = bytes
        .strip_suffix(b"\n")
        .and_then(|bytes| bytes.rsplit(|&byte| byte == b'\n').next());
    Ok(last.and_then(|line| record::read_line(line).ok()))
}

/// The last `count` whole lines of a segment, the oldest first, each without its newline: as reading it from its start
/// gives them, but read from its end.
pub(crate) fn last_lines(path: &Path, count: usize) -> Result<Vec<String>, AuditError> {
    let (mut file, len) = open(path)?;
    let mut window = WINDOW;
    loop {
        let mut bytes = end(&mut file, len, window).map_err(AuditError::io("read", path))?;
        let newline = bytes.iter().rposition(|&byte| byte == b'\n');
        bytes.truncate(newline.map_or(0, |at| at + 1));
        let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
        // The first one may have begun before the window.
        if window < len && lines.len() <= count {
            window *= 2;
            continue;
        }
        let last = lines.iter().skip(lines.len().saturating_sub(count));
        return Ok(last
            .filter_map(|line| line.chunks(MAX_RECORD).next_back()?.strip_suffix(b"\n"))
            .map(|line| String::from_utf8_lossy(line).into_owned())
            .collect());
    }
}

fn open(path: &Path) -> Result<(File, u64), AuditError> {
    let file = File::open(path).map_err(AuditError::io("open", path))?;
    let len = file.metadata().map_err(AuditError::io("read", path))?.len();
    Ok((file, len))
}

/// The last `window` bytes of a file that is `len` long.
fn end(file: &mut File, len: u64, window: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(len.saturating_sub(window)))?;
    file.take(window.min(len)).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Appends a head and makes it durable.
pub(crate) fn append_head(dir: &Path, head: &Head) -> Result<(), AuditError> {
    repair_heads(dir)?;
    let path = dir.join(HEADS);
    let new = !path.exists();
    let mut file = OpenOptions::new()
        .append(true)
        .create(true)
        .open(&path)
        .map_err(AuditError::io("open", &path))?;
    file.write_all(format!("{head}\n").as_bytes())
        .and_then(|()| file.sync_data())
        .map_err(AuditError::io("write", &path))?;
    if new { sync_dir(dir) } else { Ok(()) }
}

/// Replaces a small file at once, durably.
pub(crate) fn replace(dir: &Path, name: &str, text: &str) -> Result<(), AuditError> {
    whole::replace(dir, name, text).map_err(AuditError::io("replace", &dir.join(name)))
}

/// A small file as text; empty when it does not exist.
pub(crate) fn read_small(dir: &Path, name: &str) -> Result<String, AuditError> {
    let path = dir.join(name);
    match fs::read(&path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(error) => Err(AuditError::io("read", &path)(error)),
    }
}

/// Writes the newest head over the one before. It is not waited for: after a crash an older one may be there.
pub(crate) fn put_newest(dir: &Path, head: &Head) -> Result<(), AuditError> {
    let path = dir.join(NEWEST);
    let line = format!("{head}\n");
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .and_then(|file| {
            file.write_all_at(line.as_bytes(), 0)?;
            file.set_len(u64::try_from(line.len()).unwrap_or(u64::MAX))
        })
        .map_err(AuditError::io("write", &path))
}

/// The newest head as it stands there; empty when there is none.
pub(crate) fn read_newest(dir: &Path) -> Result<String, AuditError> {
    let mut text = read_small(dir, NEWEST)?;
    for _ in 0..AGAIN {
        if text.is_empty() || text.parse().is_ok_and(|head: Head| head.is_signed()) {
            break;
        }
        text = read_small(dir, NEWEST)?;
    }
    Ok(text)
}

/// Brings the heads file back to whole lines after a crash or a full disk.
fn repair_heads(dir: &Path) -> Result<(), AuditError> {
    let text = read_small(dir, HEADS)?;
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    match text.split_at_checked(whole) {
        Some((kept, torn)) if !torn.is_empty() => replace(dir, HEADS, kept),
        _ => Ok(()),
    }
}
