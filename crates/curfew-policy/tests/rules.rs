//! The rules of the lease, each with a set of documents and what `decide` makes of it.
#![cfg(test)]

use std::time::Duration;

use curfew_model::{
    BootInstant, EndReason, Facts, Identity, Issuer, Kind, Lease, Now, PolicyName, Proof,
    Provenance, Revision, WallInstant,
};
use curfew_policy::{Decide, Decision, PolicySet, Refusal};
use curfew_testkit::{alice, compiled, document};

const MINUTE: u64 = 60_000_000_000;

fn set(text: &str) -> PolicySet {
    compiled(text, 7)
}

fn segment(name: &str, spec: &str) -> String {
    document("Segment", name, spec)
}

fn policy(name: &str, spec: &str) -> String {
    document("SessionPolicy", name, spec)
}

fn db(spec: &str) -> String {
    segment(
        "db",
        &format!("members: [{{cidr: 10.0.0.0/24, ports: [5432]}}], {spec}"),
    )
}

/// Alice, of the group dba, from 192.0.2.1 to the database, just opened.
fn facts() -> Facts {
    let mut facts = alice(
        "192.0.2.1:40000".parse().unwrap(),
        "10.0.0.1:5432".parse().unwrap(),
        BootInstant(0),
    );
    facts.groups = vec!["dba".to_owned()];
    facts
}

fn now(wall: &str) -> Now {
    Now {
        boot: BootInstant(0),
        wall: WallInstant(wall.parse::<jiff::Timestamp>().unwrap().as_millisecond()),
    }
}

fn decide(documents: &str, facts: &Facts) -> Decision {
    set(documents).decide(facts, now("2026-11-24T12:00:00Z"))
}

fn admitted(decision: &Decision) -> &Lease {
    assert_eq!(decision.refusal, None);
    &decision.lease
}

fn refused(decision: &Decision) -> &Refusal {
    decision.refusal.as_ref().expect("refused")
}

fn lifetime(decision: &Decision) -> (u64, EndReason) {
    let bound = admitted(decision).expires_at.as_ref().unwrap();
    (bound.at.0 / MINUTE, bound.reason)
}

#[test]
fn the_defaults_are_those_of_the_sensitivity() {
    for (word, life, idle) in [
        ("low", 720, 60),
        ("moderate", 480, 30),
        ("high", 60, 15),
        ("critical", 15, 5),
    ] {
        let decision = decide(&db(&format!("sensitivity: {word}, access: open")), &facts());
        assert_eq!(lifetime(&decision).0, life, "{word}");
        let (timeout, by) = admitted(&decision).idle_timeout.clone().unwrap();
        assert_eq!(timeout, Duration::from_secs(60 * idle), "{word}");
        let document = format!("Defaults/{word}");
        assert!(
            matches!(&*by, Provenance::Document { document: d, place: None, .. } if *d == document),
            "{by:?}"
        );
    }
}

#[test]
fn a_segments_limits_replace_its_default_field_by_field_and_policies_only_tighten() {
    let documents = db("sensitivity: critical, limits: {maxLifetime: 40m}")
        + &policy(
            "dba",
            "from: {groups: [dba]}, to: {segments: [db]}, limits: {maxLifetime: 50m, idleTimeout: 1m}",
        );
    let decision = decide(&documents, &facts());
    assert_eq!(lifetime(&decision), (40, EndReason::LifetimeExpired));
    assert_eq!(
        admitted(&decision).idle_timeout.as_ref().unwrap().0,
        Duration::from_secs(60)
    );
    let by = &admitted(&decision).expires_at.as_ref().unwrap().by;
    let place = "p.yaml:5".to_owned();
    let (document, field) = (
        "Segment/db".to_owned(),
        "spec.limits.maxLifetime".to_owned(),
    );
    assert_eq!(
        **by,
        Provenance::Document {
            document,
            field,
            place: Some(place),
            revision: Revision(7),
        }
    );
}

#[test]
fn defaults_can_be_replaced() {
    let documents = db("sensitivity: high, access: open")
        + "---\n{apiVersion: curfew.dev/v1alpha1, kind: Defaults, spec: {sensitivities: {high: {maxLifetime: 45m}}}}\n";
    assert_eq!(lifetime(&decide(&documents, &facts())).0, 45);
}

