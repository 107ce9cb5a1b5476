//! The desired state as a value, and what each change does to it. Pure: no storage, no clock.

use std::{collections::BTreeMap, fmt, net::IpAddr, str::FromStr, sync::Arc};

use curfew_model::{
    Binding, BindingKey, Block, Identity, Issuer, Kind, Revision, Revocation, RevocationId,
    SegmentName, WallInstant,
};
use imbl::OrdMap;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{Change, CommitError, Weight};

/// Entries of each kind, at most.
const ENTRIES: usize = 100_000;
/// Orders above which no further one that keeps new sessions out is taken.
pub const BLOCKS: usize = ENTRIES;
/// Orders, at most. The room above [`BLOCKS`] is for those that keep nobody out: ending what is open has to be possible
/// whatever is kept.
pub const ORDERS: usize = BLOCKS + 10_000;
/// API tokens, at most: each one is compared with what a caller presents.
const TOKENS: usize = 1_000;
/// Bytes of one policy set as it is kept, at most.
pub const POLICY_BYTES: usize = 8 * 1024 * 1024;
/// Applied policy sets in the history, at most.
const HISTORY: usize = 256;

/// A SHA-256 value: of a policy set's text, or of an API token. Written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hash([u8; 32]);

impl Hash {
    /// The hash of bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// Its bytes, for comparing in constant time.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Hash> for String {
    fn from(hash: Hash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for Hash {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl FromStr for Hash {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let error = || format!("{text:?} is not 64 lower-case hexadecimal digits");
        let is_digit = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 64 || !text.as_bytes().iter().all(is_digit) {
            return Err(error());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().as_chunks::<2>().0) {
            *byte = std::str::from_utf8(pair)
                .ok()
                .and_then(|pair| u8::from_str_radix(pair, 16).ok())
                .ok_or_else(error)?;
        }
        Ok(Self(bytes))
    }
}

/// Who a policy set belongs to; each owner has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Owner {
    /// The files of the node configuration.
    Files,
    /// The API.
    Api,
}

/// One application of a policy set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyPointer {
    /// Whose set.
    pub owner: Owner,
    /// The hash of its text.
    pub hash: Hash,
    /// Since which revision.
    pub revision: Revision,
    /// When it was applied.
    pub at: WallInstant,
    /// Who applied it.
    pub by: String,
}

/// What a caller of the API may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Look.
    Viewer,
    /// Look, cancel and revoke.
    Operator,
    /// Everything.
    Admin,
    /// Make bindings of addresses within its networks, and nothing else.
    Binder,
}

/// An API token: only its hash is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiToken {
    /// Its name, unique.
    pub name: String,
    /// The hash of the token.
    pub hash: Hash,
    /// What it may do.
    pub role: Role,
    /// Where the addresses that a binder binds have to be in; without one it binds no address.
    #[serde(default)]
    pub networks: Vec<IpNet>,
    /// When it was made.
    pub created_at: WallInstant,
}

/// What a subject is known by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SubjectKey {
    /// What it names.
    pub kind: Kind,
    /// Who vouches.
    pub issuer: Issuer,
    /// The name.
    pub id: String,
}

impl From<&Identity> for SubjectKey {
    fn from(identity: &Identity) -> Self {
        Self {
            kind: identity.kind,
            issuer: identity.issuer.clone(),
            id: identity.id.clone(),
        }
    }
}

/// What is known of a subject apart from its bindings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Who.
    pub key: SubjectKey,
    /// Its groups.
    pub groups: Vec<String>,
    /// Typed attributes for conditions, by their dotted name.
    pub attributes: BTreeMap<String, String>,
}

/// Whose session ended.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Whose {
    /// That of a subject.
    Subject(SubjectKey),
    /// That of a client without any identity.
    Address {
        /// Where it came from.
        address: IpAddr,
    },
}

/// What a last end is kept by.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EndKey {
    /// Whose session.
    pub subject: Whose,
    /// Into which segment.
    pub segment: SegmentName,
}

/// The policy set in force of each owner: what is known of it, and its text.
pub type Policies = BTreeMap<Owner, (PolicyPointer, Arc<str>)>;

