//! The services of `curfew.yaml`: each by itself, and apart from each other. Resolving names and listening happen
//! elsewhere.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use curfew_gateway::protocol::Protocol;
use curfew_model::ServiceName;
use curfew_policy::{Map, Node, Place, Problem, Source};

use super::{Control, Placed, PlacedService, Service, Upstream};

const FIELDS: [&str; 8] = [
    "name",
    "listen",
    "upstream",
    "protocol",
    "max_connections",
    "connect_timeout",
    "handshake_timeout",
    "busy_is_active",
];
/// More sessions than a process can hold.
const MAX_CONNECTIONS: usize = 100_000_000;
const PROTOCOLS: [(&str, Protocol); 2] = [("tcp", Protocol::Tcp), ("postgres", Protocol::Postgres)];

/// A service as far as it can be read.
struct Read {
    name: Option<Placed<ServiceName>>,
    listen: Option<Placed<SocketAddr>>,
    upstream: Option<Place>,
    service: Option<Service>,
}

/// Reads the services, and holds them against each other and the API. Those without an error in them are given.
pub(super) fn read(
    source: &Source<'_>,
    map: &Map<'_, '_>,
    control: Option<&Placed<Control>>,
) -> Vec<PlacedService> {
    let listed = map
        .need("gateway")
        .and_then(|node| source.map(node, "`gateway`", &["services"]))
        .and_then(|map| map.need("services"));
    let nodes = listed.map_or(&[][..], |node| source.list(node, "`services`"));
    let read: Vec<Read> = nodes
        .iter()
        .filter_map(|node| read_one(source, node))
        .collect();
    unique(source, read.iter().filter_map(|read| read.name.as_ref()));
    apart(source, &read, control);
    let whole = |read: Read| {
        Some(PlacedService {
            service: read.service?,
            name: read.name?.place,
            upstream: read.upstream?,
        })
    };
    read.into_iter().filter_map(whole).collect()
}

fn read_one(source: &Source<'_>, node: &Node) -> Option<Read> {
    let map = source.map(node, "a service", &FIELDS)?;
    let name = map.need("name").and_then(|node| {
        Some(Placed {
            value: source.parsed::<ServiceName>(node, "`name`")?,
            place: source.place(node),
        })
    });
    let listen = map.need("listen").and_then(|node| {
        Some(Placed {
            value: address(source, node)?,
            place: source.place(node),
        })
    });
    let at = map.need("upstream");
    let upstream = at.and_then(|node| read_upstream(source, node));
    let protocol = map.get("protocol").map_or(Some(Protocol::Tcp), |node| {
        source.word(node, "`protocol`", &PROTOCOLS)
    });
    let max_connections = map.get("max_connections").map_or(Some(10_000), |node| {
        source.number(node, "`max_connections`", 1..=MAX_CONNECTIONS)
    });
    let duration = |field: &str, usual| {
        map.get(field).map_or(Some(usual), |node| {
            source.duration(node, &format!("`{field}`"))
        })
    };
    let connect_timeout = duration("connect_timeout", Duration::from_secs(5));
    let handshake_timeout = duration("handshake_timeout", Duration::from_secs(10));
    let busy_is_active = map.flag("busy_is_active").unwrap_or(true);
    if let Some(node) = map.get("busy_is_active")
        && protocol == Some(Protocol::Tcp)
    {
        source.error(node, "`busy_is_active` goes with `protocol: postgres` only");
    }
    let service = || {
        Some(Service {
            name: name.as_ref()?.value.clone(),
            listen: listen.as_ref()?.value,
            upstream: upstream?,
            protocol: protocol?,
            max_connections: max_connections?,
            connect_timeout: connect_timeout?,
            handshake_timeout: handshake_timeout?,
            busy_is_active,
        })
    };
    Some(Read {
        service: service(),
        upstream: at.map(|node| source.place(node)),
        name,
        listen,
    })
}

/// Reads an address to listen on.
pub(super) fn address(source: &Source<'_>, node: &Node) -> Option<SocketAddr> {
    let text = source.text(node, "`listen`")?;
    let address = text.parse();
    if address.is_err() {
        source.error(
            node,
            format!(
                "`listen` is {text:?}: write an address and a port, like 127.0.0.1:6432 or '[::1]:6432'"
            ),
        );
    }
    address.ok()
}

fn read_upstream(source: &Source<'_>, node: &Node) -> Option<Upstream> {
    let text = source.text(node, "`upstream`")?;
    if let Some(path) = text.strip_prefix("unix:") {
        if path.starts_with('/') {
            return Some(Upstream::Unix(path.into()));
        }
        source.error(
            node,
            format!("`upstream` is {text:?}: a Unix socket is written unix:/absolute/path"),
        );
        return None;
    }
    let port = text.rsplit_once(':').and_then(|(host, port)| {
        let named = !host.is_empty() && (!host.contains(':') || host.starts_with('['));
        named.then(|| port.parse::<u16>().ok())?
    });
    match port {
        Some(port) if port > 0 => Some(Upstream::Tcp(text.to_owned())),
        _ => {
            source.error(
                node,
                format!(
                    "`upstream` is {text:?}: write HOST:PORT, '[ADDRESS]:PORT' for IPv6, or unix:/absolute/path"
                ),
            );
            None
        }
    }
}

fn unique<'r>(source: &Source<'_>, names: impl Iterator<Item = &'r Placed<ServiceName>>) {
    let mut seen: HashMap<&ServiceName, &Place> = HashMap::new();
    for Placed { value: name, place } in names {
        match seen.entry(name) {
            Entry::Vacant(free) => drop(free.insert(place)),
            Entry::Occupied(first) => {
                let first = first.get();
                let problem = Problem::error(
                    place,
                    format!("the service `{name}` is given twice; the first is at {first}"),
                );
                source.report(problem.help("names are unique: rename one of them"));
            }
        }
    }
}

/// No two of them listen where only one can, nor where the API does.
fn apart(source: &Source<'_>, read: &[Read], control: Option<&Placed<Control>>) {
    let api = control.map(|control| (control.value.listen, "the API", &control.place));
    let services = read.iter().filter_map(|read| {
        let listen = read.listen.as_ref()?;
        Some((listen.value, "another service", &listen.place))
    });
    let mut ports: HashMap<u16, Vec<(IpAddr, &str, &Place)>> = HashMap::new();
    for (address, who, place) in api.into_iter().chain(services) {
        // The system chooses a free one for port 0.
        if address.port() == 0 {
            continue;
        }
        let ip = address.ip().to_canonical();
        let taken = ports.entry(address.port()).or_default();
        if let Some((_, who, first)) = taken.iter().find(|(other, ..)| overlap(ip, *other)) {
            let at = match first.line {
                0 => "without being told to".to_owned(),
                _ => format!("at {first}"),
            };
            let problem = Problem::error(
                place,
                format!("`listen` is {address}, where {who} listens already, {at}"),
            );
            source.report(
                problem
                    .or_else("one of the two could not start")
                    .help("give one of them another port, or another address"),
            );
        }
        taken.push((ip, who, place));
    }
}

/// Whether two sockets of one port are in each other's way: `[::]` takes IPv4 too.
pub fn overlap(one: IpAddr, other: IpAddr) -> bool {
    let takes =
        |all: IpAddr, some: IpAddr| all.is_unspecified() && (all.is_ipv6() || some.is_ipv4());
    one == other || takes(one, other) || takes(other, one)
}
