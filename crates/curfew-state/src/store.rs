//! The `Store` trait: what a change is, what a commit promises, how commits are watched, and what can go wrong.

use std::{path::PathBuf, sync::Arc, time::Duration};

use curfew_model::{Binding, BindingKey, Revision, Revocation, RevocationId, WallInstant};
use serde::{Deserialize, Serialize};

use crate::{ApiToken, EndKey, Hash, Owner, State, Subject, SubjectKey};

/// One change of the desired state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Replaces the policy set of an owner.
    ApplyPolicy {
        /// Whose set.
        owner: Owner,
        /// The whole set as text, as policy reads it.
        content: Arc<str>,
        /// When it was applied.
        at: WallInstant,
        /// Who applied it.
        by: String,
    },
    /// Gives an order. Its revision is set to that of the commit; an order with a known id changes nothing.
    Revoke(Revocation),
    /// Lifts the block of an order. The order stays.
    Lift {
        /// Which order.
        id: RevocationId,
        /// When.
        at: WallInstant,
    },
    /// Removes an order that nobody needs any more.
    ForgetRevocation(RevocationId),
    /// Makes or refreshes a binding.
    Bind(Binding),
    /// Removes a binding.
    Unbind(BindingKey),
    /// Records what is known of a subject.
    PutSubject(Subject),
    /// Removes it.
    ForgetSubject(SubjectKey),
    /// Admits an API token with a name of its own.
    PutToken(ApiToken),
    /// Removes the API token of this name, unless it is the last of an admin.
    RemoveToken(String),
    /// A session of this subject into this segment ended by its lifetime; an earlier time changes nothing.
    Ended {
        /// Whose, and into which segment.
        key: EndKey,
        /// When.
        at: WallInstant,
    },
    /// Removes the ends before an instant.
    ForgetEnds {
        /// The first instant that is kept.
        before: WallInstant,
    },
}

/// The changes of one revision, as applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Commit {
    /// Their revision.
    pub revision: Revision,
    /// The changes, in order.
    pub changes: Vec<Change>,
}

/// The answer to a commit with an idempotency key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The revision that holds the changes.
    pub revision: Revision,
    /// The key was known: the changes were committed before, at this revision.
    pub repeated: bool,
}

/// What a commit rests on: it is made only while that still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// Nothing: whatever has changed meanwhile, it is made.
    Nothing,
    /// The state is still at this revision.
    State(Revision),
    /// The policy sets of every owner are still those of this revision.
    Policies(Revision),
}

impl Expected {
    /// Whether it holds.
    pub(crate) fn check(self, state: &State) -> Result<(), CommitError> {
        let (expected, actual) = match self {
            Self::Nothing => return Ok(()),
            Self::State(expected) => (expected, state.revision),
            Self::Policies(expected) => {
                let sets = state.policies.values();
                let newest = sets.map(|(pointer, _)| pointer.revision).max();
                (
                    expected,
                    newest.map_or(expected, |newest| newest.max(expected)),
                )
            }
        };
        if actual == expected {
            Ok(())
        } else {
            Err(CommitError::Conflict { expected, actual })
        }
    }
}

/// What [`Store::commit_with`] calls with changes that have their revision and are not durable yet.
pub type Accepted = Box<dyn FnOnce(&Arc<Commit>) + Send>;

/// Where the desired state lives.
pub trait Store: Send + Sync {
    /// Commits changes, all or none, and returns when they are durable, if what they rest on still holds.
    ///
    /// # Errors
    /// [`CommitError`]; unless it is [`CommitError::Storage`], nothing was changed.
    fn commit(&self, expected: Expected, changes: &[Change]) -> Result<Revision, CommitError> {
        self.commit_with(None, expected, changes, Box::new(|_| ()))
            .map(|committed| committed.revision)
    }

    /// As [`Store::commit`]; with a key, a later commit with the same key and changes changes nothing and gives the same
    /// answer: at least the last 1,000 keys are remembered, through restarts. Calls `accepted` once as soon as the changes
    /// have their revision: what must not wait for the disk starts there (I4), while it is busy with changes of others
    /// too. It is not called for changes that are refused or repeated, keeps other commits waiting, and has to be short. A
    /// revision that it was told is never given to other changes, even if the disk refuses: revisions only grow, with
    /// gaps.
    ///
    /// # Errors
    /// [`CommitError`], and [`CommitError::KeyReused`] for the same key with other changes. After
    /// [`CommitError::Storage`] what `accepted` started is not undone.
    fn commit_with(
        &self,
        key: Option<&str>,
        expected: Expected,
        changes: &[Change],
        accepted: Accepted,
    ) -> Result<Committed, CommitError>;

