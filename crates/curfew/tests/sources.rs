//! What is read as a policy set, against the real thing: no set without a document unasked, and nothing
//! that could keep the reader waiting.
#![cfg(test)]

mod support;

use std::path::Path;

use support::{Ran, curfew, site::Site};

#[test]
fn a_set_without_a_document_is_refused_unless_it_is_asked_for() {
    let site = Site::start("");
    let path = site.path("ceiling.yaml");
    let apply = |text: &str, more: &[&str]| {
        std::fs::write(&path, text).unwrap();
        site.curfew(&[&["policy", "apply", path.to_str().unwrap()], more].concat())
    };
    let ceiling = "apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {name: ceiling}\n\
                   spec: {admit: false, from: {anyone: true}, to: {segments: [echo]}, limits: {maxLifetime: 1m}}\n";
    assert_eq!(apply(ceiling, &[]).code, 0);
    let history = || site.curfew(&["policy", "history", "--output", "json"]).out;
    let before = history();
    for text in ["", "# only a comment\n", "---\n# x\n---\n"] {
        let ran = apply(text, &[]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("the set is empty"), "{ran:?}");
        assert_eq!(history(), before, "{text:?}");
    }
    let ran = apply("# gone\n", &["--allow-empty"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    assert_ne!(history(), before);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().to_str().unwrap();
    let ran = site.curfew(&["policy", "apply", folder]);
    assert!(ran.code == 1 && ran.err.contains("holds no"), "{ran:?}");
    let ran = site.curfew(&["policy", "apply", folder, "--allow-empty"]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn what_is_no_regular_file_is_named_and_not_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("p.yaml");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status();
    assert!(made.unwrap().success());
    let validated = |path: &Path| Ran::of(curfew(&["policy", "validate"]).arg(path));
    let says = format!("{}: error: is no regular file", fifo.display());
    for path in [fifo.clone(), folder.path().to_owned()] {
        let ran = validated(&path);
        assert_eq!(ran.code, 3, "{ran:?}");
        assert!(ran.out.contains(&says), "{ran:?}");
    }
    let ran = Ran::of(curfew(&["run", "--check", "-c"]).arg(&fifo));
    assert!(ran.out.contains("is no regular file"), "{ran:?}");
}

#[test]
fn a_file_that_is_no_text_is_a_finding_with_its_place_as_in_a_folder() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.yaml");
    let validated =
        |path: &Path| Ran::of(curfew(&["policy", "validate", "--output", "json"]).arg(path));
    assert_eq!(validated(&path).code, 1, "it is not there");
    std::fs::write(&path, b"a: 1\nb: \xe9\n").unwrap();
    for path in [path.clone(), folder.path().to_owned()] {
        let ran = validated(&path);
        let problem = &ran.json()["problems"][0];
        let place = [&problem["line"], &problem["column"]].map(|at| at.as_u64().unwrap());
        assert_eq!((ran.code, place), (3, [2, 4]), "{ran:?}");
    }
}

#[test]
fn a_set_that_is_too_large_to_keep_is_found_before_it_is_to_be_in_force() {
    let site = Site::start("");
    let comment = "# every file may be as large as this\n".repeat(100_000);
    for name in ["a.yaml", "b.yaml", "c.yaml"] {
        std::fs::write(site.path("policy").join(name), &comment).unwrap();
    }
    let policy = site.path("policy");
    let policy = policy.to_str().unwrap();
    for ran in [
        Ran::of(&mut curfew(&["policy", "validate", policy])),
        Ran::of(curfew(&["run", "--check", "-c"]).arg(site.path("curfew.yaml"))),
    ] {
        assert_eq!(ran.code, 3, "{ran:?}");
        let says = "bytes as JSON, and 8388608 is the most that is kept";
        assert!(ran.out.contains(says), "{ran:?}");
    }
    std::fs::remove_file(site.path("policy/c.yaml")).unwrap();
    let ran = Ran::of(&mut curfew(&["policy", "validate", policy]));
    assert_eq!(ran.code, 0, "{ran:?}");
    let ran = site.curfew(&["policy", "apply", policy]);
    assert_eq!(ran.code, 0, "{ran:?}");
}

#[test]
fn a_file_that_cannot_be_read_hides_nothing_of_the_others() {
    let site = Site::start("");
    std::fs::write(site.path("policy/a.yaml"), [0xff]).unwrap();
    let wrong = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: x}\nspec: {sensitivty: low}\n";
    std::fs::write(site.path("policy/b.yaml"), wrong).unwrap();
    let policy = site.path("policy");
    let policy = policy.to_str().unwrap();
    let checked = Ran::of(curfew(&["run", "--check", "-c"]).arg(site.path("curfew.yaml")));
    for ran in [
        Ran::of(&mut curfew(&["policy", "validate", policy])),
        checked,
    ] {
        assert_eq!(ran.code, 3, "{ran:?}");
        for finding in [
            "a.yaml:1:1: error: is not UTF-8 text",
            "b.yaml:4:8: error: ",
        ] {
            assert!(ran.out.contains(finding), "{ran:?}");
        }
    }
    // In force stays what was there before.
    site.signal("HUP");
    let refused = site.logged("is not UTF-8 text").to_string();
    assert!(refused.contains("b.yaml:4:8"), "{refused}");
    site.open("127.0.0.1");
    let ran = site.curfew(&["policy", "apply", policy]);
    assert!(
        ran.code == 3 && ran.out.contains("is not UTF-8 text"),
        "{ran:?}"
    );
}
