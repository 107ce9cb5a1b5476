//! Why the log cannot be opened, read or appended to. Problems that verification finds are not errors.

use std::{io, path::PathBuf};

/// Why a log cannot be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file system refused.
    #[error("cannot {what} {}; check the path, its owner and the free space", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// Another process writes this log.
    #[error("the audit log {} is open in another process: stop it first, or use another data directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// The signing key is not one.
    #[error("{} is not a signing key (64 hexadecimal digits): restore it from a backup, or move the log aside to start a new one", path.display())]
    BadKey {
        /// The key file.
        path: PathBuf,
    },
    /// There is a log, and the key that signed it is gone.
    #[error("the log was signed with {}, which is missing: restore it from a backup, or move the log aside to start a new one", path.display())]
    NoKey {
        /// Where it was.
        path: PathBuf,
    },
    /// Others can read the signing key.
    #[error("the signing key {} can be read by others (mode {mode:03o}): `chmod 600` it, and consider the key known", path.display())]
    OpenKey {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The end of the log cannot be continued.
    #[error("{}:{line}: {problem}; run `curfew audit verify`, keep a copy as evidence, and move the log aside to start a new one", path.display())]
    Damaged {
        /// The segment file.
        path: PathBuf,
        /// The line, counted from one.
        line: u64,
        /// What is wrong there.
        problem: String,
    },
    /// The text is not a head.
    #[error("not a head: {0}; give what `curfew audit head` printed")]
    BadHead(String),
    /// The system gave no randomness for a new key.
    #[error("no randomness for a new signing key: {0}")]
    Randomness(String),
}

impl AuditError {
    /// Whether a file was not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == io::ErrorKind::NotFound)
    }

    pub(crate) fn io(
        what: &'static str,
        path: &std::path::Path,
    ) -> impl FnOnce(io::Error) -> Self + use<> {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Why a record was not taken. It is counted as lost, and the log records the gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The queue is full: the disk is slow, full or broken.
    #[error("the audit queue is full: see the log's health for what the disk says")]
    Full,
    /// The record is longer than [`crate::MAX_RECORD`] bytes.
    #[error("the audit record is longer than {} bytes", crate::MAX_RECORD)]
    TooLong,
    /// The log is closed.
    #[error("the audit log is closed")]
    Closed,
}

/// Why a record is not known to be on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DurableError {
    /// Not within the time given; it may still be written.
    #[error("the audit record did not reach the disk in time: see the log's health")]
    TimedOut,
    /// The log closed before.
    #[error("the audit log closed before the record reached the disk")]
    Closed,
}
