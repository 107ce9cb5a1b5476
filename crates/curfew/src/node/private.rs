//! The data directory is its owner's alone: it holds tokens and keys. What is in it is not looked at here.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::Path,
};

use rustix::{
    fs::{Access, AtFlags, CWD, accessat},
    process::geteuid,
};

use super::NodeError;

/// What its mode lets others do.
const WRITE: u32 = 0o022;
const ANYTHING: u32 = 0o077;
/// What Curfew needs itself.
const ALL: Access = Access::READ_OK
    .union(Access::WRITE_OK)
    .union(Access::EXEC_OK);
/// Who may write everywhere.
const ROOT: u32 = 0;
/// The mode that lets them do nothing.
const PRIVATE: u32 = 0o700;

/// Makes it, or makes sure that others may not look into the one that is there.
///
/// # Errors
/// As [`check`].
pub fn make(dir: &Path) -> Result<(), NodeError> {
    let failed = |source| NodeError::DataDir {
        path: dir.to_owned(),
        source,
    };
    check(dir)?;
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(PRIVATE).create(dir);
    made.map_err(failed)?;
    check(dir)?;
    let found = fs::metadata(dir).map_err(failed)?;
    if found.mode() & ANYTHING == 0 {
        return Ok(());
    }
    let (path, mode) = (dir.display(), found.mode() & 0o777);
    fs::set_permissions(dir, fs::Permissions::from_mode(PRIVATE)).map_err(failed)?;
    tracing::warn!(
        "others could look into the data directory {path} (mode {mode:04o}): it is 0700 now"
    );
    Ok(())
}

/// Whether others may write into it, or own it: they could have put a token or a state of theirs there. One that is not
/// there yet is made in private.
///
/// # Errors
/// [`NodeError::OthersWrite`], [`NodeError::OthersOwn`], and [`NodeError::DataDir`] when it cannot be used.
pub fn check(dir: &Path) -> Result<(), NodeError> {
    let path = dir.to_owned();
    match fs::metadata(dir) {
        Ok(found) if !found.is_dir() => Err(NodeError::DataDir {
            path,
            source: io::ErrorKind::NotADirectory.into(),
        }),
        Ok(found) if found.mode() & WRITE != 0 => Err(NodeError::OthersWrite {
            path,
            mode: found.mode() & 0o777,
        }),
        Ok(found) if ![ROOT, geteuid().as_raw()].contains(&found.uid()) => {
            let owner = found.uid();
            Err(NodeError::OthersOwn { path, owner })
        }
        Ok(_) => accessat(CWD, dir, ALL, AtFlags::EACCESS).map_err(|error| NodeError::DataDir {
            path,
            source: error.into(),
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(NodeError::DataDir { path, source }),
    }
}
