//! `curfew policy` from the outside: exit codes, and what is printed.
#![cfg(test)]

use std::process::Command;

const EXAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/policy");

fn curfew(args: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_curfew"))
        .args(args)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code().unwrap(), text)
}

#[test]
fn valid_documents_are_called_so() {
    let (code, text) = curfew(&["policy", "validate", EXAMPLES]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("valid; files 2, errors 0, warnings 0"),
        "{text}"
    );
}

#[test]
fn wrong_documents_are_findings_in_both_forms() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    std::fs::write(
        &file,
        "apiVersion: curfew.dev/v1alpha1\nkind: Segmnt\nmetadata: {name: x}\nspec: {}\n",
    )
    .unwrap();
    let (code, text) = curfew(&["policy", "validate", file.to_str().unwrap()]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("p.yaml:2:7: error: `kind`"), "{text}");
    let (code, text) = curfew(&[
        "policy",
        "validate",
        file.to_str().unwrap(),
        "--output",
        "json",
    ]);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("\"line\": 2"), "{text}");
    assert!(text.contains("\"excerpt\": \"kind: Segmnt\""), "{text}");
    let (code, text) = curfew(&[
        "policy",
        "explain",
        file.to_str().unwrap(),
        "--service",
        "x",
    ]);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn a_set_that_is_only_warned_about_is_valid() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.yaml");
    let head = "apiVersion: curfew.dev/v1alpha1\nkind:";
    let segment =
        "Segment\nmetadata: {name: s}\nspec: {sensitivity: low, members: [{service: a}]}\n";
    let policy = "SessionPolicy\nmetadata: {name: p}\nspec: {from: {anyone: true}, to: {segments: [s]}, \
                  onSignal: [{signal: risk-raised, effect: shorten, to: 60s}]}\n";
    std::fs::write(&file, format!("{head} {segment}---\n{head} {policy}")).unwrap();
    let (code, text) = curfew(&["policy", "validate", file.to_str().unwrap()]);
    assert_eq!(code, 0, "{text}");
    let summary = "valid; files 1, errors 0, warnings 1\n";
    assert!(
        text.contains("warning:") && text.ends_with(summary),
        "{text}"
    );
}

#[test]
fn explain_names_the_decision() {
    let at = ["--at", "2026-11-28T12:00:00Z"];
    let who = [
        "--service",
        "payments-db",
        "--user",
        "alice",
        "--group",
        "dba",
    ];
    let args = [&["policy", "explain", EXAMPLES], &who[..], &at[..]].concat();
    let (code, text) = curfew(&args);
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("decision  refused: outside_hours"), "{text}");
    let (code, text) = curfew(&[&args[..], &["--output", "json"]].concat());
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("\"outcome\": \"refused\""), "{text}");
    let weekday = [
        "--at",
        "2026-11-24T12:00:00Z",
        "--attribute",
        "subject.risk=low",
    ];
    let args = [&["policy", "explain", EXAMPLES], &who[..], &weekday[..]].concat();
    let (code, text) = curfew(&args);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("decision  admitted; ends at"), "{text}");
}

#[test]
fn explain_says_plainly_that_nothing_contains_the_target() {
    let explain = |more: &[&str]| curfew(&[&["policy", "explain", EXAMPLES], more].concat());
    let (code, text) = explain(&["--service", "payment-db", "--user", "alice"]);
    assert_eq!(code, 3, "{text}");
    let expected = "decision  none: no segment contains the service payment-db, so everybody is refused; did you mean \
                    payments-db?";
    assert!(
        text.contains(expected) && !text.contains("admitted"),
        "{text}"
    );
    let (code, text) = explain(&["--target", "192.0.2.7:5432", "--output", "json"]);
    assert_eq!(code, 3, "{text}");
    let outcome = text.contains("\"outcome\": \"no_segment\"");
    assert!(
        outcome && text.contains("the address 192.0.2.7:5432"),
        "{text}"
    );
}