#[test]
fn admission_takes_one_policy_and_ceilings_admit_nobody() {
    let segment = db("sensitivity: low");
    assert_eq!(
        refused(&decide(&segment, &facts())).reason,
        EndReason::AccessDenied
    );
    let ceiling = segment.clone()
        + &policy(
            "c",
            "admit: false, from: {anyone: true}, to: {sensitivities: [low]}, limits: {maxLifetime: 9m}",
        );
    assert_eq!(
        refused(&decide(&ceiling, &facts())).reason,
        EndReason::AccessDenied
    );
    let both = ceiling + &policy("dba", "from: {groups: [dba]}, to: {segments: [db]}");
    let decision = decide(&both, &facts());
    assert_eq!(lifetime(&decision).0, 9);
    assert_eq!(
        decision.policies,
        ["c", "dba"].map(|name| PolicyName::new(name).unwrap())
    );
}

#[test]
fn inside_a_list_any_between_fields_all_and_except_any() {
    let with = |from: &str| {
        decide(
            &(db("sensitivity: low")
                + &policy("p", &format!("from: {from}, to: {{segments: [db]}}"))),
            &facts(),
        )
    };
    for from in [
        "{users: [bob, alice]}",
        "{groups: [x, dba], cidrs: [192.0.2.0/24]}",
        "{anyone: true}",
    ] {
        admitted(&with(from));
    }
    for from in [
        "{users: [bob]}",
        "{users: [alice], groups: [x]}",
        "{workloads: [alice]}",
        "{users: ['https://idp#alice']}",
        "{groups: [dba], except: {users: [alice]}}",
        "{groups: [dba], except: {users: [bob], cidrs: [192.0.2.0/24]}}",
    ] {
        assert_eq!(
            refused(&with(from)).reason,
            EndReason::AccessDenied,
            "{from}"
        );
    }
}

#[test]
fn asserted_identities_are_limited_but_not_admitted() {
    let mut role = facts();
    role.identities.push(Identity {
        proof: Proof::Asserted,
        kind: Kind::Role,
        issuer: Issuer::local(),
        id: "db/postgres".to_owned(),
        display: None,
    });
    let base =
        db("sensitivity: low") + &policy("everyone", "from: {anyone: true}, to: {segments: [db]}");
    let limits = "to: {segments: [db]}, limits: {maxLifetime: 3m}";
    let only_role =
        db("sensitivity: low") + &policy("r", &format!("from: {{roles: [db/postgres]}}, {limits}"));
    assert_eq!(
        refused(&decide(&only_role, &role)).reason,
        EndReason::AccessDenied
    );
    let allowed = db("sensitivity: low")
        + &policy(
            "r",
            &format!("from: {{roles: [db/postgres], allowAsserted: true}}, {limits}"),
        );
    assert_eq!(lifetime(&decide(&allowed, &role)).0, 3);
    let limited = base.clone()
        + &policy(
            "r",
            &format!("admit: false, from: {{roles: [db/postgres]}}, {limits}"),
        );
    assert_eq!(lifetime(&decide(&limited, &role)).0, 3);
    // An asserted identity cannot lift a limit by being excepted; a bound one can.
    let lifted = |who: &str| {
        base.clone()
            + &policy(
                "c",
                &format!("admit: false, from: {{anyone: true, except: {who}}}, {limits}"),
            )
    };
    assert_eq!(
        lifetime(&decide(&lifted("{roles: [db/postgres]}"), &role)).0,
        3
    );
    assert_eq!(lifetime(&decide(&lifted("{users: [alice]}"), &role)).0, 720);
}

#[test]
fn without_identity_only_anyone_admits() {
    let mut nobody = facts();
    nobody.identities.clear();
    nobody.groups.clear();
    let documents =
        db("sensitivity: low") + &policy("dba", "from: {groups: [dba]}, to: {segments: [db]}");
    assert_eq!(
        refused(&decide(&documents, &nobody)).reason,
        EndReason::Unattributed
    );
    let documents = documents + &policy("all", "from: {anyone: true}, to: {segments: [db]}");
    admitted(&decide(&documents, &nobody));
    let ambiguous = Facts {
        ambiguous: true,
        ..facts()
    };
    // Where no policy is asked, too.
    let open = db("sensitivity: low, access: open");
    for documents in [documents, open] {
        assert_eq!(
            refused(&decide(&documents, &ambiguous)).reason,
            EndReason::Unattributed
        );
    }
}

