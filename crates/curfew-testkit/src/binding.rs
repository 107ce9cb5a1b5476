//! Bindings as tests make them.

use curfew_model::{Binding, BindingKey, Identity, Issuer, Kind, Proof};

/// What binds this key to a user of these groups, without an end.
#[must_use]
pub fn bound(key: BindingKey, user: &str, groups: &[&str]) -> Binding {
    Binding {
        key,
        identity: Identity {
            proof: Proof::Bound,
            kind: Kind::User,
            issuer: Issuer::local(),
            id: user.to_owned(),
            display: None,
        },
        groups: groups.iter().copied().map(str::to_owned).collect(),
        until: None,
        refreshed_at: None,
    }
}
