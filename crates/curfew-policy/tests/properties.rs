//! I3: adding a ceiling only tightens, and the order of documents decides nothing.
#![cfg(test)]

use curfew_model::{BootInstant, Facts, Now, Revision, WallInstant};
use curfew_policy::{Decide, Decision, compile, load};
use curfew_testkit::alice;
use proptest::prelude::*;

const SEGMENTS: [&str; 3] = ["wide", "db", "audited"];

fn base() -> Vec<String> {
    [("wide", "sensitivity: low, access: open, members: [{cidr: 10.0.0.0/8}]"),
        ("db", "sensitivity: high, members: [{cidr: 10.0.0.0/24}]"),
        ("audited", "sensitivity: critical, mode: audit, members: [{cidr: 10.0.0.1}]")]
    .into_iter()
    .map(|(name, spec)| {
        format!("apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n")
    })
    .collect()
}

fn decide(documents: &[String]) -> Decision {
    let text = documents.join("---\n");
    let loaded = load([("p", text.as_str())]);
    assert!(!loaded.has_errors(), "{:?}\n{text}", loaded.problems);
    let set = compile(loaded.documents, Revision(1)).unwrap();
    let facts: Facts = alice(
        "192.0.2.1:9".parse().unwrap(),
        "10.0.0.1:5432".parse().unwrap(),
        BootInstant(0),
    );
    // Monday 2026-11-23, 12:00 UTC.
    set.decide(
        &facts,
        Now {
            boot: BootInstant(0),
            wall: WallInstant(1_795_435_200_000),
        },
    )
}

prop_compose! {
    fn policy()(
        number in 0u32..1_000_000,
        admit in any::<bool>(),
        from in prop::sample::select(vec!["anyone: true", "users: [alice]", "users: [bob]", "anyone: true, except: {users: [alice]}"]),
        to in prop::sample::select(&SEGMENTS[..]),
        during in prop::sample::select(vec!["", ", during: {hours: '08:00-18:00', timeZone: UTC}", ", during: {hours: '13:00-14:00', timeZone: UTC}"]),
        when in prop::sample::select(vec!["", ", when: subject.id == 'alice'", ", when: subject.risk == 'low'"]),
        lifetime in 1u32..2000,
        idle in 1u32..100,
    ) -> (u32, bool, String) {
        let rest = format!("from: {{{from}}}, to: {{segments: [{to}]}}{during}{when}, limits: {{maxLifetime: {lifetime}m, idleTimeout: {idle}m}}");
        (number, admit, rest)
    }
}

fn document((number, admit, rest): &(u32, bool, String), index: usize) -> String {
    format!(
        "apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: p{index}-{number}}}\nspec: {{admit: {admit}, {rest}}}\n"
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn a_further_ceiling_only_tightens(policies in prop::collection::vec(policy(), 0..6), extra in policy()) {
        let mut documents = base();
        documents.extend(policies.iter().enumerate().map(|(index, policy)| document(policy, index)));
        let before = decide(&documents);
        documents.push(document(&(extra.0, false, extra.2), 99));
        let after = decide(&documents);
        match (&before.refusal, &after.refusal) {
            (None, None) => {
                let (loose, strict) = (&before.lease, &after.lease);
                let activity = BootInstant(0);
                prop_assert!(strict.deadline(activity) <= loose.deadline(activity));
                let mut both = loose.clone();
                both.tighten(strict.clone());
                prop_assert_eq!(both.deadline(activity), strict.deadline(activity));
            }
            (Some(one), Some(other)) => prop_assert_eq!(one.reason, other.reason),
            (one, other) => prop_assert!(false, "a ceiling changed who is admitted: {one:?} {other:?}"),
        }
    }

    #[test]
    fn the_order_of_documents_decides_nothing(policies in prop::collection::vec(policy(), 0..6), turn in 0usize..9) {
        let mut documents = base();
        documents.extend(policies.iter().enumerate().map(|(index, policy)| document(policy, index)));
        let one = decide(&documents);
        let turn = turn % documents.len();
        documents.rotate_left(turn);
        let other = decide(&documents);
        // Places differ, so what is compared is what a session is given.
        let given = |decision: &Decision| {
            let refusal = decision.refusal.as_ref();
            let refused = refusal.map(|refusal| (refusal.reason, refusal.audit_only));
            (refused, decision.lease.deadline(BootInstant(0)))
        };
        prop_assert_eq!(given(&one), given(&other));
        prop_assert_eq!(one.policies, other.policies);
        prop_assert_eq!(one.look_again_at, other.look_again_at);
    }

    #[test]
    fn rubbish_is_an_error_and_no_panic(text in "[-a-zA-Z0-9{}\\[\\]:,#'\"&*!|>%@` \n]{0,200}") {
        let loaded = load([("p", text.as_str())]);
        for problem in &loaded.problems {
            prop_assert!(!problem.to_string().is_empty());
        }
    }
}
