//! Identifiers as newtypes: names that people write, UUIDv7 ids that Curfew makes, and the revision.
//!
//! Making ids needs time and randomness, so it happens in the shells, never here.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Why a string is not a name: names are 1–253 of `a-z 0-9 - . _`, and start and end with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{name:?} is not a name: use 1-253 of a-z, 0-9, '-', '.', '_', starting and ending with a letter or digit"
)]
pub struct InvalidName {
    name: String,
}

fn is_name(text: &str) -> bool {
    let edge = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = text.as_bytes();
    bytes.len() <= 253
        && bytes.first().copied().is_some_and(edge)
        && bytes.last().copied().is_some_and(edge)
        && bytes
            .iter()
            .all(|&byte| edge(byte) || matches!(byte, b'-' | b'.' | b'_'))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Parses a name.
            ///
            /// # Errors
            /// [`InvalidName`] when a character or the length is not allowed.
            pub fn new(text: &str) -> Result<Self, InvalidName> {
                if is_name(text) { Ok(Self(text.into())) } else { Err(InvalidName { name: text.to_owned() }) }
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $type {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = InvalidName;
            fn try_from(text: String) -> Result<Self, InvalidName> {
                Self::new(&text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(/// The name of a segment, unique in a policy set.
    SegmentName);
name_type!(/// The name of a session policy, unique in a policy set.
    PolicyName);
name_type!(/// The name of a service of the gateway.
    ServiceName);
name_type!(/// The name of one running process with doors.
    EnforcerId);
name_type!(/// The name of a device as its management system calls it.
    DeviceId);

/// Why a string is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id has 36 characters, like 01890a5d-ac96-774b-bcce-b302099a8057: copy it whole")]
pub struct InvalidId;

macro_rules! uuid_type {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $type(pub Uuid);

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $type {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Uuid::parse_str(text).map(Self).map_err(|_| InvalidId)
            }
        }
    };
}

uuid_type!(/// One session, a UUIDv7.
    SessionId);
uuid_type!(/// One revocation, a UUIDv7; repeating an order with the same id changes nothing.
    RevocationId);

/// The single increasing number of the desired state. Zero is the empty state, before any change.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        assert!(SegmentName::new("payments-db.eu_1").is_ok());
        for bad in ["", "-a", "a-", "Ä", "A", "a b", &"a".repeat(254)] {
            assert!(SegmentName::new(bad).is_err(), "{bad:?}");
        }
    }
}
