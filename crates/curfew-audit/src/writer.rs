//! The handle that others append with, and the one thread that writes: a bounded queue, group commit, waiting.
//!
//! A full queue or disk never makes `append` wait: the record is counted as lost, and the log records the gap.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroUsize,
    path::PathBuf,
    sync::Arc,
    thread::JoinHandle,
    time::Duration,
};

use curfew_model::{SessionId, WallInstant};
use ed25519_dalek::SigningKey;
use parking_lot::{Condvar, Mutex};

use crate::{
    AppendError, AuditError, Digest, DurableError, Entry, Head, LogEvent, MAX_RECORD,
    carried::{Line, Mark, OpenSessions},
    files::Files,
    head::Purpose,
};

/// Records written with one fdatasync, at most.
const BATCH: usize = 1024;
/// Bytes that wait in the queue, at most.
const QUEUE_BYTES: usize = 64 * 1024 * 1024;
/// After the disk refused, the next try comes this much later.
const RETRY: Duration = Duration::from_millis(500);

/// Where a log is, and how much of it is kept.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; made if it does not exist.
    pub dir: PathBuf,
    /// Records that may wait for the disk.
    pub queue: NonZeroUsize,
    /// Bytes after which a new segment starts.
    pub max_segment: u64,
    /// Segments that are kept; none for all.
    pub keep_segments: Option<NonZeroUsize>,
    /// How long a segment is kept after its last record; none for ever.
    pub keep_for: Option<Duration>,
}

impl Options {
    /// 65,536 records in the queue, segments of 64 MiB, everything kept.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            queue: NonZeroUsize::MIN.saturating_add(65_535),
            max_segment: 64 * 1024 * 1024,
            keep_segments: None,
            keep_for: None,
        }
    }
}

/// One accepted record, in the order of acceptance; what [`Log::durable`] waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

/// How the log is. What `onFull` decides on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// No more records are taken: the queue is full.
    pub full: bool,
    /// What the disk said at the last try; none when it took everything.
    pub error: Option<String>,
    /// Records that wait for the disk.
    pub waiting: u64,
    /// Records lost since the log was opened.
    pub lost: u64,
    /// The last record on disk.
    pub seq: u64,
    /// Files on disk: more than retention keeps where they tell of very many open sessions.
    pub segments: u64,
}

impl Health {
    /// Whether every record finds its way to the disk: what `onFull: refuse-new` looks at.
    #[must_use]
    pub fn keeps_records(&self) -> bool {
        !self.full && self.error.is_none()
    }
}

type Callback = Box<dyn FnOnce(Result<(), DurableError>) + Send>;
type Watcher = Box<dyn Fn(bool) + Send>;

#[derive(Default)]
struct State {
    queue: VecDeque<Line>,
    queued_bytes: usize,
    accepted: u64,
    durable: u64,
    /// Lost and not yet recorded, with the time of the last.
    gap: Option<(u64, WallInstant)>,
    lost: u64,
    error: Option<String>,
    seq: u64,
    hash: Option<Digest>,
    segments: u64,
    waiting: BTreeMap<u64, Vec<Callback>>,
    closing: bool,
    closed: bool,
    watcher: Option<Watcher>,
    /// What the watcher knows.
    failing: bool,
}

impl State {
    /// As [`Health::keeps_records`].
    fn keeps_records(&self, capacity: usize) -> bool {
        !is_full(self, capacity) && self.error.is_none()
    }

    /// Tells the watcher if that is another now: after every change of it, before the lock is let go.
    fn tell(&mut self, capacity: usize) {
        let keeps = self.keeps_records(capacity);
        if self.failing == keeps {
            self.failing = !keeps;
            self.watcher.iter().for_each(|watcher| watcher(keeps));
        }
    }
}

struct Shared {
    state: Mutex<State>,
    capacity: usize,
    work: Condvar,
    done: Condvar,
    open: Arc<OpenSessions>,
}

/// An open log. Dropping it closes it.
pub struct Log {
    shared: Arc<Shared>,
    key: SigningKey,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("health", &self.health())
            .finish()
    }
}

