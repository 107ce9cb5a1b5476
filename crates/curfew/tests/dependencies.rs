//! The shape of the workspace, held: a dependency between our crates that the table of the architecture does not allow fails
//! here, and so does a source file that nothing compiles.
#![cfg(test)]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

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

/// The source files below a folder.
fn sources(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, into);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            into.push(path);
        }
    }
}

#[test]
fn every_source_file_is_a_module() {
    let crates = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(crates).unwrap() {
        sources(&entry.unwrap().path().join("src"), &mut files);
    }
    assert!(files.len() > 100, "the sources were not found");
    for file in &files {
        let (folder, name) = (file.parent().unwrap(), file.file_stem().unwrap());
        let (folder, name) = match name.to_str().unwrap() {
            "lib" | "main" => continue,
            "mod" => (folder.parent().unwrap(), folder.file_name().unwrap()),
            _ => (folder, name),
        };
        let parents = ["mod.rs", "lib.rs", "main.rs"].map(|parent| folder.join(parent));
        let parents = parents.into_iter().chain([folder.with_extension("rs")]);
        let declares = |parent: PathBuf| {
            let text = fs::read_to_string(parent).unwrap_or_default();
            let module = format!("mod {};", name.to_str().unwrap());
            text.lines().any(|line| line.ends_with(&module))
        };
        let declared = parents.into_iter().any(declares);
        assert!(declared, "{} is compiled nowhere", file.display());
    }
}
