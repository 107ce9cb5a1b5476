//! What a person is told about wrong documents, to the letter.
#![cfg(test)]

use curfew_model::{BootInstant, Now, Revision, WallInstant, steers};
use curfew_policy::{compile, is_empty, load};
use curfew_testkit::{alice, document};

/// Every message about a source, or about what it compiles to.
fn messages(text: &str) -> String {
    let loaded = load([("p.yaml", text)]);
    let across = compile(loaded.documents, Revision(1)).err();
    let mut problems = loaded.problems;
    problems.extend(across.unwrap_or_default());
    problems.sort_by(|a, b| a.place.cmp(&b.place));
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
  = otherwise: it would be ignored, and what it says would not happen
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
            "4:43: error: `cidr` is \"10.0.0.1/8\", which has bits set behind its prefix",
        ),
        (
            segment("members: [{cidr: '::ffff:10.0.0.1/104'}]"),
            "help: write 10.0.0.0/8 for the range, or 10.0.0.1 for the address",
        ),
        (
            segment("members: [{cidr: 10.0.0/8}]"),
            "4:43: error: `cidr` is \"10.0.0/8\": write a range like",
        ),
        (
            segment("members: [{cidr: 10.0.0.0/8, ports: [70000]}]"),
            "error: a port is 70000: it has to be a whole number from 1 to 65535",
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
            policy(&format!("from: {{users: ['https://idp#']}}, {to}")),
            "error: `users`: \"https://idp#\" is half a name: write ID or ISSUER#ID",
        ),
        (
            policy(&format!("from: {{workloads: ['#x']}}, {to}")),
            "error: `workloads`: \"#x\" is half a name",
        ),
        (
            policy(&format!("from: {{roles: [postgres]}}, {to}")),
            "9:23: error: the role \"postgres\" is of no service: write it SERVICE/NAME",
        ),
        (
            policy(&format!(
                "from: {{anyone: true, except: {{roles: [db/]}}}}, {to}"
            )),
            "error: the role \"db/\" is of no service",
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
                "from: {{anyone: true}}, {to}, when: _foo(subject.id)"
            )),
            "unknown function `_foo`",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, when: 'subject.id._b(1)'"
            )),
            "unknown function `_b`",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, when: 'subject.risk =='"
            )),
            "error: `when`: not CEL: it ends where more has to follow",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, when: 'true && subject.risk = 3'"
            )),
            "error: `when`: not CEL: it cannot be read from `= 3` on, at 1:22 of the condition",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, when: subject.risk == 3"
            )),
            "p.yaml:9:58: error: `when`: `==` compares a text with a whole number, which are never equal",
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
            "\"Europe/Berln\" is no time zone: use a name like Europe/Berlin, or UTC",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, during: {{hours: '08:00-18:00', timeZone: Europe/Berln}}"
            )),
            "help: did you mean `Europe/Berlin`?",
        ),
        (
            segment("members: [{service: db}], limits: {reconnect: proff}"),
            "`reconnect` is \"proff\": write allow, proof, or a duration like 60s",
        ),
        (
            segment("members: [{service: db}], limits: {reconnect: proff}"),
            "help: did you mean `proof`?",
        ),
        (
            policy(&format!("from: {{anyone: true}}, {to}, notAfter: tomorrow")),
            "write an instant like 2027-01-31T00:00:00Z",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, notAfter: 9999-12-31T23:59:59Z"
            )),
            "at most 9999-12-30T22:00:00Z",
        ),
        (
            policy(&format!("admit: false, from: {{anyone: true}}, {to}")),
            "warning: this policy neither admits nor limits",
        ),
        (
            policy(&format!(
                "from: {{anyone: true}}, {to}, onSignal: [{{signal: x, effect: close}}]"
            )),
            "error: `signal` is \"x\"",
        ),
        (
            segment("members: [{service: db}]").repeat(2),
            "5:1: error: `apiVersion` is given twice; the first is at p.yaml:1:1",
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
            document("Defaults", "No Name", "sensitivities: {low: {maxLifetime: 1h}}"),
            "4:18: error: `name`: ",
        ),
        (
            "{apiVersion: curfew.dev/v1alpha1, kind: Defaults, metadata: {name: d, lables: {}}, spec: {sensitivities: {low: {}}}}".to_owned(),
            "error: unknown field `lables` in `metadata`",
        ),
        (
            "[1, 2]".to_owned(),
            "1:1: error: a document is a list: it has to be a map",
        ),
        ("a: [".to_owned(), "p.yaml:1:4: error: not YAML: "),
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
fn a_field_given_twice_hides_nothing_else() {
    let text = format!(
        "{HEAD}spec:\n  sensitivity: low\n  members: [{{service: db}}]\n  sensitivity: hgih\n  limits:\n    idleTimeout: 0s\n    labels: {{a: 1, a: 2}}\n"
    );
    let said = messages(&text);
    let expected = r#"p.yaml:7:3: error: `sensitivity` is given twice; the first is at p.yaml:5:3
  7 |   sensitivity: hgih
    |   ^
  = otherwise: one of the two would be ignored
  = help: leave one of the two out
p.yaml:9:18: error: `idleTimeout`: the duration "0s" is zero: it must be longer
  9 |     idleTimeout: 0s
    |                  ^"#;
    assert!(said.starts_with(expected), "{said}");
    assert!(said.contains("10:20: error: `a` is given twice"), "{said}");
    assert!(!said.contains("no segment"), "{said}");
}