/// The desired state at one revision. Its maps are persistent: a copy shares all but what changed since, so that
/// neither copying it nor changing a copy takes longer the more it holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Its revision; zero before any change.
    pub revision: Revision,
    /// The policy set in force, by owner.
    pub policies: Policies,
    /// Applied sets, the oldest first; the last 256.
    pub policy_history: Arc<Vec<PolicyPointer>>,
    /// Orders.
    pub revocations: OrdMap<RevocationId, Revocation>,
    /// Bindings.
    pub bindings: OrdMap<BindingKey, Binding>,
    /// What the bindings hold.
    pub bindings_weight: Weight,
    /// Subjects.
    pub subjects: OrdMap<SubjectKey, Subject>,
    /// What the subjects hold.
    pub subjects_weight: Weight,
    /// API tokens by name.
    pub tokens: OrdMap<String, ApiToken>,
    /// The last end by lifetime of each subject into each segment.
    pub last_ends: OrdMap<EndKey, WallInstant>,
}

/// What a change touched: the engine writes these entries, or removes them when the state has them no more.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Touched {
    Policy(Owner),
    Revocation(RevocationId),
    Binding(BindingKey),
    Subject(SubjectKey),
    Token(String),
    End(EndKey),
}

fn put<K: Ord + Clone, V: Clone>(
    what: &'static str,
    limit: usize,
    map: &mut OrdMap<K, V>,
    key: K,
    value: V,
) -> Result<(), CommitError> {
    if map.len() >= limit && !map.contains_key(&key) {
        return Err(CommitError::Limit { what, limit });
    }
    map.insert(key, value);
    Ok(())
}

fn remove<K: Ord + Clone, V: Clone>(
    what: &'static str,
    map: &mut OrdMap<K, V>,
    key: &K,
    name: impl FnOnce() -> String,
) -> Result<(), CommitError> {
    if !map.contains_key(key) {
        return Err(CommitError::Unknown { what, name: name() });
    }
    map.remove(key);
    Ok(())
}

impl State {
    /// Weighs what was put in without [`State::apply`].
    pub(crate) fn weighed(self) -> Self {
        Self {
            bindings_weight: Weight::of(self.bindings.values()),
            subjects_weight: Weight::of(self.subjects.values()),
            ..self
        }
    }

