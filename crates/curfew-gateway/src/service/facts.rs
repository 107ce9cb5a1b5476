//! What is known of a client before anything is decided. Deciding may not live here.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use curfew_model::{
    BootInstant, Facts, Identity, Issuer, Kind, Proof, SessionId, Target, WallInstant,
};
use uuid::{NoContext, Timestamp, Uuid};

use super::ServiceConfig;

/// The facts of a session that begins at `opened_at`; `user` is what the client calls itself in its protocol.
pub(super) fn facts(
    config: &ServiceConfig,
    client: SocketAddr,
    user: Option<&str>,
    opened_at: BootInstant,
) -> Facts {
    let role = |user: &str| Identity {
        proof: Proof::Asserted,
        kind: Kind::Role,
        issuer: Issuer::local(),
        id: format!("{}/{user}", config.name),
        display: None,
    };
    Facts {
        identities: user.map(role).into_iter().collect(),
        groups: Vec::new(),
        device: None,
        attributes: BTreeMap::new(),
        client,
        target: Target {
            service: Some(config.name.clone()),
            upstream: config.upstreams.first().cloned(),
        },
        opened_at,
        proved_at: None,
        credential_until: None,
        binding_until: None,
        ambiguous: false,
    }
}

/// A new id, a UUIDv7 of this time.
pub(super) fn session_id(now: WallInstant) -> SessionId {
    let millis = u64::try_from(now.0).unwrap_or(0);
    let nanos = u32::try_from(millis % 1000).unwrap_or(0) * 1_000_000;
    SessionId(Uuid::new_v7(Timestamp::from_unix(
        NoContext,
        millis / 1000,
        nanos,
    )))
}
