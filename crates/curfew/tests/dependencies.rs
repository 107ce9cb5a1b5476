//! The crate table of the architecture, held: a dependency between our crates that it does not allow fails here.

use std::{collections::BTreeMap, process::Command};

/// Who may depend on whom, from `docs/ARCHITECTURE.md`. Dev-dependencies are free.
fn allowed() -> BTreeMap<&'static str, &'static [&'static str]> {
    BTreeMap::from([
        ("curfew-model", &[] as &[&str]),
        ("curfew-policy", &["curfew-model"]),
        ("curfew-engine", &["curfew-model", "curfew-policy"]),
        ("curfew-state", &["curfew-model"]),
        ("curfew-audit", &["curfew-model"]),
        (
            "curfew-enforcer",
            &["curfew-engine", "curfew-model", "curfew-policy"],
        ),
        ("curfew-gateway", &["curfew-enforcer", "curfew-model"]),
        (
            "curfew-control",
            &["curfew-audit", "curfew-model", "curfew-state"],
        ),
        ("curfew-testkit", &["curfew-model", "curfew-policy"]),
        (
            "curfew",
            &[
                "curfew-audit",
                "curfew-control",
                "curfew-enforcer",
                "curfew-engine",
                "curfew-gateway",
                "curfew-model",
                "curfew-policy",
                "curfew-state",
            ],
        ),
    ])
}

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let rules = allowed();
    let packages = metadata["packages"].as_array().unwrap();
    assert!(packages.len() >= 7, "the workspace was not read");
    for package in packages {
        let name = package["name"].as_str().unwrap();
        let may = rules
            .get(name)
            .unwrap_or_else(|| panic!("{name} has no row in the crate table"));
        for dependency in package["dependencies"].as_array().unwrap() {
            let on = dependency["name"].as_str().unwrap();
            if dependency["kind"] == "dev" || !on.starts_with("curfew") {
                continue;
            }
            assert!(
                may.contains(&on),
                "{name} depends on {on}: the crate table does not allow it"
            );
        }
    }
}
