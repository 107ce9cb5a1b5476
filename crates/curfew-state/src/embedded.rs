//! The embedded store: a locked data directory, one writer thread with group commit, and watchers.
//!
//! Requests are accepted at once, whatever the disk does. Those that wait while it is busy go into one transaction; each
//! keeps its own revision and its own answer. SQL may not live here.

mod pending;

use std::{
    collections::VecDeque,
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{Arc, mpsc::sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use curfew_model::Revision;
use parking_lot::{Condvar, Mutex};

use self::pending::{Batch, Pending, Request};
use crate::{
    Accepted, Change, Commit, CommitError, Committed, Expected, Hash, Policies, State, Store,
    StoreError, Watch, WatchError,
    sqlite::{Database, Files},
};

/// Changes in one request, at most.
const CHANGES: usize = 10_000;
/// Bytes of an idempotency key, at most.
const KEY_BYTES: usize = 256;
/// Commits that are kept for watchers.
const KEPT: usize = 4096;

struct Published {
    state: Arc<State>,
    /// The last commits, each of them, up to `state`. Revisions of a batch that the disk refused are missing for ever.
    commits: VecDeque<Arc<Commit>>,
    /// The revision of the state before the first of them.
    since: Revision,
    closed: bool,
}

struct Shared {
    /// Taken before `published`.
    pending: Mutex<Pending>,
    accepted: Condvar,
    published: Mutex<Published>,
    changed: Condvar,
}

impl Shared {
    fn new(state: State) -> Self {
        Self {
            pending: Mutex::new(Pending::new(state.clone())),
            accepted: Condvar::new(),
            published: Mutex::new(Published {
                since: state.revision,
                state: Arc::new(state),
                commits: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// What is to be written next, once there is something; none when no more will come.
    fn next(&self) -> Option<Batch> {
        let mut pending = self.pending.lock();
        loop {
            match pending.next() {
                None if !pending.closing => self.accepted.wait(&mut pending),
                next => return next,
            }
        }
    }

    /// A batch is on disk.
    fn written(&self, batch: Batch) {
        let mut published = self.published.lock();
        published.state = Arc::new(batch.state);
        published.commits.extend(batch.commits);
        let over = published.commits.len().saturating_sub(KEPT);
        let dropped = published.commits.drain(..over).next_back();
        if let Some(dropped) = dropped {
            published.since = dropped.revision;
        }
        drop(published);
        self.changed.notify_all();
        self.pending.lock().written(&batch.writes);
        for (done, answer) in batch.answers {
            // A caller that is gone needs no answer.
            let _ = answer.send(done);
        }
    }

    /// The disk refused a batch, and with it what leans on it.
    fn refused(&self, batch: Batch, error: &StoreError) {
        let mut pending = self.pending.lock();
        let fallen = pending.refused(&self.published.lock().state);
        drop(pending);
        let batch = batch.answers.into_iter().map(|(_, answer)| answer);
        for answer in batch.chain(fallen) {
            let _ = answer.send(Err(CommitError::Storage(error.to_string())));
        }
    }
}

/// The store in one SQLite file of a data directory. Dropping it finishes what was handed in.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    reader: Mutex<Database>,
    files: Files,
    thread: Option<JoinHandle<()>>,
    /// Holds the lock for as long as the store is open.
    _lock: File,
}

impl std::fmt::Debug for EmbeddedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EmbeddedStore")
            .field("revision", &self.read().revision)
            .finish()
    }
}

impl EmbeddedStore {
    /// Opens or makes the store in `dir`, alone: a second process is refused.
    ///
    /// # Errors
    /// [`StoreError`] when the directory is in use, the file is damaged, or a newer Curfew wrote it.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |what, error: std::io::Error| StoreError::Io {
            what,
            path: dir.to_owned(),
            detail: error.to_string(),
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .map_err(|error| io("create", error))?;
        let lock = lock(dir)?;
        let path = dir.join("state.db");
        // Made here so that nobody else can read it: it holds hashes of tokens. SQLite's other files follow its mode.
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|error| io("create state.db in", error))?;
        let database = Database::open(&path)?;
        let files = Files::at(&path)?;
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| io("sync", error))?;
        let shared = Arc::new(Shared::new(database.load()?));
        let reader = Mutex::new(Database::open_to_read(&path)?);
        let thread = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write(&shared, database)
            })
            .map_err(|error| io("start the writer for", error))?;
        Ok(Self {
            shared,
            reader,
            files,
            thread: Some(thread),
            _lock: lock,
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.shared.pending.lock().closing = true;
        self.shared.accepted.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic of the writer shows as `Closed` to callers; there is nobody to hand it to here.
            let _ = thread.join();
        }
    }
}

