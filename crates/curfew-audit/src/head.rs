//! Heads: the place that a log has reached, signed. And the signing key, a file of mode 0600 in the log's directory.

use std::{
    fmt,
    fs::File,
    io::{ErrorKind, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    str::FromStr,
};

use curfew_model::WallInstant;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::{
    AuditError, Digest,
    record::{from_hex, to_hex},
    segment,
};

/// The signing key's file in the log's directory.
pub(crate) const KEY: &str = "audit.key";

/// The place that a log had reached at some time, signed. Exported, it proves later that nothing up to there was cut
/// off. Prints as one JSON line, and reads back from it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// The last record; zero for an empty log.
    pub seq: u64,
    /// Its hash.
    pub hash: Digest,
    /// When the head was made.
    pub at: WallInstant,
    /// The public key, as 64 hexadecimal digits.
    pub key: Digest,
    /// The Ed25519 signature, as 128 hexadecimal digits.
    pub signature: String,
}

/// What a signed place is for. Signed along with it, so that nobody turns an exported head into the permission to
/// remove everything before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// The log had reached this place.
    Head,
    /// Retention removed everything up to this place.
    Anchor,
}

fn message(purpose: Purpose, seq: u64, hash: Digest, at: WallInstant) -> String {
    let purpose = match purpose {
        Purpose::Head => "head",
        Purpose::Anchor => "anchor",
    };
    format!("curfew audit {purpose} 1\n{seq}\n{hash}\n{at}\n")
}

impl Head {
    /// Signs a place. The time is written to the millisecond.
    pub(crate) fn sign(
        key: &SigningKey,
        purpose: Purpose,
        seq: u64,
        hash: Digest,
        at: WallInstant,
    ) -> Self {
        let signature = key.sign(message(purpose, seq, hash, at).as_bytes());
        Self {
            seq,
            hash,
            at,
            key: Digest(key.verifying_key().to_bytes()),
            signature: to_hex(&signature.to_bytes()),
        }
    }

    /// Whether the signature is that of the head's own key. Whose key it is, the reader has to know.
    #[must_use]
    pub fn is_signed(&self) -> bool {
        self.is_signed_as(Purpose::Head)
    }

    pub(crate) fn is_signed_as(&self, purpose: Purpose) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.key.0) else {
            return false;
        };
        from_hex::<64>(&self.signature).is_some_and(|bytes| {
            key.verify_strict(
                message(purpose, self.seq, self.hash, self.at).as_bytes(),
                &Signature::from_bytes(&bytes),
            )
            .is_ok()
        })
    }
}

impl fmt::Display for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&serde_json::to_string(self).map_err(|_| fmt::Error)?)
    }
}

impl FromStr for Head {
    type Err = AuditError;

    fn from_str(text: &str) -> Result<Self, AuditError> {
        let head: Self = serde_json::from_str(text.trim_end_matches('\n'))
            .map_err(|error| AuditError::BadHead(error.to_string()))?;
        Ok(head)
    }
}

/// The public half of the signing key beside the log in `dir`; none where it is not, or this user may not read it.
pub(crate) fn public_key(dir: &Path) -> Result<Option<Digest>, AuditError> {
    let path = dir.join(KEY);
    match File::open(&path) {
        Ok(file) => {
            let key = read_key(file, path)?;
            Ok(Some(Digest(key.verifying_key().to_bytes())))
        }
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::PermissionDenied
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(AuditError::io("open", &path)(error)),
    }
}

/// Reads the signing key of the log in `dir`, or makes one.
pub(crate) fn load_or_make_key(dir: &Path) -> Result<SigningKey, AuditError> {
    let path = dir.join(KEY);
    if !path.exists() {
        make_key(dir)?;
    }
    let file = File::open(&path).map_err(AuditError::io("open", &path))?;
    let metadata = file.metadata().map_err(AuditError::io("read", &path))?;
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(AuditError::OpenKey { path, mode });
    }
    read_key(file, path)
}

fn read_key(file: File, path: PathBuf) -> Result<SigningKey, AuditError> {
    let mut text = String::new();
    file.take(128)
        .read_to_string(&mut text)
        .map_err(AuditError::io("read", &path))?;
    let seed = from_hex::<32>(text.trim_end()).ok_or(AuditError::BadKey { path })?;
    Ok(SigningKey::from_bytes(&seed))
}

fn make_key(dir: &Path) -> Result<(), AuditError> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(|error| AuditError::Randomness(error.to_string()))?;
    segment::replace(dir, KEY, &format!("{}\n", to_hex(&seed)))
}
