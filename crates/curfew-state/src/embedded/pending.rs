//! What was accepted and is not on disk yet: the state with it, in the order in which it will be written. Whoever has
//! something accepted waits for no disk until it is. Writing may not live here.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, mpsc::SyncSender},
};

use curfew_model::Revision;

use crate::{
    Accepted, Change, Commit, CommitError, Committed, Expected, Hash, State, StoreError,
    sqlite::Write,
};

/// Requests in one transaction, at most.
const BATCH: usize = 128;

/// Where an answer is waited for.
pub(super) type Answer = SyncSender<Result<Committed, CommitError>>;

/// What somebody wants committed.
pub(super) struct Request {
    pub(super) key: Option<String>,
    pub(super) expected: Expected,
    pub(super) changes: Vec<Change>,
    pub(super) accepted: Accepted,
    pub(super) answer: Answer,
}

/// What became of a request.
enum Taken {
    Now(Write, Arc<Commit>),
    /// It repeats the one with this revision.
    Before(Revision),
}

/// A request that waits for the disk: to write it, or what its answer rests on.
struct Waiting {
    write: Option<(Write, Arc<Commit>)>,
    /// The state after it.
    state: State,
    done: Result<Committed, CommitError>,
    answer: Answer,
}

/// What the writer takes for one transaction; the state is that after the last of it.
pub(super) struct Batch {
    pub(super) state: State,
    pub(super) writes: Vec<Write>,
    pub(super) commits: Vec<Arc<Commit>>,
    pub(super) answers: Vec<(Result<Committed, CommitError>, Answer)>,
}

/// The requests that are accepted and not answered. Each caller has one at most and waits, so that they are as many as
/// its threads.
pub(super) struct Pending {
    /// After all of them.
    state: State,
    /// The highest revision that was ever given out, whether or not the disk took it: none is given to two requests.
    given: Revision,
    waiting: VecDeque<Waiting>,
    /// The keys of what is not known to be on disk: the hash of the changes, and the revision.
    keys: HashMap<String, (Hash, Revision)>,
    /// No more will come.
    pub(super) closing: bool,
    /// No more is taken.
    closed: bool,
}

impl Pending {
    pub(super) fn new(state: State) -> Self {
        Self {
            given: state.revision,
            state,
            waiting: VecDeque::new(),
            keys: HashMap::new(),
            closing: false,
            closed: false,
        }
    }

    /// Accepts a request, or refuses it. `on_disk` looks a key up there.
    pub(super) fn accept(
        &mut self,
        request: Request,
        on_disk: impl FnOnce(&str) -> Result<Option<(String, Revision)>, StoreError>,
    ) {
        let Request {
            key,
            expected,
            changes,
            accepted,
            answer,
        } = request;
        let (write, done) = match self.take(key, expected, changes, on_disk) {
            Ok(Taken::Now(write, commit)) => {
                accepted(&commit);
                let done = Committed {
                    revision: commit.revision,
                    repeated: false,
                };
                (Some((write, commit)), Ok(done))
            }
            Ok(Taken::Before(revision)) => {
                let done = Committed {
                    revision,
                    repeated: true,
                };
                (None, Ok(done))
            }
            // Whoever looks again then finds what this speaks of.
            Err(error @ (CommitError::Conflict { .. } | CommitError::KeyReused(_))) => {
                (None, Err(error))
            }
            Err(error) => {
                // A caller that is gone needs no answer.
                let _ = answer.send(Err(error));
                return;
            }
        };
        self.waiting.push_back(Waiting {
            write,
            state: self.state.clone(),
            done,
            answer,
        });
    }

    fn take(
        &mut self,
        key: Option<String>,
        expected: Expected,
        changes: Vec<Change>,
        on_disk: impl FnOnce(&str) -> Result<Option<(String, Revision)>, StoreError>,
    ) -> Result<Taken, CommitError> {
        if self.closed {
            return Err(CommitError::Closed);
        }
        let key = key.map(|key| hashed(key, &changes)).transpose()?;
        if let Some((key, hash)) = &key {
            let known = match self.keys.get(key) {
                Some((changes, revision)) => Some((changes.to_string(), *revision)),
                None => on_disk(key).map_err(|error| CommitError::Storage(error.to_string()))?,
            };
            match known {
                Some((changes, revision)) if changes == hash.to_string() => {
                    return Ok(Taken::Before(revision));
                }
                Some(_) => return Err(CommitError::KeyReused(key.clone())),
                None => {}
            }
        }
        expected.check(&self.state)?;
        let revision = Revision(self.given.0 + 1);
        let (state, write) = applied(&self.state, revision, &changes, key.clone())?;
        (self.state, self.given) = (state, revision);
        let key = key.map(|(key, hash)| (key, (hash, revision)));
        self.keys.extend(key);
        let commit = Arc::new(Commit { revision, changes });
        Ok(Taken::Now(write, commit))
    }

    /// What is to be written next; none while nothing waits.
    pub(super) fn next(&mut self) -> Option<Batch> {
        let count = self.waiting.len().min(BATCH);
        let mut waiting = self.waiting.drain(..count).peekable();
        waiting.peek()?;
        let mut batch = Batch {
            state: State::default(),
            writes: Vec::new(),
            commits: Vec::new(),
            answers: Vec::new(),
        };
        for one in waiting {
            let (write, commit) = one.write.unzip();
            batch.writes.extend(write);
            batch.commits.extend(commit);
            batch.state = one.state;
            batch.answers.push((one.done, one.answer));
        }
        Some(batch)
    }

    /// A batch is on disk, and readers find it there.
    pub(super) fn written(&mut self, writes: &[Write]) {
        for key in writes.iter().filter_map(|write| write.key.as_ref()) {
            self.keys.remove(&key.0);
        }
    }

    /// The disk refused a batch: what was accepted after it leans on it and falls too. Goes on from `state`, and gives who
    /// waits for what fell.
    pub(super) fn refused(&mut self, state: &State) -> Vec<Answer> {
        self.state = state.clone();
        self.keys.clear();
        self.waiting.drain(..).map(|one| one.answer).collect()
    }

    /// Takes no more, and lets nobody wait.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.waiting.clear();
    }
}

fn hashed(key: String, changes: &[Change]) -> Result<(String, Hash), CommitError> {
    let text =
        serde_json::to_string(changes).map_err(|error| CommitError::Storage(error.to_string()))?;
    Ok((key, Hash::of(text.as_bytes())))
}

/// The state with changes, and what of them is written.
fn applied(
    before: &State,
    revision: Revision,
    changes: &[Change],
    key: Option<(String, Hash)>,
) -> Result<(State, Write), CommitError> {
    let mut state = before.clone();
    let mut write = Write {
        touched: Vec::new(),
        policies: Vec::new(),
        key,
        revision,
    };
    for change in changes {
        write.touched.extend(state.apply(revision, change)?);
        if let Change::ApplyPolicy { owner, .. } = change {
            write.policies.extend(state.policies.get(owner).cloned());
        }
    }
    state.revision = revision;
    Ok((state, write))
}
