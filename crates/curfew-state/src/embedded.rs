//! The embedded store: a locked data directory, one writer thread with group commit, and watchers.
//!
//! Requests that wait while the disk is busy go into one transaction; each keeps its own revision and its own answer.
//! SQL may not live here.

use std::{
    collections::VecDeque,
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread::JoinHandle,
    time::Duration,
};

use curfew_model::Revision;
use parking_lot::{Condvar, Mutex};

use crate::{
    Accepted, Change, Commit, CommitError, Committed, Expected, Hash, Policies, State, Store,
    StoreError, Watch, WatchError,
    sqlite::{Database, Write},
};

/// Requests in one transaction, at most.
const BATCH: usize = 128;
/// Requests that wait for the writer, at most; further callers wait their turn.
const QUEUE: usize = 256;
/// Changes in one request, at most.
const CHANGES: usize = 10_000;
/// Bytes of an idempotency key, at most.
const KEY_BYTES: usize = 256;
/// Commits that are kept for watchers.
const KEPT: usize = 4096;

struct Request {
    key: Option<String>,
    expected: Expected,
    changes: Vec<Change>,
    accepted: Accepted,
    answer: SyncSender<Result<Committed, CommitError>>,
}

struct Published {
    state: Arc<State>,
    /// The last commits, each of them, up to `state`. Revisions of a batch that the disk refused are missing for ever.
    commits: VecDeque<Arc<Commit>>,
    /// The revision of the state before the first of them.
    since: Revision,
    closed: bool,
}

struct Shared {
    published: Mutex<Published>,
    changed: Condvar,
}

/// The store in one SQLite file of a data directory. Dropping it finishes what was handed in.
pub struct EmbeddedStore {
    shared: Arc<Shared>,
    requests: Option<SyncSender<Request>>,
    reader: Mutex<Database>,
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
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| io("sync", error))?;
        let state = Arc::new(database.load()?);
        let reader = Mutex::new(Database::open_to_read(&path)?);
        let shared = Arc::new(Shared {
            published: Mutex::new(Published {
                since: state.revision,
                state,
                commits: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        });
        let (requests, incoming) = sync_channel(QUEUE);
        let thread = std::thread::Builder::new()
            .name("state".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || write(&shared, database, &incoming)
            })
            .map_err(|error| io("start the writer for", error))?;
        Ok(Self {
            shared,
            requests: Some(requests),
            reader,
            thread: Some(thread),
            _lock: lock,
        })
    }
}

impl Drop for EmbeddedStore {
    fn drop(&mut self) {
        self.requests = None;
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
        let requests = self.requests.as_ref().ok_or(CommitError::Closed)?;
        requests.send(request).map_err(|_| CommitError::Closed)?;
        answered.recv().unwrap_or(Err(CommitError::Closed))
    }

    fn revision_of(&self, key: &str) -> Result<Option<Revision>, StoreError> {
        let known = self.reader.lock().known_key(key)?;
        Ok(known.map(|(_, revision)| revision))
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

/// Marks the store closed however the writer ends, so that no watcher waits for ever.
struct Closed<'a>(&'a Shared);

impl Drop for Closed<'_> {
    fn drop(&mut self) {
        self.0.published.lock().closed = true;
        self.0.changed.notify_all();
    }
}

/// The writer's thread.
fn write(shared: &Shared, mut database: Database, incoming: &Receiver<Request>) {
    let _closed = Closed(shared);
    let mut given = shared.published.lock().state.revision;
    while let Ok(first) = incoming.recv() {
        let mut requests = vec![first];
        requests.extend(incoming.try_iter().take(BATCH - 1));
        let before = Arc::clone(&shared.published.lock().state);
        let mut batch = Batch {
            state: State::clone(&before),
            given,
            writes: Vec::new(),
            commits: Vec::new(),
            accepted: Vec::new(),
        };
        let mut answers: Vec<_> = requests
            .into_iter()
            .map(|request| {
                let answer = request.answer.clone();
                (batch.add(&database, request), answer)
            })
            .collect();
        given = batch.given;
        for (accepted, commit) in batch.accepted {
            accepted(&commit);
        }
        if !batch.writes.is_empty() {
            match database.write(&batch.state, &batch.writes) {
                Ok(()) => {
                    let mut published = shared.published.lock();
                    published.state = Arc::new(batch.state);
                    published.commits.extend(batch.commits);
                    let over = published.commits.len().saturating_sub(KEPT);
                    let dropped = published.commits.drain(..over).next_back();
                    if let Some(dropped) = dropped {
                        published.since = dropped.revision;
                    }
                    drop(published);
                    shared.changed.notify_all();
                }
                Err(error) => {
                    // An answer that leans on this batch falls with it.
                    for (answer, _) in &mut answers {
                        if answer
                            .as_ref()
                            .is_ok_and(|done| done.revision > before.revision)
                        {
                            *answer = Err(CommitError::Storage(error.to_string()));
                        }
                    }
                }
            }
        }
        for (answer, sender) in answers {
            // A caller that is gone needs no answer.
            let _ = sender.send(answer);
        }
    }
}

/// What goes into one transaction.
struct Batch {
    state: State,
    /// The highest revision that was ever given out, whether or not the disk took it: none is given to two requests.
    given: Revision,
    writes: Vec<Write>,
    commits: Vec<Arc<Commit>>,
    accepted: Vec<(Accepted, Arc<Commit>)>,
}

impl Batch {
    fn add(&mut self, database: &Database, request: Request) -> Result<Committed, CommitError> {
        let Request {
            key,
            expected,
            changes,
            accepted,
            ..
        } = request;
        let key = match key {
            Some(key) => {
                let text = serde_json::to_string(&changes)
                    .map_err(|error| CommitError::Storage(error.to_string()))?;
                let hash = Hash::of(text.as_bytes());
                if let Some(revision) = self.known(database, &key, hash)? {
                    return Ok(Committed {
                        revision,
                        repeated: true,
                    });
                }
                Some((key, hash))
            }
            None => None,
        };
        expected.check(&self.state)?;
        let revision = Revision(self.given.0 + 1);
        let mut state = self.state.clone();
        let mut write = Write {
            touched: Vec::new(),
            policies: Vec::new(),
            key,
            revision,
        };
        for change in &changes {
            write.touched.extend(state.apply(revision, change)?);
            if let Change::ApplyPolicy { owner, .. } = change {
                write.policies.extend(state.policies.get(owner).cloned());
            }
        }
        state.revision = revision;
        self.state = state;
        self.given = revision;
        self.writes.push(write);
        let commit = Arc::new(Commit { revision, changes });
        self.accepted.push((accepted, Arc::clone(&commit)));
        self.commits.push(commit);
        Ok(Committed {
            revision,
            repeated: false,
        })
    }

    /// The revision of an earlier commit with the same key and changes.
    fn known(
        &self,
        database: &Database,
        key: &str,
        hash: Hash,
    ) -> Result<Option<Revision>, CommitError> {
        let here = self.writes.iter().find_map(|write| match &write.key {
            Some((known, changes)) if known == key => Some((changes.to_string(), write.revision)),
            _ => None,
        });
        let known = match here {
            Some(known) => Some(known),
            None => database
                .known_key(key)
                .map_err(|error| CommitError::Storage(error.to_string()))?,
        };
        match known {
            Some((changes, revision)) if changes == hash.to_string() => Ok(Some(revision)),
            Some(_) => Err(CommitError::KeyReused(key.to_owned())),
            None => Ok(None),
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
