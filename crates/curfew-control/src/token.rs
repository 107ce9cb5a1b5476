//! API tokens: how they are made, kept and recognised, and the first one. Only hashes are kept; a token has 256 bits of
//! randomness, so that a plain SHA-256 of it gives nothing away.

use std::{
    io,
    path::{Path, PathBuf},
};

use curfew_audit::replace;
use curfew_model::WallInstant;
use curfew_state::{ApiToken, Change, CommitError, Expected, Hash, Role, State, Store};
use subtle::ConstantTimeEq as _;

/// The file of the first token in the data directory.
pub(crate) const FILE: &str = "admin.token";
/// The first token's name.
const ADMIN: &str = "admin";
const PREFIX: &str = "curfew_";

/// Makes a token: `curfew_` and 64 hexadecimal digits.
pub(crate) fn make() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("{PREFIX}{digits}"))
}

/// The token on record that was presented. Every one is compared, each in constant time.
pub(crate) fn find<'a>(state: &'a State, presented: &str) -> Option<&'a ApiToken> {
    let hash = Hash::of(presented.as_bytes());
    let mut found = None;
    for token in state.tokens.values() {
        if bool::from(token.hash.as_bytes().ct_eq(hash.as_bytes())) {
            found = Some(token);
        }
    }
    found
}

/// Why there is no first token.
#[derive(Debug, thiserror::Error)]
pub enum FirstTokenError {
    /// The file system refused.
    #[error("cannot write the first token to {}; check the directory, its owner and the free space", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The system gave no randomness.
    #[error("no randomness for the first token: {0}")]
    Randomness(String),
    /// The store refused its hash.
    #[error("the first token could not be kept")]
    Commit(#[source] CommitError),
}

/// Makes the first token: its hash into the store, itself into `admin.token` (0600) of the data directory. The file comes
/// first: after a crash in between, the next start makes another one.
pub(crate) fn make_first(
    store: &dyn Store,
    dir: &Path,
    now: WallInstant,
) -> Result<(), FirstTokenError> {
    let state = store.read();
    let token = make().map_err(|error| FirstTokenError::Randomness(error.to_string()))?;
    let path = dir.join(FILE);
    replace(dir, FILE, &format!("{token}\n"))
        .map_err(|source| FirstTokenError::File { path, source })?;
    let token = ApiToken {
        name: ADMIN.to_owned(),
        hash: Hash::of(token.as_bytes()),
        role: Role::Admin,
        networks: Vec::new(),
        created_at: now,
    };
    store
        .commit(Expected::State(state.revision), &[Change::PutToken(token)])
        .map_err(FirstTokenError::Commit)?;
    Ok(())
}