/// What is said of a session into a segment told by its address, for a group, in front of a configuration.
fn explained(more: &[&str]) -> (i32, String) {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write(
        "curfew.yaml",
        "data_dir: data
policy: {path: p.yaml}
gateway: {services: [{name: orders, listen: '127.0.0.1:0', upstream: '10.20.0.1:5432'},
  {name: db, listen: '127.0.0.1:0', upstream: '10.20.0.2:5432', protocol: postgres}]}
bindings:
- {address: 10.0.0.0/24, user: alice, groups: [dba]}
- {address: 10.0.0.7, user: bob}
- {uid: 7, workload: batch, groups: [dba]}
",
    );
    let head = "apiVersion: curfew.dev/v1alpha1\nkind:";
    let segment =
        "Segment\nmetadata: {name: s}\nspec: {sensitivity: low, members: [{cidr: 10.20.0.0/16}]}\n";
    let policy =
        "SessionPolicy\nmetadata: {name: p}\nspec: {from: {groups: [dba]}, to: {segments: [s]}}\n";
    write("p.yaml", &format!("{head} {segment}---\n{head} {policy}"));
    write("other.yaml", &format!("{head} {segment}"));
    let config = folder.path().join("curfew.yaml");
    let other = folder.path().join("other.yaml");
    let more = more.iter().map(|arg| match *arg {
        "OTHER" => other.to_str().unwrap(),
        arg => arg,
    });
    let args: Vec<&str> = ["policy", "explain", "-c", config.to_str().unwrap()]
        .into_iter()
        .chain(more)
        .collect();
    curfew(&args)
}

#[test]
fn explain_takes_policy_upstream_and_bindings_from_the_configuration() {
    let client = |address| ["--service", "orders", "--client", address];
    let (code, text) = explained(&client("10.0.0.5"));
    assert_eq!(code, 0, "{text}");
    for part in [
        "subject   user:alice\n",
        "segment   s (low)",
        "policy    p (",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    // The longer prefix is another user's.
    let (code, text) = explained(&client("10.0.0.7"));
    assert_eq!(code, 3, "{text}");
    assert!(text.contains("subject   user:bob\n"), "{text}");
    let (code, text) = explained(&[&client("192.0.2.1")[..], &["--uid", "7"]].concat());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("subject   workload:batch\n"), "{text}");
    let (code, text) = explained(&client("192.0.2.1"));
    assert!(code == 3 && text.contains("unattributed"), "{text}");
    // A login name comes with any client, as at the gateway.
    let (code, text) = explained(&["--service", "db", "--client", "192.0.2.1"]);
    assert!(code == 3 && text.contains("access_denied"), "{text}");
}

#[test]
fn flags_of_explain_win_over_the_configuration() {
    let client = ["--service", "orders", "--client", "10.0.0.5"];
    let code = |more: &[&str]| explained(&[&client[..], more].concat());
    let (refused, text) = code(&["--user", "carol"]);
    assert_eq!(refused, 3, "a group of the binding is alice's: {text}");
    assert!(text.contains("subject   user:carol\n"), "{text}");
    assert_eq!(code(&["--user", "carol", "--group", "dba"]).0, 0);
    assert_eq!(code(&["--group", "staff"]).0, 3);
    let (elsewhere, text) = code(&["--target", "192.0.2.1:5432"]);
    assert_eq!(elsewhere, 3, "{text}");
    assert!(
        text.contains("no segment contains the service orders"),
        "{text}"
    );
    let (other, text) = code(&["OTHER"]);
    assert_eq!(other, 3, "{text}");
    assert!(!text.contains("policy    p"), "{text}");
}

#[test]
fn a_service_that_the_configuration_has_not_is_an_error() {
    let (code, text) = explained(&["--service", "order"]);
    assert_eq!(code, 1, "{text}");
    let said = "the configuration has no service order: did you mean orders?";
    assert!(text.contains(said), "{text}");
    let (code, text) = explained(&["--service", "order", "--target", "10.20.0.1:5432"]);
    assert!(text.contains("segment   s (low)"), "{code} {text}");
    let (code, text) = curfew(&["policy", "explain", "--service", "orders"]);
    assert_eq!(code, 1, "{text}");
}

#[test]
fn an_attribute_that_no_condition_can_name_is_a_usage_error() {
    let who = ["--service", "x", "--attribute", "subject.rsik=low"];
    let (code, text) = curfew(&[&["policy", "explain", EXAMPLES], &who[..]].concat());
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("did you mean `subject.risk`?"), "{text}");
}

#[test]
fn a_configuration_given_by_mistake_is_known_by_its_fields() {
    let config = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/postgres/curfew.yaml"
    );
    let (code, text) = curfew(&["policy", "validate", config]);
    assert_eq!(code, 3, "{text}");
    let help = format!("check it with `curfew run --check -c {config}`");
    assert!(text.contains(&help) && text.contains("errors 1,"), "{text}");
}

#[test]
fn a_usage_error_is_one() {
    let (code, text) = curfew(&[
        "policy",
        "explain",
        EXAMPLES,
        "--service",
        "x",
        "--at",
        "noon",
    ]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("2026-11-24T12:00:00Z"), "{text}");
}