impl Log {
    /// Opens or makes a log. A line torn by a crash is cut off, and that is recorded.
    ///
    /// # Errors
    /// [`AuditError`] when the directory, the lock, the key or the end of the log is not usable.
    pub fn open(options: Options, now: WallInstant) -> Result<Self, AuditError> {
        let capacity = options.queue.get();
        let dir = options.dir.clone();
        let files = Files::open(options, now)?;
        let key = files.key();
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                seq: files.seq,
                hash: Some(files.hash),
                segments: files.segments,
                ..State::default()
            }),
            capacity,
            work: Condvar::new(),
            done: Condvar::new(),
            open: files.open_sessions(),
        });
        let thread = std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write(&shared, files)
            })
            .map_err(AuditError::io("start the thread for", &dir))?;
        Ok(Self {
            shared,
            key,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// Hands a record to the writer. Never waits for the disk.
    ///
    /// # Errors
    /// [`AppendError`] when the record was not taken; then it counts as lost.
    pub fn append(&self, entry: &Entry) -> Result<Ticket, AppendError> {
        let line = Line::of(entry).filter(|line| line.json.len() <= MAX_RECORD - 256);
        let mut state = self.shared.state.lock();
        let refused = match &line {
            _ if state.closing || state.closed => Some(AppendError::Closed),
            None => Some(AppendError::TooLong),
            Some(_) if is_full(&state, self.shared.capacity) => Some(AppendError::Full),
            Some(_) => None,
        };
        match (refused, line) {
            (None, Some(line)) => {
                state.queued_bytes += line.json.len();
                self.shared.open.accepted(line.mark);
                state.queue.push_back(line);
                state.accepted += 1;
                state.tell(self.shared.capacity);
                self.shared.work.notify_one();
                Ok(Ticket(state.accepted))
            }
            (refused, _) => {
                self.shared.open.lost(Mark::of(entry));
                state.lost += 1;
                let gap = state.gap.map_or(0, |(lost, _)| lost);
                state.gap = Some((gap + 1, entry.at));
                self.shared.work.notify_one();
                Err(refused.unwrap_or(AppendError::TooLong))
            }
        }
    }

    /// Takes note that the record `seq`, of an earlier process, tells of a session whose end is not on record: until it is,
    /// retention does not lose sight of it.
    pub fn tells_of(&self, session: SessionId, seq: u64) {
        self.shared.open.told(session, seq);
    }

    /// Waits until a record is on disk, at most for `timeout`.
    ///
    /// # Errors
    /// [`DurableError`] when it is not known to be there.
    pub fn durable(&self, ticket: Ticket, timeout: Duration) -> Result<(), DurableError> {
        let mut state = self.shared.state.lock();
        let timed_out = self
            .shared
            .done
            .wait_while_for(
                &mut state,
                |state| state.durable < ticket.0 && !state.closed,
                timeout,
            )
            .timed_out();
        match () {
            () if state.durable >= ticket.0 => Ok(()),
            () if timed_out => Err(DurableError::TimedOut),
            () => Err(DurableError::Closed),
        }
    }

    /// Calls `then` once when the record is on disk, or the log closed before. It runs on the writer's thread, or at
    /// once on this one, and has to be short.
    pub fn when_durable(
        &self,
        ticket: Ticket,
        then: impl FnOnce(Result<(), DurableError>) + Send + 'static,
    ) {
        let mut state = self.shared.state.lock();
        if state.durable < ticket.0 && !state.closed {
            state
                .waiting
                .entry(ticket.0)
                .or_default()
                .push(Box::new(then));
            return;
        }
        let result = if state.durable >= ticket.0 {
            Ok(())
        } else {
            Err(DurableError::Closed)
        };
        drop(state);
        then(result);
    }

    /// Has `watcher` told at once, and in order, whenever [`Health::keeps_records`] becomes another; first of how it is
    /// now. It runs on whatever thread changes it, with the log locked: it has to be short, and may not call the log.
    pub fn watch(&self, watcher: impl Fn(bool) + Send + 'static) {
        let mut state = self.shared.state.lock();
        watcher(state.keeps_records(self.shared.capacity));
        state.watcher = Some(Box::new(watcher));
    }

    /// Lets go of the watcher.
    pub fn unwatch(&self) {
        self.shared.state.lock().watcher = None;
    }

    /// How the log is.
    #[must_use]
    pub fn health(&self) -> Health {
        let state = self.shared.state.lock();
        Health {
            full: is_full(&state, self.shared.capacity),
            error: state.error.clone(),
            waiting: state.accepted - state.durable,
            lost: state.lost,
            seq: state.seq,
            segments: state.segments,
        }
    }

    /// Writes what waits, signs a last head and ends the thread; from here on no record is taken.
    pub fn close(&self) {
        self.shared.state.lock().closing = true;
        self.shared.work.notify_all();
        if let Some(thread) = self.thread.lock().take() {
            // A panic of the writer shows as `closed`; there is nobody to hand it to here.
            let _ = thread.join();
        }
    }

    /// Signs the place reached on disk, to print or export.
    #[must_use]
    pub fn head(&self, at: WallInstant) -> Head {
        let (seq, hash) = {
            let state = self.shared.state.lock();
            (state.seq, state.hash.unwrap_or(Digest::GENESIS))
        };
        Head::sign(&self.key, Purpose::Head, seq, hash, at)
    }
}

fn is_full(state: &State, capacity: usize) -> bool {
    state.queue.len() >= capacity || state.queued_bytes >= QUEUE_BYTES
}

impl Drop for Log {
    fn drop(&mut self) {
        self.close();
    }
}

/// Marks the log closed however the writer ends, so that nobody waits for ever.
struct Closed<'a>(&'a Shared);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        let waiting = {
            let mut state = self.0.state.lock();
            state.closed = true;
            if std::thread::panicking() {
                let ended = "the thread that writes has ended: start the process anew";
                state.error = Some(ended.to_owned());
                state.tell(self.0.capacity);
            }
            std::mem::take(&mut state.waiting)
        };
        self.0.done.notify_all();
        for callback in waiting.into_values().flatten() {
            callback(Err(DurableError::Closed));
        }
    }
}

