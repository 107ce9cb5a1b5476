//! What is said of limits that ask for fresh proof of those who can give none.
#![cfg(test)]

use curfew_model::{Binding, BindingKey, Identity, Issuer, Kind, Proof, Revision};
use curfew_policy::{Given, compile, load};

/// What is said when the segment and the policy have these limits, and alice of the group `dba` can prove nothing.
fn said(segment: &str, policy: &str, from: &str) -> Vec<String> {
    let text = format!(
        "apiVersion: curfew.dev/v1alpha1
kind: Segment
metadata: {{name: db}}
spec: {{sensitivity: low, members: [{{service: db}}], limits: {{{segment}}}}}
---
apiVersion: curfew.dev/v1alpha1
kind: SessionPolicy
metadata: {{name: p}}
spec: {{from: {from}, to: {{segments: [db]}}, limits: {{{policy}}}}}
"
    );
    let set = compile(load([("p.yaml", &*text)]).documents, Revision(1)).unwrap();
    let mut given = Given::default();
    given.binding(&Binding {
        key: BindingKey::Uid(7),
        identity: Identity {
            proof: Proof::Bound,
            kind: Kind::User,
            issuer: Issuer::local(),
            id: "alice".to_owned(),
            display: None,
        },
        groups: vec!["dba".to_owned()],
        until: None,
        refreshed_at: None,
    });
    let said = set.unprovable(&given);
    said.iter().map(ToString::to_string).collect()
}

#[test]
fn the_worse_of_what_policy_and_segment_ask_is_said_once() {
    let (lifetime, reauth, reconnect) = ("maxLifetime: 1h", "reauthEvery: 10m", "reconnect: proof");
    for (segment, policy, field) in [
        (lifetime, reauth, "reauthEvery"),
        (reauth, lifetime, "reauthEvery"),
        (reauth, reconnect, "reconnect: proof"),
        (reconnect, reauth, "reconnect: proof"),
    ] {
        let said = said(segment, policy, "{groups: [ops, dba]}");
        let [said] = &said[..] else {
            panic!("{said:?}");
        };
        let words = format!("warning: `{field}` holds for group dba here");
        assert!(said.contains(&words), "{said}");
    }
}

#[test]
fn where_nothing_is_asked_of_them_nothing_is_said() {
    assert_eq!(
        said("maxLifetime: 1h", "reconnect: 60s", "{users: [alice]}"),
        [""; 0]
    );
    assert_eq!(
        said("reauthEvery: 10m", "reconnect: proof", "{groups: [ops]}"),
        [""; 0]
    );
    assert_eq!(
        said("reauthEvery: 10m", "maxLifetime: 1h", "{users: [alice]}").len(),
        1
    );
}
