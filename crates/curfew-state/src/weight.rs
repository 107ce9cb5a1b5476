//! How much the bindings and the subjects of a state hold: many large ones may not fill the memory. Their number is
//! bounded in `state.rs`.

use curfew_model::{Binding, BindingKey, Issuer};

use crate::{CommitError, Subject};

/// Bytes that all entries of one kind take, at most: more than two kilobytes for each of the most there may be.
const LIMIT: usize = 256 * 1024 * 1024;
/// Bytes that an entry takes beside its texts, and a text beside its characters, about.
const ENTRY: usize = 512;
const TEXT: usize = 64;

/// What takes memory by what others write into it.
pub(crate) trait Weighed {
    /// As it is named in an error.
    const WHAT: &'static str;
    /// Bytes that it takes, about.
    fn bytes(&self) -> usize;
}

fn weight<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    ENTRY + texts.map(|text| TEXT + text.len()).sum::<usize>()
}

impl Weighed for Binding {
    const WHAT: &'static str = "bytes of bindings";
    fn bytes(&self) -> usize {
        let Issuer(issuer) = &self.identity.issuer;
        let path = match &self.key {
            BindingKey::Cgroup(path) => Some(path),
            BindingKey::Address(_) | BindingKey::Uid(_) => None,
        };
        let own = path.into_iter().chain([&self.identity.id]);
        let texts = own.chain(&self.identity.display).chain(&self.groups);
        weight(texts.map(String::as_str).chain([issuer.as_ref()]))
    }
}

impl Weighed for Subject {
    const WHAT: &'static str = "bytes of subjects";
    fn bytes(&self) -> usize {
        let Issuer(issuer) = &self.key.issuer;
        let (names, values) = (self.attributes.keys(), self.attributes.values());
        let own = [&self.key.id].into_iter().chain(&self.groups);
        let texts = own.chain(names).chain(values).map(String::as_str);
        weight(texts.chain([issuer.as_ref()]))
    }
}

/// Bytes that all entries of one kind take, about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Weight(usize);

impl Weight {
    /// That of these.
    pub(crate) fn of<'a, T: Weighed + 'a>(all: impl Iterator<Item = &'a T>) -> Self {
        Self(all.map(Weighed::bytes).sum())
    }

    /// With `after` in the place of `before`. What makes it no larger is always taken.
    pub(crate) fn with<T: Weighed>(
        self,
        before: Option<&T>,
        after: Option<&T>,
    ) -> Result<Self, CommitError> {
        let [before, after] = [before, after].map(|entry| entry.map_or(0, Weighed::bytes));
        let bytes = self.0.saturating_sub(before).saturating_add(after);
        if bytes > LIMIT && after > before {
            let (what, limit) = (T::WHAT, LIMIT);
            return Err(CommitError::Limit { what, limit });
        }
        Ok(Self(bytes))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use curfew_model::{Identity, Kind, Proof};

    use super::*;
    use crate::SubjectKey;

    #[test]
    fn every_text_and_the_room_that_it_takes_count() {
        let binding = Binding {
            key: BindingKey::Cgroup("/four".to_owned()),
            identity: Identity {
                proof: Proof::Bound,
                kind: Kind::User,
                issuer: Issuer("by".into()),
                id: "alice".to_owned(),
                display: Some("Alice L.".to_owned()),
            },
            groups: vec!["dba".to_owned(), "on-call".to_owned()],
            until: None,
            refreshed_at: None,
        };
        assert_eq!(binding.bytes(), ENTRY + 6 * TEXT + 5 + 2 + 5 + 8 + 3 + 7);
        let subject = Subject {
            key: SubjectKey::from(&binding.identity),
            groups: binding.groups.clone(),
            attributes: BTreeMap::from([("risk".to_owned(), "low".to_owned())]),
        };
        assert_eq!(subject.bytes(), ENTRY + 6 * TEXT + 2 + 5 + 3 + 7 + 4 + 3);
        let none = None::<&Binding>;
        let held = Weight::default().with(none, Some(&binding)).unwrap();
        assert_eq!(held, Weight::of([&binding].into_iter()));
        assert_eq!(held.with(Some(&binding), none), Ok(Weight::default()));
    }

    #[test]
    fn too_much_is_not_taken_and_less_always_is() {
        let subject = |bytes: usize| Subject {
            key: SubjectKey {
                kind: Kind::User,
                issuer: Issuer::local(),
                id: "alice".to_owned(),
            },
            groups: vec!["x".repeat(bytes)],
            attributes: BTreeMap::new(),
        };
        let (small, large) = (subject(1), subject(2));
        let full = Weight(LIMIT);
        let refused = CommitError::Limit {
            what: "bytes of subjects",
            limit: LIMIT,
        };
        assert_eq!(full.with(None, Some(&small)), Err(refused.clone()));
        assert_eq!(full.with(Some(&small), Some(&large)), Err(refused));
        assert_eq!(full.with(Some(&small), Some(&small)), Ok(full));
        assert_eq!(full.with(Some(&large), Some(&small)), Ok(Weight(LIMIT - 1)));
        // As one that was kept before there was a limit may be.
        let over = Weight(LIMIT + 9);
        assert_eq!(over.with(Some(&large), Some(&small)), Ok(Weight(LIMIT + 8)));
    }
}