/// The writer's thread.
fn write(shared: &Shared, mut files: Files) {
    let _closed = Closed(shared);
    let mut batch: Vec<Line> = Vec::new();
    let mut records = 0;
    loop {
        let mut state = shared.state.lock();
        if state.error.is_some() {
            shared
                .work
                .wait_while_for(&mut state, |state| !state.closing, RETRY);
        } else {
            shared.work.wait_while(&mut state, |state| {
                state.queue.is_empty() && state.gap.is_none() && !state.closing
            });
        }
        let last_try = state.closing;
        if batch.is_empty() {
            let count = state.queue.len().min(BATCH);
            batch.extend(state.queue.drain(..count));
            state.queued_bytes -= batch.iter().map(|line| line.json.len()).sum::<usize>();
            state.tell(shared.capacity);
            records = u64::try_from(count).unwrap_or(u64::MAX);
            if state.queue.is_empty()
                && let Some((lost, at)) = state.gap.take()
            {
                let gap = Entry::of_log(at, LogEvent::Gap).count("lost", lost);
                batch.extend(Line::of(&gap));
            }
        }
        let emptied = state.queue.is_empty();
        drop(state);

        let mut result = Ok(());
        if !batch.is_empty() || files.has_own() {
            result = files.commit(&batch);
        }
        if result.is_ok() {
            batch.clear();
            let callbacks = {
                let mut state = shared.state.lock();
                state.durable += std::mem::take(&mut records);
                (state.seq, state.hash) = (files.seq, Some(files.hash));
                state.segments = files.segments;
                let first_later = state.durable + 1;
                let later = state.waiting.split_off(&first_later);
                std::mem::replace(&mut state.waiting, later)
            };
            shared.done.notify_all();
            for callback in callbacks.into_values().flatten() {
                callback(Ok(()));
            }
            result = files.rotate_if_full().and(files.sign_newest());
        }
        let failed = result.is_err();
        let finished = last_try && (failed || (emptied && !files.has_own()));
        if finished && !failed {
            result = files.finish();
        }
        let mut state = shared.state.lock();
        state.error = result.err().map(|error| describe(&error));
        state.segments = files.segments;
        state.tell(shared.capacity);
        drop(state);
        if finished {
            return;
        }
    }
}

fn describe(error: &AuditError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