impl EmbeddedStore {
    /// The policy that a directory holds, whether or not a process has it open; nothing where there is no state yet.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read as it is. Opening it may mend that.
    pub fn policies(dir: &Path) -> Result<Policies, StoreError> {
        let path = dir.join("state.db");
        if !path.exists() {
            return Ok(Policies::new());
        }
        Database::open_to_read(&path)?.policies()
    }
}

impl Store for EmbeddedStore {
    fn commit_with(
        &self,
        key: Option<&str>,
        expected: Expected,
        changes: &[Change],
        accepted: Accepted,
    ) -> Result<Committed, CommitError> {
        if changes.is_empty() {
            return Err(CommitError::Empty);
        }
        if changes.len() > CHANGES {
            return Err(CommitError::Limit {
                what: "changes in one commit",
                limit: CHANGES,
            });
        }
        if key.is_some_and(|key| key.len() > KEY_BYTES) {
            let what = "bytes of idempotency key";
            return Err(CommitError::Limit {
                what,
                limit: KEY_BYTES,
            });
        }
        let (answer, answered) = sync_channel(1);
        let request = Request {
            key: key.map(str::to_owned),
            expected,
            changes: changes.to_vec(),
            accepted,
            answer,
        };
        let on_disk = |key: &str| self.reader.lock().known_key(key);
        self.shared.pending.lock().accept(request, on_disk);
        self.shared.accepted.notify_one();
        answered.recv().unwrap_or(Err(CommitError::Closed))
    }

    fn revision_of(&self, key: &str) -> Result<Option<Revision>, StoreError> {
        let known = self.reader.lock().known_key(key)?;
        Ok(known.map(|(_, revision)| revision))
    }

    fn is_in_place(&self) -> Result<(), StoreError> {
        self.files.are_in_place()
    }

    fn read(&self) -> Arc<State> {
        Arc::clone(&self.shared.published.lock().state)
    }

    fn watch(&self, from: Revision) -> Result<Box<dyn Watch>, WatchError> {
        find(&self.shared.published.lock(), from)?;
        Ok(Box::new(Watcher {
            shared: Arc::clone(&self.shared),
            from,
        }))
    }

    fn policy(&self, hash: Hash) -> Result<Option<Arc<str>>, StoreError> {
        self.reader.lock().policy(hash)
    }
}

struct Watcher {
    shared: Arc<Shared>,
    from: Revision,
}

impl Watch for Watcher {
    fn next(&mut self, timeout: Duration) -> Result<Option<Arc<Commit>>, WatchError> {
        let mut published = self.shared.published.lock();
        let from = self.from;
        self.shared.changed.wait_while_for(
            &mut published,
            |published| published.state.revision <= from && !published.closed,
            timeout,
        );
        let found = find(&published, from)?;
        if let Some(commit) = &found {
            self.from = commit.revision;
        } else if published.closed {
            return Err(WatchError::Closed);
        }
        Ok(found)
    }
}

/// The commit after `from`; none when there is none yet.
fn find(published: &Published, from: Revision) -> Result<Option<Arc<Commit>>, WatchError> {
    let actual = published.state.revision;
    if from > actual {
        return Err(WatchError::Ahead { from, actual });
    }
    if from < published.since {
        return Err(WatchError::Behind { from });
    }
    let next = published
        .commits
        .partition_point(|commit| commit.revision <= from);
    Ok(published.commits.get(next).cloned())
}

/// Marks the store closed however the writer ends, so that nobody waits for ever.
struct Closed<'a>(&'a Shared);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.pending.lock().close();
        self.0.published.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// The writer's thread.
fn write(shared: &Shared, mut database: Database) {
    let _closed = Closed(shared);
    while let Some(batch) = shared.next() {
        let written = match batch.writes.as_slice() {
            // Who repeats, or is refused, waits for what that rests on, which was written before.
            [] => Ok(()),
            writes => database.write(&batch.state, writes),
        };
        match written {
            Ok(()) => shared.written(batch),
            Err(error) => shared.refused(batch, &error),
        }
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

/// Locks the directory and writes our process id for whoever comes second.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join("lock");
    let io = |what, error: std::io::Error| StoreError::Io {
        what,
        path: path.clone(),
        detail: error.to_string(),
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(|error| io("open", error))?;
    if !is_locked_soon(&file) {
        let mut text = String::new();
        let holder = match file.take(32).read_to_string(&mut text) {
            Ok(length) if length > 0 => format!("process {}", text.trim()),
            _ => "another process".to_owned(),
        };
        return Err(StoreError::Locked {
            path: dir.to_owned(),
            holder,
        });
    }
    file.set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| file.write_all(std::process::id().to_string().as_bytes()))
        .map_err(|error| io("write", error))?;
    Ok(file)
}

#[cfg(test)]
mod tests;
