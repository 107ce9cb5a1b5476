//! What `explain` says of reconnecting, beside what `decide` makes of it.
#![cfg(test)]

use curfew_model::{BootInstant, Now, WallInstant};
use curfew_policy::Decide;
use curfew_testkit::{alice, compiled, document};

const NOW: Now = Now {
    boot: BootInstant(0),
    wall: WallInstant(0),
};
const DEFAULT: &str = "reconnect proof by Defaults/high reconnect (built in)";

/// The lines about reconnecting, and whether it needs proof, where the segment and a policy say these limits and alice
/// can prove herself or not.
fn said(segment: &str, policy: &str, provable: bool) -> (Vec<String>, bool) {
    let segment =
        format!("sensitivity: high, members: [{{cidr: 10.0.0.1}}], limits: {{{segment}}}");
    let policy = format!("from: {{anyone: true}}, to: {{segments: [db]}}, limits: {{{policy}}}");
    let text = document("Segment", "db", &segment) + &document("SessionPolicy", "p", &policy);
    let set = compiled(&text, 1);
    let (client, target) = ("192.0.2.1:1", "10.0.0.1:5432");
    let (client, target) = (client.parse().unwrap(), target.parse().unwrap());
    let mut facts = alice(client, target, BootInstant(0));
    facts.proved_at = provable.then_some(BootInstant(0));
    let limits = set.explain(&facts, NOW).limits;
    let about = limits
        .into_iter()
        .filter(|line| line.starts_with("reconnect"));
    let decision = set.decide(&facts, NOW);
    (
        about.collect(),
        decision.segments[0].reconnect_proof.is_some(),
    )
}

#[test]
fn what_is_asked_by_default_is_said() {
    let lifetime = "maxLifetime: 10m";
    let (lines, proof) = said(lifetime, lifetime, true);
    assert_eq!((lines, proof), (vec![DEFAULT.to_owned()], true));
    let (lines, proof) = said(lifetime, lifetime, false);
    let not_here = format!("{DEFAULT}: not asked of this subject, which cannot give any");
    assert_eq!((lines, proof), (vec![not_here], false));
}

#[test]
fn what_is_allowed_is_said_as_such_and_only_the_segment_lifts_the_default() {
    let (lifetime, allow) = ("maxLifetime: 10m", "reconnect: allow");
    let (lines, proof) = said(allow, lifetime, true);
    let by_segment = "reconnect allow by Segment/db spec.limits.reconnect (p.yaml:5)";
    assert_eq!((lines, proof), (vec![by_segment.to_owned()], false));
    let (lines, proof) = said(lifetime, allow, true);
    let by_policy = "reconnect allow by SessionPolicy/p spec.limits.reconnect (p.yaml:10)";
    assert_eq!(
        (lines, proof),
        (vec![by_policy.to_owned(), DEFAULT.to_owned()], true)
    );
}
