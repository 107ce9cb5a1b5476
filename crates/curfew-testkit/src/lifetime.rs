//! The smallest policy: everyone is admitted into one segment for a fixed lifetime.

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use curfew_model::{
    BootInstant, Bound, EndReason, Facts, Identity, Issuer, Kind, Lease, LossRule, Mode, Now,
    OnAdopt, Proof, Provenance, Revision, SegmentName, Sensitivity, Target, UpstreamAddress,
};
use curfew_policy::{Decide, Decision, MatchedSegment};

/// Admits everyone into the segment `db`, for this long.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime(pub Duration);

impl Decide for Lifetime {
    fn revision(&self) -> Revision {
        Revision(1)
    }

    fn decide(&self, facts: &Facts, _now: Now) -> Decision {
        let bound = Bound {
            at: facts.opened_at.after(self.0),
            reason: EndReason::LifetimeExpired,
            by: Arc::new(Provenance::Order("test".to_owned())),
        };
        let segments = SegmentName::new("db")
            .map(|name| MatchedSegment {
                name,
                sensitivity: Sensitivity::Low,
                mode: Mode::Enforce,
                max_concurrent: None,
                reconnect_wait: None,
                reconnect_proof: None,
                on_adopt: OnAdopt::default(),
                on_control_plane_loss: LossRule::default_for(Sensitivity::Low),
            })
            .into_iter()
            .collect();
        let lease = Lease {
            expires_at: Some(bound),
            ..Lease::default()
        };
        Decision {
            segments,
            policies: Vec::new(),
            lease,
            refusal: None,
            shadow: None,
            coming: None,
            look_again_at: None,
        }
    }
}

/// Facts of a session of alice, bound to her address.
#[must_use]
pub fn alice(client: SocketAddr, address: SocketAddr, opened_at: BootInstant) -> Facts {
    let identity = Identity {
        proof: Proof::Bound,
        kind: Kind::User,
        issuer: Issuer::local(),
        id: "alice".to_owned(),
        display: None,
    };
    Facts {
        identities: vec![identity],
        groups: Vec::new(),
        device: None,
        attributes: BTreeMap::new(),
        client,
        target: Target {
            service: None,
            upstreams: [UpstreamAddress::Tcp(address)].into(),
        },
        opened_at,
        proved_at: None,
        credential_until: None,
        binding_until: None,
        ambiguous: false,
    }
}
