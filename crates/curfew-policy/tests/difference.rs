//! A session is decided about otherwise by the next set only where the difference of the two concerns it.
#![cfg(test)]

use curfew_model::{BootInstant, Facts, Identity, Now, Proof, Revision, ServiceName, WallInstant};
use curfew_policy::{Decide, Decision, Difference, PolicySet, compile, load};
use curfew_testkit::alice;
use proptest::{prelude::*, sample::select};

const NAMES: [&str; 3] = ["a", "b", "c"];
const MEMBERS: [&str; 9] = [
    "cidr: 10.0.0.0/8",
    "cidr: 10.0.0.1",
    "cidr: 10.0.0.0/24, ports: [5432]",
    "cidr: 10.0.0.0/24, ports: [80]",
    "cidr: 'fd00::/8'",
    "cidr: 192.0.2.0/24",
    "service: pg",
    "service: web",
    "spiffe: 'spiffe://x/y'",
];
const FROM: [&str; 8] = [
    "anyone: true",
    "users: [alice]",
    "users: [bob], allowAsserted: true",
    "segments: [a]",
    "segments: [b, c]",
    "anyone: true, except: {segments: [c]}",
    "anyone: true, except: {users: [bob]}",
    "cidrs: [192.0.2.0/25]",
];
const TO: [&str; 5] = [
    "segments: [a]",
    "segments: [b, c]",
    "sensitivities: [low]",
    "sensitivities: [high, critical]",
    "segments: [c], sensitivities: [low]",
];
const LIMITS: [&str; 6] = [
    "",
    ", limits: {maxLifetime: 7m}",
    ", limits: {maxLifetime: 90m, idleTimeout: 2m, warnBefore: 1m}",
    ", limits: {reauthEvery: 1h}",
    ", limits: {maxConcurrent: 2}",
    ", limits: {reconnect: 60s, credential: cap}",
];
const MORE: [&str; 7] = [
    "",
    ", admit: false",
    ", when: subject.id == 'alice'",
    ", when: subject.risk == 'low'",
    ", during: {hours: '08:00-18:00', timeZone: UTC}",
    ", during: {hours: '13:00-14:00', timeZone: UTC}",
    ", notAfter: 2026-11-23T13:00:00Z",
];
const SEGMENT: [&str; 6] = [
    "sensitivity: low, access: open",
    "sensitivity: low, access: policy",
    "sensitivity: high, access: policy",
    "sensitivity: critical, mode: audit",
    "sensitivity: high, onAdopt: close",
    "sensitivity: moderate, onControlPlaneLoss: {after: 9s}",
];
const DEFAULTS: [&str; 3] = [
    "",
    "{low: {maxLifetime: 5h}}",
    "{low: {maxLifetime: 5h}, high: {idleTimeout: 3m, maxConcurrent: 4}}",
];

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: curfew.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

fn segment() -> impl Strategy<Value = String> {
    let members = prop::collection::vec(select(&MEMBERS[..]), 1..3);
    let parts = (select(&SEGMENT[..]), members, select(&LIMITS[..]));
    parts.prop_map(|(spec, members, limits)| {
        let members: Vec<String> = members.iter().map(|m| format!("{{{m}}}")).collect();
        format!("{spec}, members: [{}]{limits}", members.join(", "))
    })
}

fn policy() -> impl Strategy<Value = String> {
    let (from, to) = (select(&FROM[..]), select(&TO[..]));
    (from, to, select(&LIMITS[..]), select(&MORE[..])).prop_map(|(from, to, limits, more)| {
        format!("from: {{{from}}}, to: {{{to}}}{limits}{more}")
    })
}

/// What a set consists of: each document can change by itself.
#[derive(Clone, Debug)]
struct Parts {
    segments: Vec<String>,
    policies: Vec<Option<String>>,
    defaults: &'static str,
    /// Lines before the first document.
    lines: usize,
}

prop_compose! {
    fn parts()(
        segments in prop::collection::vec(segment(), 3),
        policies in prop::collection::vec(prop::option::weighted(0.8, policy()), 4),
        defaults in select(&DEFAULTS[..]),
        lines in 0usize..3,
    ) -> Parts {
        Parts { segments, policies, defaults, lines }
    }
}

fn set(parts: &Parts, revision: u64) -> PolicySet {
    let mut documents = Vec::new();
    for (name, spec) in NAMES.iter().zip(&parts.segments) {
        documents.push(document("Segment", name, spec));
    }
    for (number, spec) in parts.policies.iter().enumerate() {
        let named = spec
            .as_ref()
            .map(|spec| document("SessionPolicy", &format!("p{number}"), spec));
        documents.extend(named);
    }
    if !parts.defaults.is_empty() {
        let spec = format!("sensitivities: {}", parts.defaults);
        documents.push(document("Defaults", "defaults", &spec));
    }
    let text = format!("{}{}", "#\n".repeat(parts.lines), documents.join("---\n"));
    let loaded = load([("p", text.as_str())]);
    assert!(!loaded.has_errors(), "{:?}\n{text}", loaded.problems);
    compile(loaded.documents, Revision(revision)).unwrap()
}