    /// The revision of the commit that an idempotency key was used for; none if it is not remembered.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn revision_of(&self, key: &str) -> Result<Option<Revision>, StoreError>;

    /// Whether the next start will find what was committed, as far as a look at the files tells.
    ///
    /// # Errors
    /// [`StoreError`] when it will not.
    fn is_in_place(&self) -> Result<(), StoreError>;

    /// The state as of the last durable commit.
    fn read(&self) -> Arc<State>;

    /// The commits after `from`, as they come.
    ///
    /// # Errors
    /// [`WatchError`] when they are not all kept any more: read the state and watch from its revision.
    fn watch(&self, from: Revision) -> Result<Box<dyn Watch>, WatchError>;

    /// The text of a policy set in the history; none if it is not there.
    ///
    /// # Errors
    /// [`StoreError`] when it cannot be read.
    fn policy(&self, hash: Hash) -> Result<Option<Arc<str>>, StoreError>;
}

/// A place in the sequence of commits.
pub trait Watch: Send {
    /// The next commit; none if there is none within `timeout`.
    ///
    /// # Errors
    /// [`WatchError`] when the watcher fell too far behind, or the store closed.
    fn next(&mut self, timeout: Duration) -> Result<Option<Arc<Commit>>, WatchError>;
}

/// Why a commit was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// What it rests on has moved on.
    #[error("the state is at revision {actual}, not {expected}: read it again and decide anew")]
    Conflict {
        /// What the caller expected.
        expected: Revision,
        /// What it is.
        actual: Revision,
    },
    /// The idempotency key belongs to other changes.
    #[error("the idempotency key {0:?} was used for other changes: use a new key")]
    KeyReused(String),
    /// The id belongs to another order.
    #[error("revocation {0} exists and says something else: use a new id")]
    OtherRevocation(RevocationId),
    /// The name is taken.
    #[error("there is a token {0:?}: remove it first, or use another name")]
    TokenExists(String),
    /// Nobody could administer this any more.
    #[error("it is the last token of an admin: make another first")]
    LastAdmin,
    /// There is no such thing.
    #[error("there is no {what} {name}")]
    Unknown {
        /// `revocation`, `binding`, …
        what: &'static str,
        /// Which.
        name: String,
    },
    /// A limit was reached.
    #[error("too many or too large {what}: at most {limit}")]
    Limit {
        /// Of what.
        what: &'static str,
        /// How many, or how many bytes.
        limit: usize,
    },
    /// Nothing to commit.
    #[error("a commit needs at least one change")]
    Empty,
    /// The disk refused. Whether the changes are there shows after a restart.
    #[error("the state could not be written: {0}; check the disk")]
    Storage(String),
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a store cannot be opened or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The file system or database refused.
    #[error("cannot {what} {}: {detail}; check the path, its owner and the free space", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        detail: String,
    },
    /// Another process has it open.
    #[error("the data directory {} is in use by {holder}: stop it first, or use another data directory", path.display())]
    Locked {
        /// The directory.
        path: PathBuf,
        /// `process PID`, or `another process`.
        holder: String,
    },
    /// The file is damaged.
    #[error("{} is damaged: {detail}; restore it from a backup, or move it aside to start empty", path.display())]
    Corrupt {
        /// The database file.
        path: PathBuf,
        /// What is wrong.
        detail: String,
    },
    /// A later version of Curfew wrote it.
    #[error("{} has schema version {found}, this Curfew knows up to {known}: use the newer version", path.display())]
    NewerSchema {
        /// The database file.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// Ours.
        known: u32,
    },
}

/// Why commits cannot be watched from a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Commits in between are not kept any more.
    #[error(
        "commits after revision {from} are not kept any more: read the state and watch from its revision"
    )]
    Behind {
        /// Where the watcher is.
        from: Revision,
    },
    /// The state has not come so far.
    #[error(
        "revision {from} is in the future: the state is at {actual}; was it replaced by an older copy?"
    )]
    Ahead {
        /// Where the watcher is.
        from: Revision,
        /// Where the state is.
        actual: Revision,
    },
    /// The store is closed.
    #[error("the store is closed")]
    Closed,
}