#[test]
fn names_are_held_against_documents_with_errors_in_them_too() {
    let policy = |name: &str, to: &str, more: &str| {
        let spec = format!("from: {{anyone: true}}, to: {{segments: [{to}]}}{more}");
        document("SessionPolicy", name, &spec)
    };
    let text = [
        document(
            "Segment",
            "fast",
            "sensitivity: lwo, members: [{service: db}]",
        ),
        document(
            "Segmnt",
            "slow",
            "sensitivity: low, members: [{service: db}]",
        ),
        document(
            "Segment",
            "fast",
            "sensitivity: low, members: [{service: db}]",
        ),
        policy("one", "fast", ""),
        policy("two", "fsat", ", notAfter: tomorrow"),
        policy("two", "slow", ""),
    ]
    .concat();
    let said = messages(&text);
    let errors = said.lines().filter(|line| line.contains(": error: "));
    let errors: Vec<&str> = errors.collect();
    let expected = [
        "p.yaml:5:21: error: `sensitivity` is \"lwo\", which is not one of its words",
        "p.yaml:8:7: error: `kind` is \"Segmnt\", which is not one of its words",
        "p.yaml:14:18: error: the segment `fast` is given twice; the first is at p.yaml:4:18",
        "p.yaml:25:46: error: there is no segment `fsat` in this set",
        "p.yaml:25:64: error: `notAfter` is \"tomorrow\": write an instant like 2027-01-31T00:00:00Z, at most 9999-12-30T22:00:00Z",
        "p.yaml:29:18: error: the policy `two` is given twice; the first is at p.yaml:24:18",
    ];
    assert_eq!(errors, expected, "{said}");
    let shown = "  25 | spec: {from: {anyone: true}, to: {segments: [fsat]}, notAfter: tomorrow}\n";
    assert!(said.contains(shown), "{said}");
    assert!(said.contains("help: did you mean `fast`?"), "{said}");
}

#[test]
fn lines_are_counted_as_yaml_breaks_them() {
    for text in ["a: 1\r\nb: [\r\n", "a: 1\rb: [\r", "a: 1\nb: [\n"] {
        let said = messages(text);
        let shown = "p.yaml:2:4: error: not YAML: ";
        assert!(said.starts_with(shown), "{text:?} {said}");
        assert!(said.contains("\n  2 | b: [\n"), "{text:?} {said}");
    }
}