#[test]
fn every_segment_that_contains_the_target_has_a_say() {
    let documents = segment(
        "wide",
        "sensitivity: low, access: open, members: [{cidr: 10.0.0.0/8}], limits: {maxLifetime: 5m}",
    ) + &db("sensitivity: critical")
        + &policy("dba", "from: {segments: [laptops]}, to: {segments: [db]}")
        + &segment(
            "laptops",
            "sensitivity: low, access: open, members: [{cidr: 192.0.2.0/24, ports: [1]}]",
        );
    let decision = decide(&documents, &facts());
    let names: Vec<&str> = decision
        .segments
        .iter()
        .map(|segment| segment.name.as_str())
        .collect();
    assert_eq!(names, ["db", "wide"]);
    assert_eq!(lifetime(&decision).0, 5);
    let mut elsewhere = facts();
    elsewhere.client = "198.51.100.1:1".parse().unwrap();
    assert_eq!(
        refused(&decide(&documents, &elsewhere)).reason,
        EndReason::AccessDenied
    );
}

#[test]
fn windows_admit_end_and_are_named() {
    let documents = db("sensitivity: low")
        + &policy(
            "a",
            "from: {anyone: true}, to: {segments: [db]}, during: {hours: \"08:00-12:30\", timeZone: UTC}",
        )
        + &policy(
            "b",
            "from: {anyone: true}, to: {segments: [db]}, during: {hours: \"12:30-13:00\", timeZone: UTC}",
        );
    let set = set(&documents);
    // One window follows the other without a gap, so the session ends with the second.
    let noon = set.decide(&facts(), now("2026-11-24T12:00:00Z"));
    assert_eq!(lifetime(&noon), (60, EndReason::OutsideHours));
    assert_eq!(noon.look_again_at, Some(BootInstant(30 * MINUTE)));
    assert_eq!(
        refused(&set.decide(&facts(), now("2026-11-24T13:00:00Z"))).reason,
        EndReason::OutsideHours
    );
}

#[test]
fn a_grant_bounds_the_session() {
    let documents = db("sensitivity: low")
        + &policy(
            "g",
            "from: {anyone: true}, to: {segments: [db]}, notAfter: 2026-11-24T12:20:00Z",
        );
    let set = set(&documents);
    assert_eq!(
        lifetime(&set.decide(&facts(), now("2026-11-24T12:00:00Z"))),
        (20, EndReason::GrantExpired)
    );
    assert_eq!(
        refused(&set.decide(&facts(), now("2026-11-24T12:20:00Z"))).reason,
        EndReason::GrantExpired
    );
}

#[test]
fn conditions_fail_towards_strict() {
    let with = |when: &str, facts: &Facts| {
        let documents = db("sensitivity: low")
            + &policy("all", "from: {anyone: true}, to: {segments: [db]}")
            + &policy(
                "w",
                &format!(
                    "from: {{anyone: true}}, to: {{segments: [db]}}, when: {when:?}, limits: {{maxLifetime: 2m}}"
                ),
            );
        lifetime(&decide(&documents, facts)).0
    };
    let mut known = facts();
    known
        .attributes
        .insert("subject.risk".to_owned(), "high".to_owned());
    known
        .attributes
        .insert("device.compliant".to_owned(), "maybe".to_owned());
    assert_eq!(with("subject.risk == 'high'", &known), 2);
    assert_eq!(with("subject.risk in ['low', 'medium']", &known), 720);
    assert_eq!(with("subject.risk == 'high'", &facts()), 2, "absent");
    assert_eq!(
        with("device.compliant", &known),
        2,
        "neither true nor false is absent"
    );
    assert_eq!(
        with("subject.groups.exists(g, g.startsWith('db'))", &known),
        2
    );
    assert_eq!(with("subject.groups[7] == 'x'", &known), 2, "it fails");
    let grant = db("sensitivity: low")
        + &policy(
            "w",
            "from: {anyone: true}, to: {segments: [db]}, when: subject.risk == 'low'",
        );
    assert_eq!(
        refused(&decide(&grant, &facts())).reason,
        EndReason::AccessDenied,
        "absent: it does not grant"
    );
}

#[test]
fn reauthentication_counts_from_the_last_proof() {
    let documents = db("sensitivity: low, access: open, limits: {reauthEvery: 10m}");
    let mut proved = facts();
    proved.opened_at = BootInstant(100 * MINUTE);
    let by = |facts: &Facts| {
        admitted(&decide(&documents, facts))
            .reauth_by
            .clone()
            .unwrap()
    };
    assert_eq!(by(&proved).at, BootInstant(110 * MINUTE));
    proved.proved_at = Some(BootInstant(95 * MINUTE));
    assert_eq!(
        (by(&proved).at, by(&proved).reason),
        (BootInstant(105 * MINUTE), EndReason::ReauthOverdue)
    );
}

