//! The whole of `curfew.yaml`: its parts, put together. Each part is read next door.

use std::path::{Path, PathBuf};

use curfew_policy::{Map, Node, Problem, Source, Value};

use super::{Config, Draft, Placed, audit, bindings, control, services};

const FIELDS: [&str; 6] = [
    "data_dir", "control", "policy", "gateway", "audit", "bindings",
];

/// Reads the configuration; paths in it are relative to its folder.
pub(super) fn read(source: &Source<'_>, nodes: &[Node], folder: &Path) -> Draft {
    let mut written = nodes
        .iter()
        .filter(|node| !matches!(node.value, Value::Null));
    let Some(node) = written.next() else {
        let problem = Problem::error(&source.whole(), "the configuration is empty");
        source.report(problem.help("the guide has a short one to start from"));
        return Draft::default();
    };
    if let Some(second) = written.next() {
        let problem = Problem::error(&source.place(second), "a second document");
        source.report(problem.help("a configuration is one document: leave `---` out"));
    }
    let Some(map) = source.map(node, "the configuration", &FIELDS) else {
        return Draft::default();
    };
    let data_dir = map.need("data_dir").and_then(|node| {
        Some(Placed {
            value: folder.join(source.filled(node, "`data_dir`")?),
            place: source.place(node),
        })
    });
    let (policy, watch) = read_policy(source, &map, folder);
    let control = control::read(source, map.get("control"), folder);
    let services = services::read(source, &map, control.as_ref());
    let audit = map.get("audit").map(|node| audit::read(source, node));
    let bindings = map.get("bindings").map(|node| bindings::read(source, node));
    let tls = control
        .as_ref()
        .and_then(|control| control.value.tls.clone());
    let config = || {
        Some(Config {
            data_dir: data_dir.as_ref()?.value.clone(),
            control: control?.value,
            policy: policy.as_ref()?.value.clone(),
            watch,
            services: services.iter().map(|read| read.service.clone()).collect(),
            audit: audit.unwrap_or_default(),
            bindings: bindings.unwrap_or_default(),
        })
    };
    Draft {
        config: config(),
        data_dir,
        tls,
        policy,
        services,
        problems: Vec::new(),
    }
}

/// Where the policy is, and whether it is watched.
fn read_policy(
    source: &Source<'_>,
    map: &Map<'_, '_>,
    folder: &Path,
) -> (Option<Placed<PathBuf>>, bool) {
    let read = map
        .need("policy")
        .and_then(|node| source.map(node, "`policy`", &["path", "watch"]));
    let Some(map) = read else {
        return (None, false);
    };
    let path = map.need("path").and_then(|node| {
        Some(Placed {
            value: folder.join(source.filled(node, "`path`")?),
            place: source.place(node),
        })
    });
    (path, map.flag("watch").unwrap_or(false))
}