#[test]
fn of_what_cannot_be_read_nothing_is_said() {
    let policy = "apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {name: p}\nspec: {from: {anyone: true}, to: {segments: [db]}}\n";
    let loaded = load([("s.yaml", "spec: ["), ("p.yaml", policy)]);
    let place = |place: &curfew_policy::Place| (place.file.to_string(), place.line, place.column);
    assert_eq!(loaded.problems.len(), 1, "{:?}", loaded.problems);
    assert_eq!(
        place(&loaded.problems[0].place),
        ("s.yaml".to_owned(), 1, 7)
    );
    // The segment may stand in what is no YAML.
    assert!(compile(loaded.documents, Revision(1)).is_ok_and(|set| set.segments().count() == 0));
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
        (format!("a:\n{indented}"), "it nests deeper"),
        (format!("a:\n {}", "- ".repeat(1_000)), "it nests deeper"),
        (
            format!("{HEAD}spec: {}", "[".repeat(100_000)),
            "recursion limit exceeded",
        ),
        (
            "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b]\nd: &d [*c,*c,*c,*c,*c,*c,*c,*c]\ne: [*d,*d,*d,*d,*d,*d,*d,*d]\n".to_owned(),
            "aliases repeat more",
        ),
    ] {
        let said = messages(&text);
        assert!(said.contains(what), "{said}");
    }
}

#[test]
fn explain_says_why_a_condition_cannot_be_decided() {
    let facts = alice(
        "192.0.2.1:40000".parse().unwrap(),
        "10.0.0.1:5432".parse().unwrap(),
        BootInstant(0),
    );
    let now = Now {
        boot: BootInstant(0),
        wall: WallInstant(0),
    };
    for (when, says) in [
        (
            "subject.groups[7] == 'x'",
            "limits only: `when` cannot be decided: Index out of bounds",
        ),
        (
            "subject.risk == 'x'",
            "limits only: an attribute of `when` is absent",
        ),
    ] {
        let text = format!(
            "{HEAD}spec: {{sensitivity: low, members: [{{cidr: 10.0.0.0/8}}]}}\n---\n\
             apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: p}}\n\
             spec: {{from: {{anyone: true}}, to: {{segments: [db]}}, when: {when:?}}}\n"
        );
        let set = compile(load([("p.yaml", &*text)]).documents, Revision(1)).unwrap();
        let told = set.explain(&facts, now).policies.join("\n");
        assert!(told.contains(says), "{told}");
    }
}

#[test]
fn a_set_without_a_document_is_empty() {
    for text in [
        "",
        " \n",
        "# only a comment\n",
        "---\n---\n# x\n",
        "---\n~\n...\n",
    ] {
        assert!(is_empty([("a.yaml", text), ("b.yaml", "")]), "{text:?}");
    }
    for text in [HEAD, "x", "{}", "---\n# x\n---\n[]\n", "a: [\n"] {
        assert!(!is_empty([("a.yaml", "# x"), ("b.yaml", text)]), "{text:?}");
    }
    assert!(is_empty([]));
}

#[test]
fn no_message_steers_a_terminal_or_looks_like_another_line() {
    let hostile = r#"\e[2J\u202e\nforged: line"#;
    for text in [
        format!(
            "{HEAD}spec: {{sensitivity: low, members: [{{service: db, \"{hostile}\": 1}}], \"{hostile}\": 1}}\n"
        ),
        format!("{HEAD}spec: {{sensitivity: \"{hostile}\", members: [{{cidr: \"{hostile}\"}}]}}\n"),
        format!(
            "{HEAD}spec: {{sensitivity: low, members: [{{service: db}}]}}\n---\n\
             apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: p}}\n\
             spec: {{from: {{users: [\"{hostile}\"]}}, to: {{segments: [\"{hostile}\"]}}, when: \"{hostile}\"}}\n"
        ),
        format!("{HEAD}spec: {{sensitivity: \u{202e}low, members: []}}\n"),
        "a: [\u{1b}[2J\n".to_owned(),
    ] {
        let told = messages(&text);
        assert!(!told.is_empty());
        assert!(!told.contains(|c| steers(c) && c != '\n'), "{told:?}");
        let lines = told.lines();
        let known = |line: &str| line.starts_with("p.yaml:") || line.starts_with("  ");
        assert!(lines.clone().all(known), "{told}");
    }
}
