//! The `bindings` part of `curfew.yaml`: who a client is. What a binding does is the engine's.

use std::collections::{HashMap, hash_map::Entry};

use curfew_model::{Binding, BindingKey, Identity, Issuer, Kind, Proof};
use curfew_policy::{Map, Node, Place, Problem, Sight, Source};

use crate::doors;

const FIELDS: [&str; 6] = ["address", "uid", "cgroup", "user", "workload", "groups"];
const KEYS: [&str; 3] = ["address", "uid", "cgroup"];
const NAMES: [&str; 2] = ["user", "workload"];

/// Reads the bindings; those with an error in them are left out. No two may claim the same.
pub(super) fn read(source: &Source<'_>, node: &Node) -> Vec<Binding> {
    let mut claims: HashMap<BindingKey, Place> = HashMap::new();
    let mut bindings = Vec::new();
    for node in source.list(node, "`bindings`") {
        let Some(map) = source.map(node, "a binding", &FIELDS) else {
            continue;
        };
        let key = read_key(source, node, &map);
        if let Some((key, place)) = &key {
            claim(source, &mut claims, key, place);
        }
        let identity = read_identity(source, node, &map);
        let groups = map.get("groups").map(|node| source.texts(node, "`groups`"));
        if let (Some((key, _)), Some(identity)) = (key, identity) {
            bindings.push(Binding {
                key,
                identity,
                groups: groups.unwrap_or_default(),
                until: None,
                refreshed_at: None,
            });
        }
    }
    bindings
}

fn claim(
    source: &Source<'_>,
    claims: &mut HashMap<BindingKey, Place>,
    key: &BindingKey,
    place: &Place,
) {
    match claims.entry(key.clone()) {
        Entry::Vacant(free) => drop(free.insert(place.clone())),
        Entry::Occupied(first) => {
            let first = first.get();
            let problem = Problem::error(
                place,
                format!("the {key} is bound twice; the first is at {first}"),
            );
            source.report(
                problem
                    .or_else("nobody could say whose its clients are")
                    .help("leave one of the two out"),
            );
        }
    }
}

/// The one of `fields` that is given, and its value.
fn one<'n, 'f>(
    source: &Source<'_>,
    node: &Node,
    map: &Map<'_, 'n>,
    fields: &[&'f str],
) -> Option<(&'f str, &'n Node)> {
    let given: Vec<(&str, &Node)> = fields
        .iter()
        .filter_map(|field| Some((*field, map.get(field)?)))
        .collect();
    let &[one] = given.as_slice() else {
        let names = fields.join("`, `");
        source.error(node, format!("a binding needs exactly one of `{names}`"));
        return None;
    };
    Some(one)
}

fn read_key(source: &Source<'_>, node: &Node, map: &Map<'_, '_>) -> Option<(BindingKey, Place)> {
    let (field, node) = one(source, node, map, &KEYS)?;
    let key = match field {
        "address" => BindingKey::Address(source.cidr(node, "`address`")?).canonical(),
        "uid" => BindingKey::Uid(source.uid(node)?),
        _ => {
            let path = source.cgroup(node)?;
            if !doors::sees().contains(&Sight::Cgroup) {
                source.report(unseen(&source.place(node)));
            }
            BindingKey::Cgroup(path)
        }
    };
    Some((key, source.place(node)))
}

fn unseen(place: &Place) -> Problem {
    Problem::warning(place, "no door of this node sees the cgroup of a client")
        .or_else("the binding gives nobody a subject here")
        .help("bind the address, or the uid of the client on this host")
}

fn read_identity(source: &Source<'_>, node: &Node, map: &Map<'_, '_>) -> Option<Identity> {
    let (field, node) = one(source, node, map, &NAMES)?;
    let kind = match field {
        "user" => Kind::User,
        _ => Kind::Workload,
    };
    let (issuer, id) = Issuer::of_name(source.filled(node, &format!("`{field}`"))?);
    if id.is_empty() || issuer.0.is_empty() {
        source.error(
            node,
            format!("`{field}` is half a name: write ID or ISSUER#ID"),
        );
        return None;
    }
    Some(Identity {
        proof: Proof::Bound,
        kind,
        issuer,
        id: id.to_owned(),
        display: None,
    })
}
