//! The writing side of the files: opening and recovering a log, committing a batch, rotation and retention.
//!
//! One thread owns it. Queues and waiting are in `writer.rs`.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use curfew_model::WallInstant;
use ed25519_dalek::SigningKey;

use crate::{
    AuditError, Digest, Entry, Head, LogEvent, Options, Problem, Record,
    carried::{Line, OpenSessions},
    head::{self, Purpose},
    record::{self, FRAME, LineError},
    segment,
};

/// What is kept for those who read the log as a whole while there is more to remove: so many segments, and so many bytes
/// where those are small. They cannot fill the disk.
const PUT_OFF: (u64, u64) = (8, 64 << 20);

/// The open segment, and the place reached on disk.
#[derive(Debug)]
pub(crate) struct Files {
    options: Options,
    key: SigningKey,
    /// None between a rotation and the next record.
    file: Option<(File, PathBuf)>,
    /// Segments on disk.
    pub(crate) segments: u64,
    /// Bytes of the open segment that are known to be on disk.
    len: u64,
    /// A write failed: bytes after `len` have to go first.
    dirty: bool,
    /// The last record on disk.
    pub(crate) seq: u64,
    /// Its hash.
    pub(crate) hash: Digest,
    /// The latest time on record.
    at: WallInstant,
    /// The log's own records, for the next batch.
    own: Vec<Line>,
    /// Bytes that were written since somebody who verifies the log kept anything from being removed.
    put_off: u64,
    /// Of segments that are full, by their first record: the time of their last.
    last_times: BTreeMap<u64, WallInstant>,
    open: Arc<OpenSessions>,
    /// Holds the lock for as long as the log is open.
    _lock: File,
}