prop_compose! {
    fn session()(
        client in select(vec!["192.0.2.1:9", "192.0.2.200:9", "10.0.0.1:9", "[fd00::1]:9"]),
        address in select(vec!["10.0.0.1:5432", "10.0.0.7:80", "10.9.9.9:80", "[fd00::2]:80", "198.51.100.1:1"]),
        service in select(vec![None, Some("pg"), Some("web")]),
        user in select(vec!["alice", "bob"]),
        proof in select(vec![Proof::Bound, Proof::Asserted]),
    ) -> Facts {
        let mut facts = alice(client.parse().unwrap(), address.parse().unwrap(), BootInstant(0));
        facts.target.service = service.map(|name| ServiceName::new(name).unwrap());
        facts.identities = vec![Identity { proof, id: user.to_owned(), ..facts.identities[0].clone() }];
        facts
    }
}

/// Monday 2026-11-23, 12:00 UTC, and so many minutes.
fn after(minutes: u64) -> Now {
    Now {
        boot: BootInstant(minutes * 60_000_000_000),
        wall: WallInstant(1_795_435_200_000 + minutes.cast_signed() * 60_000),
    }
}

/// A decision without the places and revisions of what it was made of.
fn without_places(decision: &Decision) -> String {
    let text = format!("{decision:?}").replace("Revision(2)", "Revision(1)");
    let mut pieces = text.split("place: Some(\"p:");
    let mut told = pieces.next().unwrap().to_owned();
    for piece in pieces {
        told.push_str(piece.trim_start_matches(|c: char| c.is_ascii_digit()));
    }
    told
}

fn is_concerned(difference: &Difference, facts: &Facts, before: &Decision) -> bool {
    let changed = |segment: &_| difference.segments.contains(segment);
    difference.moves(&facts.target) || before.segments.iter().any(|s| changed(&s.name))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn who_is_decided_about_otherwise_is_concerned(
        one in parts(),
        other in parts(),
        taken in prop::collection::vec(prop::bool::weighted(0.2), 9),
        sessions in prop::collection::vec(session(), 12),
    ) {
        let mut changed = one.clone();
        let from_other = |place: usize| taken[place];
        for place in (0..3).filter(|place| from_other(*place)) {
            changed.segments[place].clone_from(&other.segments[place]);
        }
        for place in (0..4).filter(|place| from_other(place + 3)) {
            changed.policies[place].clone_from(&other.policies[place]);
        }
        if from_other(7) {
            changed.defaults = other.defaults;
        }
        if from_other(8) {
            changed.lines = other.lines;
        }
        let (before, after_it) = (set(&one, 1), set(&changed, 2));
        let difference = after_it.difference(&before);
        for facts in &sessions {
            for now in [after(0), after(61), after(1_300)] {
                let old = before.decide(facts, now);
                let new = after_it.decide(facts, now);
                let same = without_places(&old) == without_places(&new);
                prop_assert!(
                    same || is_concerned(&difference, facts, &old),
                    "{difference:?}\n{facts:?}\n{old:?}\n{new:?}"
                );
            }
        }
    }

    #[test]
    fn a_set_that_only_stands_elsewhere_is_the_same(one in parts(), lines in 0usize..3) {
        let moved = Parts { lines, ..one.clone() };
        prop_assert_eq!(set(&moved, 2).difference(&set(&one, 1)), Difference::default());
    }
}

#[test]
fn what_did_not_change_is_not_named() {
    let parts = |first: &str, policy: &str| Parts {
        segments: [
            first,
            "sensitivity: low, members: [{service: web}]",
            "sensitivity: high, members: [{service: db}]",
        ]
        .map(str::to_owned)
        .to_vec(),
        policies: vec![Some(policy.to_owned())],
        defaults: "",
        lines: 0,
    };
    let (low, members) = (
        "sensitivity: low, members: [{service: pg}]",
        "sensitivity: low, members: [{service: pg2}]",
    );
    let (to_b, to_c) = (
        "from: {anyone: true}, to: {segments: [b]}",
        "from: {anyone: true}, to: {segments: [c]}",
    );
    let names = |old: Parts, new: Parts| {
        let difference = set(&new, 2).difference(&set(&old, 1));
        let segments = difference.segments.iter().map(ToString::to_string);
        let mut services: Vec<String> = difference
            .services
            .iter()
            .map(ToString::to_string)
            .collect();
        services.sort_unstable();
        (segments.collect::<Vec<_>>().join(" "), services.join(" "))
    };
    let told = |segments: &str, services: &str| (segments.to_owned(), services.to_owned());
    assert_eq!(
        names(parts(low, to_b), parts(members, to_b)),
        told("", "pg pg2")
    );
    assert_eq!(names(parts(low, to_b), parts(low, to_c)), told("b c", ""));
}
