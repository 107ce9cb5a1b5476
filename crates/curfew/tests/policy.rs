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
    let expected = "decision  none: no segment contains the service payment-db, so nothing would limit or refuse a \
                    session; did you mean payments-db?";
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