    /// Applies one change of the commit that makes `revision`; after an error it is of no use.
    pub(crate) fn apply(
        &mut self,
        revision: Revision,
        change: &Change,
    ) -> Result<Vec<Touched>, CommitError> {
        let touched = match change {
            Change::ApplyPolicy {
                owner,
                content,
                at,
                by,
            } => {
                if content.len() > POLICY_BYTES {
                    let what = "bytes of policy";
                    return Err(CommitError::Limit {
                        what,
                        limit: POLICY_BYTES,
                    });
                }
                let pointer = PolicyPointer {
                    owner: *owner,
                    hash: Hash::of(content.as_bytes()),
                    revision,
                    at: *at,
                    by: by.clone(),
                };
                let history = Arc::make_mut(&mut self.policy_history);
                history.push(pointer.clone());
                let over = history.len().saturating_sub(HISTORY);
                history.drain(..over);
                self.policies.insert(*owner, (pointer, Arc::clone(content)));
                Touched::Policy(*owner)
            }
            Change::Revoke(order) => {
                if let Some(known) = self.revocations.get(&order.id) {
                    let same = Revocation {
                        revision: known.revision,
                        lifted_at: known.lifted_at,
                        ..order.clone()
                    };
                    return if same == *known {
                        Ok(Vec::new())
                    } else {
                        Err(CommitError::OtherRevocation(order.id))
                    };
                }
                let order = Revocation {
                    revision,
                    ..order.clone()
                };
                let id = order.id;
                let limit = match order.block {
                    Block::None => ORDERS,
                    _ => BLOCKS,
                };
                put("revocations", limit, &mut self.revocations, id, order)?;
                Touched::Revocation(id)
            }
            Change::Lift { id, at } => {
                let unknown = || CommitError::Unknown {
                    what: "revocation",
                    name: id.to_string(),
                };
                let order = self.revocations.get_mut(id).ok_or_else(unknown)?;
                order.lifted_at.get_or_insert(*at);
                Touched::Revocation(*id)
            }
            Change::ForgetRevocation(id) => {
                remove("revocation", &mut self.revocations, id, || id.to_string())?;
                Touched::Revocation(*id)
            }
            Change::Bind(binding) => {
                let key = binding.key.clone();
                let before = self.bindings.get(&key);
                self.bindings_weight = self.bindings_weight.with(before, Some(binding))?;
                put(
                    "bindings",
                    ENTRIES,
                    &mut self.bindings,
                    key.clone(),
                    binding.clone(),
                )?;
                Touched::Binding(key)
            }
            Change::Unbind(key) => {
                let before = self.bindings.get(key);
                self.bindings_weight = self.bindings_weight.with(before, None)?;
                remove("binding", &mut self.bindings, key, || key.to_string())?;
                Touched::Binding(key.clone())
            }
            Change::PutSubject(subject) => {
                let key = subject.key.clone();
                let before = self.subjects.get(&key);
                self.subjects_weight = self.subjects_weight.with(before, Some(subject))?;
                put(
                    "subjects",
                    ENTRIES,
                    &mut self.subjects,
                    key.clone(),
                    subject.clone(),
                )?;
                Touched::Subject(key)
            }
            Change::ForgetSubject(key) => {
                let before = self.subjects.get(key);
                self.subjects_weight = self.subjects_weight.with(before, None)?;
                remove("subject", &mut self.subjects, key, || key.id.clone())?;
                Touched::Subject(key.clone())
            }
            Change::PutToken(token) => {
                let name = token.name.clone();
                if self.tokens.contains_key(&name) {
                    return Err(CommitError::TokenExists(name));
                }
                put(
                    "API tokens",
                    TOKENS,
                    &mut self.tokens,
                    name.clone(),
                    token.clone(),
                )?;
                Touched::Token(name)
            }
            Change::RemoveToken(name) => {
                let is_admin = |token: &ApiToken| token.role == Role::Admin;
                let mut others = self.tokens.values().filter(|token| token.name != *name);
                if self.tokens.get(name).is_some_and(is_admin) && !others.any(is_admin) {
                    return Err(CommitError::LastAdmin);
                }
                remove("API token", &mut self.tokens, name, || name.clone())?;
                Touched::Token(name.clone())
            }
            Change::Ended { key, at } => {
                let latest = self
                    .last_ends
                    .get(key)
                    .map_or(*at, |known| (*known).max(*at));
                put(
                    "last ends",
                    ENTRIES,
                    &mut self.last_ends,
                    key.clone(),
                    latest,
                )?;
                Touched::End(key.clone())
            }
            Change::ForgetEnds { before } => {
                let old: Vec<EndKey> = self
                    .last_ends
                    .iter()
                    .filter(|(_, at)| *at < before)
                    .map(|(key, _)| key.clone())
                    .collect();
                for key in &old {
                    self.last_ends.remove(key);
                }
                return Ok(old.into_iter().map(Touched::End).collect());
            }
        };
        Ok(vec![touched])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use curfew_model::Scope;

    #[test]
    fn when_no_further_block_is_taken_what_is_open_can_still_be_ended() {
        let order = |number: usize, block| Revocation {
            id: RevocationId(uuid::Uuid::from_u128(number as u128)),
            scope: Scope::All,
            block,
            reason: "drill".to_owned(),
            source: "api:admin".to_owned(),
            created_at: WallInstant(0),
            revision: Revision(0),
            lifted_at: None,
        };
        let held = (0..BLOCKS).map(|number| order(number, Block::UntilLifted));
        let mut state = State {
            revocations: held.map(|order| (order.id, order)).collect(),
            ..State::default()
        };
        let mut give =
            |number, block| state.apply(Revision(1), &Change::Revoke(order(number, block)));
        let full = CommitError::Limit {
            what: "revocations",
            limit: BLOCKS,
        };
        for block in [Block::UntilLifted, Block::Until(WallInstant(9))] {
            assert_eq!(give(BLOCKS, block), Err(full.clone()));
        }
        for number in BLOCKS..ORDERS {
            assert!(give(number, Block::None).is_ok());
        }
        assert!(give(ORDERS, Block::None).is_err());
    }
}