impl Files {
    /// Opens or makes the log, cuts off a torn last line, and signs the place reached.
    pub(crate) fn open(options: Options, now: WallInstant) -> Result<Self, AuditError> {
        let dir = options.dir.clone();
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir)
            .map_err(AuditError::io("create", &dir))?;
        let lock = lock(&dir)?;
        let heads = segment::read_small(&dir, segment::HEADS)?;
        let key_path = dir.join(head::KEY);
        if !heads.is_empty() && !key_path.exists() {
            return Err(AuditError::NoKey { path: key_path });
        }
        let key = head::load_or_make_key(&dir)?;
        let last_head = heads
            .lines()
            .filter_map(|line| line.parse::<Head>().ok())
            .next_back();
        let newest = segment::read_newest(&dir)?.parse::<Head>().ok();
        let lines = u64::try_from(heads.lines().count()).unwrap_or(u64::MAX);
        let of_lines = last_head.map(|head| (segment::HEADS, lines, head));
        let found: Vec<_> = of_lines
            .into_iter()
            .chain(newest.map(|head| (segment::NEWEST, 1, head)))
            .collect();
        let damaged = |(file, line): (&str, u64), problem: String| AuditError::Damaged {
            path: dir.join(file),
            line,
            problem,
        };
        let own = key.verifying_key().to_bytes();
        if let Some((file, line, _)) = found.iter().find(|(.., head)| head.key.0 != own) {
            let problem = "the log was signed by another key than audit.key";
            return Err(damaged((file, *line), problem.to_owned()));
        }
        let signed = found.iter().map(|(.., head)| head);
        let signed = signed.filter(|head| head.is_signed());
        let signed = signed.max_by_key(|head| head.seq);
        let mut files = Self {
            options,
            key,
            file: None,
            segments: 0,
            len: 0,
            dirty: false,
            seq: 0,
            hash: Digest::GENESIS,
            at: now,
            own: Vec::new(),
            put_off: 0,
            last_times: BTreeMap::new(),
            open: Arc::default(),
            _lock: lock,
        };
        files.recover(signed)?;
        files.count();
        if let Some((file, line, head)) = found.iter().find(|(.., head)| head.seq > files.seq) {
            let problem = format!(
                "a signed head names record {}, but the log ends with record {}",
                head.seq, files.seq
            );
            return Err(damaged((file, *line), problem));
        }
        let after = signed.map_or(0, |head| head.seq);
        if after < files.seq {
            let unsigned = Entry::of_log(files.at, LogEvent::Unsigned);
            let unsigned = unsigned.count("after", after).count("through", files.seq);
            files.own.extend(Line::of(&unsigned));
        }
        if !files.own.is_empty() {
            files.commit(&[])?;
        }
        segment::append_head(&dir, &files.head(now))?;
        files.sign_newest()?;
        Ok(files)
    }

    /// Finds the end of the log, which has to hold what the newest signed head names.
    fn recover(&mut self, signed: Option<&Head>) -> Result<(), AuditError> {
        let dir = self.options.dir.clone();
        let anchor = segment::read_small(&dir, segment::ANCHOR)?;
        if !anchor.is_empty() {
            let key = self.key.verifying_key().to_bytes();
            let anchor = anchor
                .parse::<Head>()
                .ok()
                .filter(|anchor| anchor.key.0 == key && anchor.is_signed_as(Purpose::Anchor))
                .ok_or_else(|| AuditError::Damaged {
                    path: dir.join(segment::ANCHOR),
                    line: 1,
                    problem: "this is not an anchor signed with audit.key".to_owned(),
                })?;
            remove_through(&dir, anchor.seq)?;
            (self.seq, self.hash) = (anchor.seq, anchor.hash);
        }
        let is_rewritten = |record: &Record| {
            signed.is_some_and(|head| head.seq == record.seq && head.hash != record.hash)
        };
        let mut segments = segment::list(&dir)?;
        let Some((first, path)) = segments.pop() else {
            return Ok(());
        };
        if let Some((_, before)) = segments.last() {
            let damaged = |problem: &str| AuditError::Damaged {
                path: before.clone(),
                line: 0,
                problem: problem.to_owned(),
            };
            let record = segment::last_record(before)?
                .ok_or_else(|| damaged("the last record of this segment cannot be read"))?;
            if is_rewritten(&record) {
                return Err(damaged(&Problem::Rewritten(record.seq).to_string()));
            }
            (self.seq, self.hash) = (record.seq, record.hash);
        }
        let bytes = fs::read(&path).map_err(AuditError::io("read", &path))?;
        let whole = bytes
            .iter()
            .rposition(|&byte| byte == b'\n')
            .map_or(0, |end| end + 1);
        let (kept, torn) = bytes.split_at_checked(whole).unwrap_or((&bytes, &[]));
        let (mut number, mut latest) = (0, WallInstant(i64::MIN));
        for line in kept.split_inclusive(|&byte| byte == b'\n') {
            number += 1;
            let line = line.strip_suffix(b"\n").unwrap_or(line);
            let damaged = |problem: String| AuditError::Damaged {
                path: path.clone(),
                line: number,
                problem,
            };
            let record = record::read_line(line).map_err(|error| {
                damaged(match error {
                    LineError::Malformed(text) => text,
                    LineError::Altered => "the record was altered".to_owned(),
                })
            })?;
            if record.seq != self.seq + 1 || record.prev != self.hash {
                return Err(damaged(format!(
                    "record {} does not follow record {}",
                    record.seq, self.seq
                )));
            }
            if is_rewritten(&record) {
                return Err(damaged(Problem::Rewritten(record.seq).to_string()));
            }
            (self.seq, self.hash) = (record.seq, record.hash);
            let (event, at) = (record.entry.event, record.entry.at);
            latest = event.latest(latest, at);
        }
        self.at = self.at.max(latest);
        if number == 0 && first != self.seq + 1 {
            return Err(AuditError::Damaged {
                path,
                line: 1,
                problem: format!(
                    "the segment is empty and does not follow record {}",
                    self.seq
                ),
            });
        }
        let file = OpenOptions::new()
            .append(true)
            .open(&path)
            .map_err(AuditError::io("open", &path))?;
        self.len = u64::try_from(whole).unwrap_or(u64::MAX);
        if !torn.is_empty() {
            file.set_len(self.len)
                .map_err(AuditError::io("cut the torn end of", &path))?;
            let recovered = Entry::of_log(self.at, LogEvent::Recovered)
                .count("cut_bytes", torn.len())
                .with("cut_sha256", Digest::of(torn));
            self.own.extend(Line::of(&recovered));
        }
        // What a killed process wrote may not be on disk yet, and the head names it.
        file.sync_data().map_err(AuditError::io("sync", &path))?;
        self.file = Some((file, path));
        Ok(())
    }

    /// Signs the place reached beside the log, so that records are without a signature for a moment only.
    ///
    /// # Errors
    /// The system's: the records are on disk all the same.
    pub(crate) fn sign_newest(&self) -> Result<(), AuditError> {
        segment::put_newest(&self.options.dir, &self.head(self.at))
    }

    /// The signed place reached on disk.
    pub(crate) fn head(&self, at: WallInstant) -> Head {
        Head::sign(&self.key, Purpose::Head, self.seq, self.hash, at)
    }

    /// The key, to sign heads elsewhere.
    pub(crate) fn key(&self) -> SigningKey {
        self.key.clone()
    }

    /// The sessions that it tells of as open.
    pub(crate) fn open_sessions(&self) -> Arc<OpenSessions> {
        Arc::clone(&self.open)
    }

    /// Whether records of the log's own wait for a batch.
    pub(crate) fn has_own(&self) -> bool {
        !self.own.is_empty()
    }

    /// Writes records and returns when they are on disk. On an error nothing of the batch counts as written, and the same
    /// batch may be tried again.
    pub(crate) fn commit(&mut self, batch: &[Line]) -> Result<(), AuditError> {
        let (mut seq, mut hash, mut at) = (self.seq, self.hash, self.at);
        let mut bytes = Vec::new();
        for line in self.own.iter().chain(batch) {
            seq += 1;
            at = line.event.latest(at, line.at);
            hash = record::write_line(&mut bytes, seq, &line.json, hash);
        }
        self.leave_if_gone()?;
        let path = segment::path_of(&self.options.dir, self.seq + 1);
        let mut began = false;
        let (file, path) = match &mut self.file {
            Some(open) => open,
            None => {
                let file = OpenOptions::new()
                    .append(true)
                    .create(true)
                    .open(&path)
                    .map_err(AuditError::io("create", &path))?;
                segment::sync_dir(&self.options.dir)?;
                (self.len, self.dirty) = (0, true);
                began = true;
                self.file.insert((file, path))
            }
        };
        if self.dirty {
            file.set_len(self.len)
                .map_err(AuditError::io("cut a failed write from", path))?;
        }
        self.dirty = true;
        file.write_all(&bytes)
            .and_then(|()| file.sync_data())
            .map_err(AuditError::io("write", path))?;
        self.dirty = false;
        self.len += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let lines = self.own.iter().chain(batch);
        self.open.written(self.seq + 1, lines.map(|line| line.mark));
        (self.seq, self.hash, self.at) = (seq, hash, at);
        self.own.clear();
        if began {
            self.count();
        }
        Ok(())
    }

    /// Counts the segments; a log that cannot be listed keeps its records all the same.
    fn count(&mut self) {
        if let Ok(count) = segment::count(&self.options.dir) {
            self.segments = count;
        }
    }

    /// Leaves a segment that somebody removed or moved away: what was written to it would be gone with it, acknowledged. A
    /// signed head says what is missing.
    fn leave_if_gone(&mut self) -> Result<(), AuditError> {
        let Some((file, path)) = &self.file else {
            return Ok(());
        };
        let open = file.metadata().map_err(AuditError::io("read", path))?;
        let there = fs::metadata(path).ok();
        let same = there.is_some_and(|it| (it.dev(), it.ino()) == (open.dev(), open.ino()));
        if !same {
            segment::append_head(&self.options.dir, &self.head(self.at))?;
            self.file = None;
        }
        Ok(())
    }

    /// Starts a new segment if the open one is full, and removes what need not be kept.
    pub(crate) fn rotate_if_full(&mut self) -> Result<(), AuditError> {
        if self.file.is_none() || self.len < self.options.max_segment {
            return Ok(());
        }
        segment::append_head(&self.options.dir, &self.head(self.at))?;
        self.file = None;
        self.prune()
    }

    /// Signs the place reached; the last act of a log.
    pub(crate) fn finish(&self) -> Result<(), AuditError> {
        segment::append_head(&self.options.dir, &self.head(self.at))
    }

    /// Removes the oldest segments: all but `keep_segments`, and those whose last record is older than `keep_for`. What
    /// they tell of open sessions is on disk once more, and then the anchor, before the first file goes.
    fn prune(&mut self) -> Result<(), AuditError> {
        let alone = segment::remove_some(&self.options.dir);
        let (segments, bytes) = PUT_OFF;
        if alone.is_none() && self.put_off < bytes.max(segments * self.options.max_segment) {
            self.put_off += self.len;
            return Ok(());
        }
        self.put_off = 0;
        let (Some(record), carried) = self.removable()? else {
            return Ok(());
        };
        if !carried.is_empty() {
            self.own.extend(carried);
            self.commit(&[])?;
        }
        let dir = &self.options.dir;
        let anchor = Head::sign(&self.key, Purpose::Anchor, record.seq, record.hash, self.at);
        segment::replace(dir, segment::ANCHOR, &format!("{anchor}\n"))?;
        let pruned = Entry::of_log(self.at, LogEvent::Pruned).count("through", record.seq);
        self.own.extend(Line::of(&pruned));
        let heads = segment::read_small(dir, segment::HEADS)?;
        let kept: String = heads
            .split_inclusive('\n')
            .filter(|line| {
                line.parse::<Head>()
                    .is_ok_and(|head| head.seq >= record.seq)
            })
            .collect();
        segment::replace(dir, segment::HEADS, &kept)?;
        remove_through(dir, record.seq)?;
        self.count();
        Ok(())
    }

    /// How old the last record of each segment is, the oldest first. A clock that was wrong ahead for a while makes nothing
    /// old, and keeps nothing young: time is that of the two newest segments at least, and no record is later than one
    /// behind it.
    fn ages(&mut self, segments: &[(u64, PathBuf)]) -> Result<Vec<Duration>, AuditError> {
        let known = std::mem::take(&mut self.last_times);
        let mut times = Vec::with_capacity(segments.len());
        let mut latest = WallInstant(i64::MAX);
        for (first, path) in segments.iter().rev() {
            let last = match known.get(first) {
                Some(at) => Some(*at),
                None => segment::last_record(path)?.map(|last| last.entry.at),
            };
            if let Some(at) = last {
                self.last_times.insert(*first, at);
                latest = latest.min(at);
            }
            times.push(latest);
        }
        let now = times.get(1).or(times.first()).copied();
        let age = |time: &WallInstant| now.map_or(Duration::ZERO, |now| now.since(*time));
        Ok(times.iter().rev().map(age).collect())
    }

    /// The last record that retention removes, and what has to be carried over. What would fill more than half of a
    /// segment is not carried: its segment stays until the sessions that it tells of have ended.
    fn removable(&mut self) -> Result<(Option<Record>, Vec<Line>), AuditError> {
        let segments = segment::list(&self.options.dir)?;
        let over = self
            .options
            .keep_segments
            .map_or(0, |keep| segments.len().saturating_sub(keep.get()));
        let ages = match self.options.keep_for {
            Some(_) => self.ages(&segments)?,
            None => Vec::new(),
        };
        let mut room = usize::try_from(self.options.max_segment / 2).unwrap_or(usize::MAX);
        let (mut last, mut all) = (None, Vec::new());
        for (index, (first, path)) in segments.iter().enumerate() {
            let Some(record) = segment::last_record(path)? else {
                break;
            };
            let old = ages.get(index).zip(self.options.keep_for);
            let old = old.is_some_and(|(age, keep)| *age > keep);
            // Never the whole log: its last record stays readable.
            if (index >= over && !old) || record.seq >= self.seq {
                break;
            }
            let carried = self.open.carried(path, *first..=record.seq, self.at)?;
            let Some(carried) = carried else { break };
            let lines: Vec<Line> = carried.iter().filter_map(Line::of).collect();
            let bytes: usize = lines.iter().map(|line| line.json.len() + FRAME).sum();
            let Some(left) = room.checked_sub(bytes) else {
                break;
            };
            room = left;
            all.extend(lines);
            last = Some(record);
        }
        Ok((last, all))
    }
}

/// Removes the segments that hold only records up to `through`.
fn remove_through(dir: &Path, through: u64) -> Result<(), AuditError> {
    let segments = segment::list(dir)?;
    for ((_, path), (next, _)) in segments.iter().zip(segments.iter().skip(1)) {
        if *next > through.saturating_add(1) {
            break;
        }
        fs::remove_file(path).map_err(AuditError::io("remove", path))?;
    }
    segment::sync_dir(dir)
}

fn lock(dir: &Path) -> Result<File, AuditError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(AuditError::io("open", &path))?;
    if is_locked_soon(&file) {
        Ok(file)
    } else {
        Err(AuditError::Locked { path })
    }
}

/// Takes the lock, or waits a second for a holder that is just ending: a process between fork and exec holds copies.
fn is_locked_soon(file: &File) -> bool {
    (0..100).any(|_| {
        let taken = rustix::fs::flock(file, rustix::fs::FlockOperation::NonBlockingLockExclusive);
        if taken.is_err() {
            std::thread::park_timeout(Duration::from_millis(10));
        }
        taken.is_ok()
    })
}
