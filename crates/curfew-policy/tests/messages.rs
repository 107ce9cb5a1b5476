//! What a person is told about wrong documents, to the letter.
#![cfg(test)]

use curfew_model::Revision;
use curfew_policy::{compile, load};

/// Every message about a source, or about what it compiles to.
fn messages(text: &str) -> String {
    let loaded = load([("p.yaml", text)]);
    let problems = if loaded.problems.is_empty() {
        compile(loaded.documents, Revision(1))
            .err()
            .unwrap_or_default()
    } else {
        loaded.problems
    };
    problems
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join("\n")
}

const HEAD: &str = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\n";

#[test]
fn everything_wrong_is_found_in_one_pass() {
    let text = format!(
        "{HEAD}spec:\n  sensitivity: hihg\n  members: []\n  limits:\n    maxLifetme: 10m\n    idleTimeout: 0s\n    warnBefore: 5\n"
    );
    let expected = r#"p.yaml:5:16: error: `sensitivity` is "hihg", which is not one of its words
  5 |   sensitivity: hihg
    |                ^
  = help: did you mean `high`?
p.yaml:6:12: error: `members` is an empty list
  6 |   members: []
    |            ^
  = otherwise: it would match nothing
  = help: leave the field out, or name at least one
p.yaml:8:5: error: unknown field `maxLifetme` in spec.limits
  8 |     maxLifetme: 10m
    |     ^
  = otherwise: it would be ignored, and the policy would not do what it says
  = help: did you mean `maxLifetime`?
p.yaml:9:18: error: `idleTimeout`: the duration "0s" is zero: it must be longer
  9 |     idleTimeout: 0s
    |                  ^
p.yaml:10:17: error: `warnBefore` is the bare number 5
  10 |     warnBefore: 5
     |                 ^
  = help: give it a unit, like 5s or 5m"#;
    assert_eq!(messages(&text), expected);
}

#[test]
fn each_kind_of_mistake_is_named_at_its_place() {
    let segment = |spec: &str| format!("{HEAD}spec: {{sensitivity: low, {spec}}}\n");
    let policy = |spec: &str| {
        segment("members: [{service: db}]")
            + &format!(
                "---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: p}}\nspec: {{{spec}}}\n"
            )
    };
    let to = "to: {segments: [db]}";
    for (text, expected) in [
        (
            segment("members: [{cidr: 10.0.0.1/8}]"),
            "4:43: error: \"10.0.0.1/8\" has bits set behind its prefix",
        ),
        (
            segment("members: [{cidr: 10.0.0/8}]"),
            "4:43: error: \"10.0.0/8\" is neither a range",
        ),
        (
            segment("members: [{cidr: 10.0.0.0/8, ports: [70000]}]"),
            "error: a port is a number: it has to be 1 to 65535",
        ),
        (
            segment("members: [{service: db, uid: 1}]"),
            "error: a member needs exactly one of",
        ),
        (
            segment("members: [{spiffe: 'spiffe://*/x'}]"),
            "a trust domain without `*`",
        ),
        (
            segment("members: [{cgroup: x.service}]"),
            "it is a path from the root",
        ),
        (
            segment("members: [{service: db}], limits: {maxConcurrent: 0}"),
            "error: `maxConcurrent` is 0",
        ),
        (
            segment("members: [{service: db}], limits: {maxLifetime: 5m, idleTimeout: 5m}"),
            "warning: `idleTimeout` is not shorter than `maxLifetime`",
        ),
        (
            policy(&format!("from: {{}}, {to}")),
            "error: `from` selects nobody",
        ),
        (
            policy(&format!("from: {{anyone: true, users: [a]}}, {to}")),
            "error: `anyone` stands beside a narrower selection",
        ),
        (
            policy("from: {anyone: true}, to: {}"),
            "error: `to` leads nowhere",
        ),
        (
            policy("from: {anyone: true}, to: {segments: [dbs]}"),
            "error: there is no segment `dbs` in this set",
        ),
        (
            policy("from: {anyone: true}, to: {segments: [dbs]}"),
            "help: did you mean `db`?",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, when: subject.rsik == 'low'"
            )),
            "did you mean `subject.risk`?",
        ),
        (
            policy(&format!("from: {{anyone: true}}, {to}, when: now() > 3")),
            "unknown function `now`",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, when: 'subject.risk =='"
            )),
            "error: `when`: not CEL",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, when: subject == 'x'"
            )),
            "`subject` is no attribute by itself",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, during: {{hours: 8-18, timeZone: Europe/Berln}}"
            )),
            "\"Europe/Berln\" is no time zone",
        ),
        (
            policy(&format!("from: {{anyone: true}}, {to}, notAfter: tomorrow")),
            "write an instant like 2027-01-31T00:00:00Z",
        ),
        (
            policy(&format!("admit: false, from: {{anyone: true}}, {to}")),
            "warning: the policy `p` neither admits nor limits",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, onSignal: [{{signal: x, effect: close}}]"
            )),
            "error: `signal` is \"x\"",
        ),
        (
            segment("members: [{service: db}]").repeat(2),
            "error: not YAML",
        ),
        (
            [
                segment("members: [{service: db}]"),
                segment("members: [{service: db}]"),
            ]
            .join("---\n"),
            "error: the segment `db` is given twice; the first is at p.yaml:3:18",
        ),
        (
            "{apiVersion: v2, kind: Segmnt, metadata: {name: X}, spec: {}}".to_owned(),
            "did you mean `Segment`?",
        ),
        (
            "[1, 2]".to_owned(),
            "1:1: error: a document is a list: it has to be a map",
        ),
        ("a: [".to_owned(), "error: not YAML"),
        (String::new(), "policy set: error: the set has no segment"),
    ] {
        let messages = messages(&text);
        assert!(
            messages.contains(expected),
            "{text}\n expected {expected}\n found {messages}"
        );
    }
}

#[test]
fn the_examples_load_without_a_word() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/policy");
    let mut sources = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        sources.push((
            path.display().to_string(),
            std::fs::read_to_string(&path).unwrap(),
        ));
    }
    assert!(sources.len() >= 2, "the examples were not found");
    let loaded = load(
        sources
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    assert_eq!(loaded.problems, []);
    assert_eq!(loaded.documents.count(), (3, 3));
    compile(loaded.documents, Revision(1)).unwrap();
}

#[test]
fn the_documents_of_the_guide_are_valid() {
    let guide = include_str!("../../../docs/guide/policy.md");
    let blocks: Vec<&str> = guide
        .split("```yaml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert_eq!(blocks.len(), 2, "the guide's examples were not found");
    let loaded = load(blocks.iter().map(|block| ("policy.md", *block)));
    assert_eq!(loaded.problems, []);
    compile(loaded.documents, Revision(1)).unwrap();
}

#[test]
fn a_source_that_nests_or_repeats_without_end_is_an_error() {
    let indented: String = (1..1_000)
        .map(|by| format!("{}- \n", " ".repeat(by)))
        .collect();
    for (text, what) in [
        (format!("a:\n{indented}"), "budget breached: Depth"),
        (format!("a:\n {}", "- ".repeat(1_000)), "budget breached: Depth"),
        (
            format!("{HEAD}spec: {}", "[".repeat(100_000)),
            "recursion limit exceeded",
        ),
        (
            "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n".to_owned(),
            "alias replay",
        ),
    ] {
        let said = messages(&text);
        assert!(said.contains(what), "{said}");
    }
}
