//! Limits that never act because of other documents, policies that lead nowhere, and grants that are over.
#![cfg(test)]

use curfew_model::{Revision, WallInstant};
use curfew_policy::{PolicySet, Problem, compile, load};
use curfew_testkit::document;

fn set(text: &str) -> PolicySet {
    let loaded = load([("p.yaml", text)]);
    assert_eq!(loaded.problems, []);
    compile(loaded.documents, Revision(1)).unwrap()
}

fn segment(name: &str, spec: &str) -> String {
    let members = format!("members: [{{service: {name}}}]");
    document(
        "Segment",
        name,
        &format!("sensitivity: critical, {members}, {spec}"),
    )
}

fn policy(name: &str, spec: &str) -> String {
    document(
        "SessionPolicy",
        name,
        &format!("from: {{anyone: true}}, {spec}"),
    )
}

fn said(problems: Vec<Problem>) -> Vec<String> {
    let text = |problem: &Problem| {
        let otherwise = problem.consequence.as_deref().unwrap_or_default();
        format!("{}: {}; {otherwise}", problem.place.line, problem.message)
    };
    problems.iter().map(text).collect()
}

#[test]
fn a_limit_that_a_lifetime_of_another_document_outlasts_is_said() {
    let defaults = document(
        "Defaults",
        "all",
        "sensitivities: {critical: {idleTimeout: 10m, warnBefore: 20m}}",
    );
    let text = defaults
        + &segment("db", "limits: {maxLifetime: 10m}")
        + &segment("own", "limits: {maxLifetime: 30m}");
    assert_eq!(
        said(set(&text).vain()),
        [
            "9: `idleTimeout` 10m of Defaults/critical is not shorter than `maxLifetime` 10m of Segment/db; no session ever ends by it",
            "9: `warnBefore` 20m of Defaults/critical is not shorter than `maxLifetime` 10m of Segment/db; every session is warned as it opens",
        ]
    );
}

#[test]
fn nobody_wrote_the_built_in_defaults() {
    let text = segment("db", "limits: {maxLifetime: 5m}") + &segment("web", "access: open");
    assert_eq!(said(set(&text).vain()), [] as [&str; 0]);
}

#[test]
fn a_policy_is_said_where_all_its_segments_are_shorter() {
    let text = segment("short", "limits: {maxLifetime: 10m}")
        + &segment("long", "access: policy")
        + &policy(
            "never",
            "to: {segments: [short]}, limits: {idleTimeout: 10m, warnBefore: 20m}",
        )
        + &policy(
            "somewhere",
            "to: {segments: [short, long]}, limits: {idleTimeout: 10m}",
        );
    assert_eq!(
        said(set(&text).vain()),
        [
            "14: `idleTimeout` 10m is not shorter than the longest lifetime of its segments, 10m; no session ever ends by it",
            "14: `warnBefore` 20m is not shorter than the longest lifetime of its segments, 10m; every session is warned as it opens",
        ]
    );
}

#[test]
fn a_policy_that_leads_to_none_of_its_segments_is_said() {
    let text = segment("db", "access: policy")
        + &policy("both", "to: {segments: [db], sensitivities: [critical]}")
        + &policy("ahead", "to: {sensitivities: [low]}")
        + &policy("astray", "to: {segments: [db], sensitivities: [low, high]}");
    let set = set(&text);
    assert_eq!(
        said(set.astray()),
        [
            "19: `to` leads nowhere: no segment that it names is of these sensitivities; it neither admits nor limits"
        ]
    );
    assert_eq!(said(set.vain()), [] as [&str; 0]);
}

#[test]
fn a_grant_that_is_over_is_said_from_its_end_on() {
    let text = segment("db", "access: policy")
        + &policy(
            "grant",
            "to: {segments: [db]}, notAfter: 1970-01-01T00:00:01Z",
        );
    let set = set(&text);
    assert_eq!(said(set.over(WallInstant(999))), [] as [&str; 0]);
    assert_eq!(
        said(set.over(WallInstant(1_000))),
        ["9: `notAfter` is past; it neither admits nor limits any more"]
    );
}
