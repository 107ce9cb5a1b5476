//! What is said of limits that ask for fresh proof of those who can give none.
#![cfg(test)]

use curfew_model::{BindingKey, Revision};
use curfew_policy::{compile, load};
use curfew_testkit::bound;

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
    let alice = bound(BindingKey::Uid(7), "alice", &["dba"]);
    let said = set.unprovable(&[alice]);
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
        let words = format!("warning: `{field}` holds for user:alice here");
        assert!(said.contains(&words), "{said}");
    }
}

#[test]
fn only_whom_the_limit_may_hold_for_is_named() {
    for from in [
        "{users: [alice]}",
        "{groups: [dba], users: [alice, bob]}",
        "{anyone: true}",
        "{anyone: true, except: {users: [bob]}}",
        "{groups: [dba], roles: [db/app]}",
        "{cidrs: [10.0.0.0/8]}",
    ] {
        let said = said("maxLifetime: 1h", "reauthEvery: 10m", from);
        assert_eq!(said.len(), 1, "{from}: {said:?}");
    }
    for from in [
        "{groups: [ops]}",
        "{groups: [dba], users: [bob]}",
        "{anyone: true, except: {groups: [dba]}}",
        "{workloads: [alice]}",
    ] {
        let said = said("maxLifetime: 1h", "reauthEvery: 10m", from);
        assert_eq!(said, [""; 0], "{from}");
    }
    assert_eq!(
        said("maxLifetime: 1h", "reconnect: 60s", "{users: [alice]}"),
        [""; 0]
    );
}
