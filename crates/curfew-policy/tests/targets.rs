//! Which segments a session leads into, where its service has several addresses.
#![cfg(test)]

use std::time::Duration;

use curfew_model::{
    Binding, BindingKey, BootInstant, EndReason, Facts, Identity, Issuer, Kind, Now, Proof,
    Revision, ServiceName, UpstreamAddress, WallInstant,
};
use curfew_policy::{Decide, Given, Outcome, PolicySet, Sight, compile, load};
use curfew_testkit::{alice, compiled, document};

const NOW: Now = Now {
    boot: BootInstant(0),
    wall: WallInstant(0),
};

/// A segment of a port at some addresses, open to all for so long, and one of others that needs a policy.
fn set(policy: &str) -> PolicySet {
    let segment = |name: &str, spec: &str| document("Segment", name, spec);
    let text = segment(
        "office",
        "sensitivity: low, access: open, members: [{cidr: 10.0.0.0/24}], limits: {maxLifetime: 2h}",
    ) + &segment(
        "vault",
        "sensitivity: critical, members: [{cidr: '2001:db8::/32', ports: [5432]}], limits: {maxLifetime: 10m}",
    ) + policy;
    compiled(&text, 1)
}

/// Alice on the way to any of these addresses.
fn facts(addresses: &[&str]) -> Facts {
    let all = addresses.iter().map(|address| address.parse().unwrap());
    let first = addresses[0].parse().unwrap();
    let mut facts = alice("192.0.2.1:40000".parse().unwrap(), first, BootInstant(0));
    facts.target.upstreams = all.map(UpstreamAddress::Tcp).collect();
    facts
}

const ADMITS: &str = "---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {name: alice}\n\
                      spec: {from: {users: [alice]}, to: {segments: [vault]}, when: target.port == 5432}\n";

#[test]
fn the_strictest_segment_of_any_address_holds() {
    let set = set(ADMITS);
    let both = facts(&["10.0.0.1:5432", "[2001:db8::1]:5432"]);
    let decision = set.decide(&both, NOW);
    let names: Vec<&str> = decision.segments.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["vault", "office"]);
    assert_eq!(decision.refusal, None);
    let end = decision.lease.expires_at.unwrap();
    assert_eq!(end.at, BootInstant(0).after(Duration::from_secs(600)));
    let alone = set.decide(&facts(&["10.0.0.1:5432"]), NOW);
    assert_eq!(alone.segments.len(), 1);
}

#[test]
fn the_segment_of_any_address_has_to_admit() {
    let set = set("");
    let both = facts(&["10.0.0.1:5432", "[2001:db8::1]:5432"]);
    let refusal = set.decide(&both, NOW).refusal.unwrap();
    assert_eq!(refusal.reason, EndReason::AccessDenied);
}

#[test]
fn a_policy_leads_to_those_of_its_segments_that_have_one_of_its_sensitivities() {
    let both = facts(&["10.0.0.1:5432", "[2001:db8::1]:5432"]);
    for (to, seconds) in [
        ("segments: [office, vault], sensitivities: [high, low]", 60),
        ("segments: [vault], sensitivities: [low]", 600),
        ("segments: [vault], sensitivities: [low, critical]", 60),
        ("sensitivities: [low]", 60),
    ] {
        let spec = format!(
            "admit: false, from: {{anyone: true}}, to: {{{to}}}, limits: {{maxLifetime: 1m}}"
        );
        let set = set(&(ADMITS.to_owned() + &document("SessionPolicy", "ceiling", &spec)));
        let end = set.decide(&both, NOW).lease.expires_at.unwrap();
        let expected = BootInstant(0).after(Duration::from_secs(seconds));
        assert_eq!(end.at, expected, "{to}");
    }
}

#[test]
fn a_service_that_nothing_limits_is_for_nobody() {
    let set = set("");
    let mut nowhere = facts(&["192.0.2.7:1"]);
    let what_a_door_sees_of_others = set.decide(&nowhere, NOW).refusal;
    assert_eq!(what_a_door_sees_of_others, None);
    nowhere.target.service = Some(ServiceName::new("db").unwrap());
    let refusal = set.decide(&nowhere, NOW).refusal.unwrap();
    assert_eq!(refusal.reason, EndReason::AccessDenied);
    assert_eq!(refusal.cause, "no segment contains the service db");
    assert!(!refusal.audit_only);
}

