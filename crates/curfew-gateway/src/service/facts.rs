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
            upstreams: config.upstreams.now(),
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use curfew_model::{ServiceName, UpstreamAddress};

    use super::*;
    use crate::protocol::Protocol;

    #[test]
    fn policy_sees_every_address_that_may_be_connected_to() {
        let address = |text: &str| UpstreamAddress::Tcp(text.parse().unwrap());
        let all = ["10.0.0.1:5432", "[2001:db8::1]:5432"].map(address);
        let config = ServiceConfig::new(
            ServiceName::new("db").unwrap(),
            "127.0.0.1:0".parse().unwrap(),
            all.to_vec(),
            Protocol::Tcp,
        );
        let client = "192.0.2.1:40000".parse().unwrap();
        let target = facts(&config, client, None, BootInstant(0)).target;
        assert_eq!(*target.upstreams, all);
        // Sessions share what they lead to.
        assert!(Arc::ptr_eq(&target.upstreams, &config.upstreams.now()));
    }
}
