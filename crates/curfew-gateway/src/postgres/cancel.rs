//! Cancel keys, the CancelRequest for the upstream, and which live session a key belongs to.
//! Sending may not live here.

use std::{collections::HashMap, fmt};

use curfew_model::{SessionId, UpstreamAddress};

/// The process id and secret of BackendKeyData: 4 to 256 bytes of secret (protocol 3.0 and 3.2).
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey(Vec<u8>);

impl CancelKey {
    /// From the payload of BackendKeyData, or of CancelRequest after its code. `None` if the length is impossible.
    #[must_use]
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        (8..=260)
            .contains(&payload.len())
            .then(|| Self(payload.to_vec()))
    }

    /// The secret without the process id.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.0.get(4..).unwrap_or(&[])
    }

    /// The CancelRequest for the server that gave this key.
    #[must_use]
    pub fn request(&self) -> Vec<u8> {
        let length = u32::try_from(self.0.len()).unwrap_or(0) + 8;
        let mut out = length.to_be_bytes().to_vec();
        out.extend(super::preamble::CANCEL.to_be_bytes());
        out.extend(&self.0);
        out
    }
}

/// Shows no secret.
impl fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CancelKey(..)")
    }
}

/// Why a key was not registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// The registry holds its limit of keys.
    #[error(
        "{0} cancel keys are registered, which is the limit; try again when a session has ended"
    )]
    Full(usize),
    /// A live session of another id has the same key.
    #[error("the cancel key belongs to another live session; do not forward cancels for this one")]
    Taken,
}

/// Whose a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The live session.
    pub session: SessionId,
    /// The server that gave the key.
    pub upstream: UpstreamAddress,
}

/// The keys of live sessions, no more than a limit.
#[derive(Debug)]
pub struct CancelRegistry {
    live: HashMap<CancelKey, Holder>,
    limit: usize,
}

impl CancelRegistry {
    /// An empty registry of at most `limit` keys.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            live: HashMap::new(),
            limit,
        }
    }

    /// Registers the key of a session that lives.
    ///
    /// # Errors
    /// The registry is full, or the key belongs to another session.
    pub fn register(&mut self, key: CancelKey, holder: Holder) -> Result<(), RegisterError> {
        match self.live.get(&key) {
            Some(other) if *other == holder => return Ok(()),
            Some(_) => return Err(RegisterError::Taken),
            None => {}
        }
        if self.live.len() >= self.limit {
            return Err(RegisterError::Full(self.limit));
        }
        self.live.insert(key, holder);
        Ok(())
    }

    /// The live session that a CancelRequest with this key is for; without one it must not be forwarded.
    #[must_use]
    pub fn find(&self, key: &CancelKey) -> Option<&Holder> {
        self.live.get(key)
    }

    /// Forgets the key of a session that ended; another's stays.
    pub fn forget(&mut self, key: &CancelKey, session: SessionId) {
        if self
            .find(key)
            .is_some_and(|holder| holder.session == session)
        {
            self.live.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_one_session_s_until_that_session_ends() {
        let key = CancelKey::from_payload(&[1; 8]).unwrap();
        let holder = |number| Holder {
            session: SessionId(uuid::Uuid::from_u128(number)),
            upstream: UpstreamAddress::Unix("/run/a".into()),
        };
        let mut registry = CancelRegistry::new(1);
        registry.register(key.clone(), holder(1)).unwrap();
        registry.register(key.clone(), holder(1)).unwrap();
        let taken = registry.register(key.clone(), holder(2));
        assert_eq!(taken, Err(RegisterError::Taken));
        let other = CancelKey::from_payload(&[2; 8]).unwrap();
        let full = registry.register(other, holder(2));
        assert_eq!(full, Err(RegisterError::Full(1)));
        registry.forget(&key, holder(2).session);
        assert_eq!(registry.find(&key), Some(&holder(1)));
        registry.forget(&key, holder(1).session);
        assert_eq!(registry.find(&key), None);
    }

    #[test]
    fn a_request_is_byte_exact_and_keys_are_bounded() {
        let key = CancelKey::from_payload(&[0, 0, 0, 1, 9, 8, 7, 6]).unwrap();
        assert_eq!(
            key.request(),
            [0, 0, 0, 16, 4, 210, 22, 46, 0, 0, 0, 1, 9, 8, 7, 6]
        );
        assert!(CancelKey::from_payload(&[0; 7]).is_none());
        assert!(CancelKey::from_payload(&[0; 260]).is_some());
        assert!(CancelKey::from_payload(&[0; 261]).is_none());
    }
}
