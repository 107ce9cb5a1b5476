//! The SQLite file: schema and migrations, reading the whole state, writing what a batch touched.
//!
//! Durable because of WAL with synchronous=FULL: a commit returns after the write-ahead log is on disk.

use std::{
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use curfew_model::Revision;
use imbl::OrdMap;
use rusqlite::{Connection, ErrorCode, OpenFlags, OptionalExtension as _, Transaction, params};
use serde::{Serialize, de::DeserializeOwned};

use crate::{Hash, Policies, State, StoreError, state::Touched};

/// Idempotency keys that are remembered.
const KEYS: i64 = 10_000;

/// Version `n` is reached by the `n`th script. A script that has been released is never changed.
const MIGRATIONS: &[&str] = &[
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
     CREATE TABLE entry (kind TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
         PRIMARY KEY (kind, key)) STRICT, WITHOUT ROWID;
     CREATE TABLE policy_set (hash TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT;
     CREATE TABLE policy_history (id INTEGER PRIMARY KEY, hash TEXT NOT NULL REFERENCES policy_set (hash),
         pointer TEXT NOT NULL) STRICT;
     CREATE TABLE idempotency (id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, changes TEXT NOT NULL,
         revision INTEGER NOT NULL) STRICT;",
];

/// An open database.
#[derive(Debug)]
pub(crate) struct Database {
    connection: Connection,
    path: PathBuf,
    /// The files that are written, if any.
    written: Option<Files>,
}

/// A database file and its log as they were opened: what stands at their paths later is somebody else's.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    path: PathBuf,
    ids: [FileId; 2],
}

/// Device and inode of a file.
type FileId = (u64, u64);

impl Files {
    /// Those that stand at this path and beside it.
    pub(crate) fn at(path: &Path) -> Result<Self, StoreError> {
        let path = path.to_owned();
        let ids = file_ids(&path)?;
        Ok(Self { path, ids })
    }

    /// Whether the next start will find what was written: SQLite goes on in files that were removed.
    pub(crate) fn are_in_place(&self) -> Result<(), StoreError> {
        if file_ids(&self.path)? == self.ids {
            return Ok(());
        }
        Err(replaced(&self.path, "another file stands there"))
    }
}

/// What one accepted request writes.
pub(crate) struct Write {
    pub(crate) touched: Vec<Touched>,
    /// Every policy set of the request, in order.
    pub(crate) policies: Vec<(crate::PolicyPointer, Arc<str>)>,
    /// Idempotency key and hash of its changes.
    pub(crate) key: Option<(String, Hash)>,
    pub(crate) revision: Revision,
}

impl Database {
    /// Opens or makes the file, checks it, and brings its schema up to date.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let as_error = |error| store_error("open", path, &error);
        let mut connection = Connection::open(path).map_err(as_error)?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .map_err(as_error)?;
        connection
            .pragma_update(None, "journal_mode", "WAL")
            .map_err(as_error)?;
        connection
            .pragma_update(None, "synchronous", "FULL")
            .map_err(as_error)?;
        connection
            .pragma_update(None, "foreign_keys", true)
            .map_err(as_error)?;
        let check: String = connection
            .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
            .map_err(as_error)?;
        if check != "ok" {
            return Err(StoreError::Corrupt {
                path: path.to_owned(),
                detail: check,
            });
        }
        migrate(&mut connection, path)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            written: Some(Files::at(path)?),
        })
    }

    /// Opens a file to read beside its writer. What its writer would do first, to check it and to bring it to this
    /// version, is not done.
    pub(crate) fn open_to_read(path: &Path) -> Result<Self, StoreError> {
        let as_error = |error| store_error("open", path, &error);
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(as_error)?;
        connection
            .busy_timeout(Duration::from_secs(5))
            .map_err(as_error)?;
        Ok(Self {
            connection,
            path: path.to_owned(),
            written: None,
        })
    }

    /// A file without tables, to be written.
    #[cfg(test)]
    pub(crate) fn bare(path: &Path) -> Self {
        Self {
            connection: Connection::open(path).unwrap(),
            path: path.to_owned(),
            written: None,
        }
    }

    fn error(&self, what: &'static str, error: &rusqlite::Error) -> StoreError {
        store_error(what, &self.path, error)
    }

    fn corrupt(&self, error: &serde_json::Error) -> StoreError {
        StoreError::Corrupt {
            path: self.path.clone(),
            detail: error.to_string(),
        }
    }

    /// Reads everything.
    pub(crate) fn load(&self) -> Result<State, StoreError> {
        let mut state = State {
            revision: self.meta("revision")?.unwrap_or_default(),
            ..State::default()
        };
        state.revocations = self.entries("revocation")?;
        state.bindings = self.entries("binding")?;
        state.subjects = self.entries("subject")?;
        state.tokens = self.entries("token")?;
        state.last_ends = self.entries("end")?;
        let history = self.rows("SELECT pointer, '' FROM policy_history ORDER BY id", "")?;
        let history: Result<Vec<crate::PolicyPointer>, _> = history
            .iter()
            .map(|(text, _)| serde_json::from_str(text))
            .collect();
        state.policy_history = Arc::new(history.map_err(|error| self.corrupt(&error))?);
        state.policies = self.policies()?;
        Ok(state.weighed())
    }

    /// The policy set of each owner.
    pub(crate) fn policies(&self) -> Result<Policies, StoreError> {
        let mut policies = Policies::new();
        for (owner, pointer) in self.entries::<crate::Owner, crate::PolicyPointer>("policy")? {
            let content = self
                .policy(pointer.hash)?
                .ok_or_else(|| StoreError::Corrupt {
                    path: self.path.clone(),
                    detail: format!("the policy set {} is missing", pointer.hash),
                })?;
            policies.insert(owner, (pointer, content));
        }
        Ok(policies)
    }

    /// The text of a policy set.
    pub(crate) fn policy(&self, hash: Hash) -> Result<Option<Arc<str>>, StoreError> {
        let content: Option<String> = self
            .connection
            .query_row(
                "SELECT content FROM policy_set WHERE hash = ?1",
                [hash.to_string()],
                |row| row.get(0),
            )
            .optional()
            .map_err(|error| self.error("read", &error))?;
        match content {
            Some(content) if Hash::of(content.as_bytes()) != hash => Err(StoreError::Corrupt {
                path: self.path.clone(),
                detail: format!("the policy set {hash} does not have its hash"),
            }),
            content => Ok(content.map(Into::into)),
        }
    }

    /// What a key was used for: the hash of the changes, and the revision.
    pub(crate) fn known_key(&self, key: &str) -> Result<Option<(String, Revision)>, StoreError> {
        self.connection
            .query_row(
                "SELECT changes, revision FROM idempotency WHERE key = ?1",
                [key],
                |row| Ok((row.get(0)?, row.get::<_, i64>(1)?)),
            )
            .optional()
            .map_err(|error| self.error("read", &error))
            .map(|found| found.map(|(hash, revision)| (hash, Revision(revision.unsigned_abs()))))
    }

    /// Writes a batch, all or nothing, and returns when it is on disk.
    pub(crate) fn write(&mut self, state: &State, batch: &[Write]) -> Result<(), StoreError> {
        let path = self.path.clone();
        let as_error = |error: rusqlite::Error| store_error("write", &path, &error);
        let transaction = self.connection.transaction().map_err(as_error)?;
        write_batch(&transaction, state, batch).map_err(as_error)?;
        // Before, so that it is not made, and after, so that it is there.
        let in_place = || self.written.as_ref().map_or(Ok(()), Files::are_in_place);
        in_place()?;
        transaction.commit().map_err(as_error)?;
        in_place()
    }

    fn meta<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, StoreError> {
        let rows = self.rows("SELECT name, value FROM meta WHERE name = ?1", name)?;
        rows.first()
            .map(|(_, value)| serde_json::from_str(value).map_err(|error| self.corrupt(&error)))
            .transpose()
    }

    fn entries<K: DeserializeOwned + Ord + Clone, V: DeserializeOwned + Clone>(
        &self,
        kind: &str,
    ) -> Result<OrdMap<K, V>, StoreError> {
        let rows = self.rows("SELECT key, value FROM entry WHERE kind = ?1", kind)?;
        rows.iter()
            .map(|(key, value)| Ok((serde_json::from_str(key)?, serde_json::from_str(value)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(|error| self.corrupt(&error))
    }

    /// Rows of two texts; the parameter is left out where the query has none.
    fn rows(&self, sql: &str, parameter: &str) -> Result<Vec<(String, String)>, StoreError> {
        let read = || -> rusqlite::Result<Vec<(String, String)>> {
            let mut statement = self.connection.prepare(sql)?;
            let parameters: &[&str] = if parameter.is_empty() {
                &[]
            } else {
                &[parameter]
            };
            statement
                .query_map(rusqlite::params_from_iter(parameters), |row| {
                    Ok((row.get(0)?, row.get(1)?))
                })?
                .collect()
        };
        read().map_err(|error| self.error("read", &error))
    }
}

fn store_error(what: &'static str, path: &Path, error: &rusqlite::Error) -> StoreError {
    let path = path.to_owned();
    let detail = error.to_string();
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            StoreError::Corrupt { path, detail }
        }
        _ => StoreError::Io { what, path, detail },
    }
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let as_error = |error| store_error("migrate", path, &error);
    let found: u32 = connection
        .query_row("PRAGMA user_version", [], |row| row.get(0))
        .map_err(as_error)?;
    let known = u32::try_from(MIGRATIONS.len()).unwrap_or(u32::MAX);
    if found > known {
        return Err(StoreError::NewerSchema {
            path: path.to_owned(),
            found,
            known,
        });
    }
    for (version, script) in (1_u32..)
        .zip(MIGRATIONS)
        .skip_while(|(version, _)| *version <= found)
    {
        let transaction = connection.transaction().map_err(as_error)?;
        transaction.execute_batch(script).map_err(as_error)?;
        transaction
            .pragma_update(None, "user_version", version)
            .map_err(as_error)?;
        transaction.commit().map_err(as_error)?;
    }
    Ok(())
}