#[test]
fn credentials_cap_where_they_matter() {
    let mut bearer = facts();
    bearer.credential_until = Some(now("2026-11-24T12:05:00Z").wall);
    bearer.binding_until = Some(now("2026-11-24T12:07:00Z").wall);
    for (spec, capped) in [
        ("sensitivity: moderate, access: open", false),
        ("sensitivity: high, access: open", true),
        (
            "sensitivity: low, access: open, limits: {credential: cap}",
            true,
        ),
        (
            "sensitivity: critical, access: open, limits: {credential: entry}",
            false,
        ),
    ] {
        let decision = decide(&db(spec), &bearer);
        let lease = admitted(&decision);
        assert_eq!(lease.credential_until.is_some(), capped, "{spec}");
        assert_eq!(
            lease.binding_until.as_ref().unwrap().at,
            BootInstant(7 * MINUTE),
            "{spec}"
        );
    }
}

#[test]
fn reconnect_and_concurrency_are_the_strictest() {
    let documents = db("sensitivity: critical, limits: {maxConcurrent: 5}")
        + &policy(
            "a",
            "from: {anyone: true}, to: {segments: [db]}, limits: {reconnect: 60s, maxConcurrent: 3}",
        )
        + &policy(
            "b",
            "from: {users: [bob]}, to: {segments: [db]}, limits: {maxConcurrent: 1}",
        );
    let of = |facts: &Facts| decide(&documents, facts).segments[0].clone();
    let segment = of(&facts());
    assert_eq!(segment.max_concurrent.unwrap().0, 3);
    let (wait, by) = segment.reconnect_wait.unwrap();
    assert_eq!(wait, Duration::from_secs(60));
    let place = Provenance::Document {
        document: "SessionPolicy/a".to_owned(),
        field: "spec.limits.reconnect".to_owned(),
        place: Some("p.yaml:10".to_owned()),
        revision: Revision(7),
    };
    assert_eq!((&*by, segment.reconnect_proof), (&place, None));
    let provable = Facts {
        proved_at: Some(BootInstant(0)),
        ..facts()
    };
    assert!(
        of(&provable).reconnect_proof.is_some(),
        "critical asks for proof where it can be given"
    );
}

#[test]
fn audit_mode_records_and_enforced_limits_act() {
    let audit = db("sensitivity: critical, mode: audit");
    let decision = decide(&audit, &facts());
    assert!(refused(&decision).audit_only);
    let both = audit
        + &segment(
            "all",
            "sensitivity: low, access: open, members: [{cidr: 0.0.0.0/0}]",
        );
    let decision = decide(&both, &facts());
    assert!(refused(&decision).audit_only);
    assert_eq!(
        decision.lease.expires_at.as_ref().unwrap().at,
        BootInstant(720 * MINUTE)
    );
    let denied = both + &segment("shut", "sensitivity: low, members: [{cidr: 10.0.0.1}]");
    assert!(
        !refused(&decide(&denied, &facts())).audit_only,
        "an enforced refusal is told first"
    );
}

#[test]
fn explain_says_what_decide_does() {
    let documents = db("sensitivity: critical")
        + &policy("dba", "from: {groups: [dba]}, to: {segments: [db]}")
        + &policy(
            "night",
            "from: {anyone: true}, to: {segments: [db]}, during: {hours: \"20:00-06:00\", timeZone: UTC}",
        );
    let text = set(&documents)
        .explain(&facts(), now("2026-11-24T12:00:00Z"))
        .to_string();
    let expected = "\
subject   user:alice
segment   db (critical): a policy has to admit
policy    dba (p.yaml:9): admits
policy    night (p.yaml:14): does not match: outside its hours until 2026-11-24T20:00:00.000Z
limit     maxLifetime 15m by Defaults/critical maxLifetime (built in)
limit     idleTimeout 5m by Defaults/critical idleTimeout (built in)
limit     credential cap by Defaults/critical credential (built in)
limit     reconnect proof by Defaults/critical reconnect (built in): not asked of this subject, which cannot give any
decision  admitted; ends at 2026-11-24T12:05:00.000Z (idle_timeout) if nothing moves";
    assert_eq!(text, expected);
}