#[test]
fn one_address_is_enough_for_a_segment_and_all_are_named_where_there_is_none() {
    let set = set("");
    assert!(set.covers(&facts(&["192.0.2.7:1", "10.0.0.1:1"]).target));
    let nowhere = facts(&["192.0.2.7:1", "192.0.2.8:1"]);
    assert!(!set.covers(&nowhere.target));
    let explained = set.explain(&nowhere, NOW);
    assert_eq!(explained.outcome, Outcome::NoSegment);
    let both = "the address 192.0.2.7:1 or the address 192.0.2.8:1";
    assert!(explained.verdict.contains(both), "{}", explained.verdict);
}

#[test]
fn v4_mapped_ranges_are_ipv4_wherever_they_stand() {
    let text = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: NAME}\nspec: {sensitivity: low, MORE}\n";
    let segment = |name: &str, more: &str| text.replace("NAME", name).replace("MORE", more);
    for (member, client) in [
        ("'::ffff:10.0.0.1'", "'::ffff:192.0.2.1'"),
        ("'::ffff:10.0.0.0/120'", "'::ffff:192.0.2.0/120'"),
        ("'::ffff:0:0/96'", "'::ffff:0:0/96'"),
    ] {
        let text = segment("vault", &format!("access: open, members: [{{cidr: {member}}}]"))
            + "---\n"
            + &segment("office", &format!("members: [{{cidr: {client}}}]"))
            + &[("from-cidr", format!("cidrs: [{client}]")), ("from-segment", "segments: [office]".to_owned())]
                .map(|(name, from)| format!(
                    "---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: {name}}}\n\
                     spec: {{admit: false, from: {{{from}}}, to: {{segments: [vault]}}, limits: {{maxLifetime: 1m}}}}\n"
                ))
                .concat();
        let loaded = load([("p.yaml", &*text)]);
        assert_eq!(loaded.problems, []);
        let set = compile(loaded.documents, Revision(1)).unwrap();
        let decision = set.decide(&facts(&["10.0.0.1:5432"]), NOW);
        let names: Vec<&str> = decision.policies.iter().map(|name| name.as_str()).collect();
        assert_eq!(names, ["from-cidr", "from-segment"], "{member} {client}");
    }
}

#[test]
fn members_that_no_door_sees_are_named_unless_a_binding_gives_them() {
    let text = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: x}\nspec:\n  sensitivity: low\n\
                \x20 members:\n  - {cidr: 10.0.0.0/8}\n  - {cgroup: '/a/*.service'}\n  - {spiffe: 'spiffe://e/*'}\n\
                \x20 - {uid: 7}\n  - {pods: {namespace: n}}\n";
    let set = compile(load([("p.yaml", text)]).documents, Revision(1)).unwrap();
    let lines = |sees: &[Sight], given: &Given| -> Vec<u64> {
        let problems = set.unseen(sees, given);
        problems.iter().map(|problem| problem.place.line).collect()
    };
    let mut given = Given::default();
    assert_eq!(lines(&[], &given), [8, 9, 10, 11]);
    assert_eq!(lines(&[Sight::Cgroup, Sight::Pods], &given), [9, 10]);
    let said = set.unseen(&[], &given);
    assert_eq!(said[3].message, "no door of this node sees pods");
    for id in ["cgroup:/a/db.service", "spiffe://e/db"] {
        given.binding(&workload(id));
    }
    assert_eq!(lines(&[], &given), [10, 11]);
}

/// A binding that gives a workload.
fn workload(id: &str) -> Binding {
    Binding {
        key: BindingKey::Uid(1),
        identity: Identity {
            proof: Proof::Bound,
            kind: Kind::Workload,
            issuer: Issuer::local(),
            id: id.to_owned(),
            display: None,
        },
        groups: Vec::new(),
        until: None,
        refreshed_at: None,
    }
}

#[test]
fn many_members_are_not_held_against_many_bindings_without_end() {
    // Each member is the last of the workloads that are looked at.
    let members = vec!["{spiffe: 'spiffe://e/z'}"; 90].join(", ");
    let spec = format!("sensitivity: low, members: [{members}]");
    let set = compiled(&document("Segment", "x", &spec), 1);
    let mut given = Given::default();
    for n in 0..20_000 {
        given.binding(&workload(&format!("spiffe://e/n{n}")));
    }
    given.binding(&workload("spiffe://e/z"));
    assert_eq!(set.unseen(&[], &given).len(), 90 - 1_000_000 / 20_001);
}