fn json<T: Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
}

/// The file at `path` and its write-ahead log.
fn file_ids(path: &Path) -> Result<[FileId; 2], StoreError> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    Ok([file_id(path)?, file_id(Path::new(&log))?])
}

fn file_id(path: &Path) -> Result<FileId, StoreError> {
    let found = std::fs::metadata(path).map_err(|error| replaced(path, &error.to_string()))?;
    Ok((found.dev(), found.ino()))
}

fn replaced(path: &Path, why: &str) -> StoreError {
    StoreError::Io {
        what: "keep",
        path: path.to_owned(),
        detail: format!(
            "it was removed or replaced while this process runs ({why}); put it back and restart"
        ),
    }
}

fn write_batch(tx: &Transaction<'_>, state: &State, batch: &[Write]) -> rusqlite::Result<()> {
    let mut touched: Vec<&Touched> = batch.iter().flat_map(|write| &write.touched).collect();
    touched.sort();
    touched.dedup();
    for (pointer, content) in batch.iter().flat_map(|write| &write.policies) {
        let hash = pointer.hash.to_string();
        tx.execute(
            "INSERT INTO policy_set (hash, content) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
            params![hash, &**content],
        )?;
        tx.execute(
            "INSERT INTO policy_history (hash, pointer) VALUES (?1, ?2)",
            params![hash, json(pointer)?],
        )?;
    }
    for touched in &touched {
        match touched {
            Touched::Policy(owner) => {
                let pointer = state.policies.get(owner).map(|(pointer, _)| pointer);
                put(tx, "policy", owner, pointer)?;
            }
            Touched::Revocation(id) => put(tx, "revocation", id, state.revocations.get(id))?,
            Touched::Binding(key) => put(tx, "binding", key, state.bindings.get(key))?,
            Touched::Subject(key) => put(tx, "subject", key, state.subjects.get(key))?,
            Touched::Token(name) => put(tx, "token", name, state.tokens.get(name))?,
            Touched::End(key) => put(tx, "end", key, state.last_ends.get(key))?,
        }
    }
    if touched
        .iter()
        .any(|touched| matches!(touched, Touched::Policy(_)))
    {
        let kept = i64::try_from(state.policy_history.len()).unwrap_or(i64::MAX);
        tx.execute(
            "DELETE FROM policy_history WHERE id NOT IN
                 (SELECT id FROM policy_history ORDER BY id DESC LIMIT ?1)",
            [kept],
        )?;
        let in_force: Vec<String> = state
            .policies
            .values()
            .map(|(pointer, _)| pointer.hash.to_string())
            .collect();
        tx.execute(
            "DELETE FROM policy_set WHERE hash NOT IN (SELECT hash FROM policy_history)
                 AND hash NOT IN (SELECT value FROM json_each(?1))",
            [json(&in_force)?],
        )?;
    }
    let mut keys = false;
    for write in batch {
        if let Some((key, changes)) = &write.key {
            tx.execute(
                "INSERT INTO idempotency (key, changes, revision) VALUES (?1, ?2, ?3)",
                params![
                    key,
                    changes.to_string(),
                    i64::try_from(write.revision.0).unwrap_or(i64::MAX)
                ],
            )?;
            keys = true;
        }
    }
    if keys {
        tx.execute(
            "DELETE FROM idempotency WHERE id <= (SELECT max(id) FROM idempotency) - ?1",
            [KEYS],
        )?;
    }
    put_meta(tx, "revision", &state.revision)
}

fn put<K: Serialize, V: Serialize>(
    tx: &Transaction<'_>,
    kind: &str,
    key: &K,
    value: Option<&V>,
) -> rusqlite::Result<()> {
    let key = json(key)?;
    match value {
        Some(value) => tx.execute(
            "INSERT INTO entry (kind, key, value) VALUES (?1, ?2, ?3)
                 ON CONFLICT DO UPDATE SET value = excluded.value",
            params![kind, key, json(value)?],
        )?,
        None => tx.execute(
            "DELETE FROM entry WHERE kind = ?1 AND key = ?2",
            params![kind, key],
        )?,
    };
    Ok(())
}

fn put_meta<T: Serialize>(tx: &Transaction<'_>, name: &str, value: &T) -> rusqlite::Result<()> {
    tx.execute(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET value = excluded.value",
        params![name, json(value)?],
    )?;
    Ok(())
}
