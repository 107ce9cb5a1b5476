//! Who appears in the demo and what is written down for Curfew to read: users, services, policy documents. Nothing is
//! started here.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

use curfew_model::format_duration;

/// One service, which is one segment of the same name.
#[derive(Debug)]
pub struct Place {
    pub name: &'static str,
    pub sensitivity: &'static str,
}

/// The segments, from the least to the most sensitive.
pub const PLACES: [Place; 3] = [
    Place {
        name: "wiki",
        sensitivity: "low",
    },
    Place {
        name: "orders-db",
        sensitivity: "high",
    },
    Place {
        name: "payments-db",
        sensitivity: "critical",
    },
];

/// What a client asks its service for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// Bytes all the time.
    Stream,
    /// Nothing: it connects and stays.
    Quiet,
}

/// One client, connected twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub user: &'static str,
    pub place: &'static str,
    pub wish: Wish,
}

/// Every client, in the order of the screen.
pub const PARTS: [Part; 11] = [
    part("alice", "wiki", Wish::Stream),
    part("alice", "orders-db", Wish::Stream),
    part("alice", "payments-db", Wish::Stream),
    part("bob", "wiki", Wish::Stream),
    part("bob", "orders-db", Wish::Quiet),
    part("carol", "orders-db", Wish::Stream),
    part("carol", "payments-db", Wish::Stream),
    part("dave", "orders-db", Wish::Stream),
    part("erin", "wiki", Wish::Stream),
    part("erin", "orders-db", Wish::Stream),
    part("erin", "payments-db", Wish::Stream),
];

const fn part(user: &'static str, place: &'static str, wish: Wish) -> Part {
    Part { user, place, wish }
}

/// The users with their groups; each has a loopback address of its own. Dave is in no group that policy knows.
const USERS: [(&str, u8, &str); 5] = [
    ("alice", 1, "staff, dba"),
    ("bob", 2, "staff"),
    ("carol", 3, "staff, dba"),
    ("dave", 4, "guests"),
    ("erin", 5, "staff, dba"),
];

/// Where a user's connections come from.
pub fn address_of(user: &str) -> IpAddr {
    let number = USERS.iter().find(|(name, ..)| *name == user);
    IpAddr::V4(Ipv4Addr::new(127, 0, 1, number.map_or(0, |(_, n, _)| *n)))
}

/// The policy of the demo. `unit` is a second of the story, which plays in sixty of them.
pub fn policy(unit: Duration) -> String {
    let units = |count: u32| format_duration(unit * count);
    let segment = |place: &Place, more: &str| {
        format!(
            "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {{name: {name}}}\nspec:\n  sensitivity: {}\n{more}  members: [{{service: {name}}}]\n---\n",
            place.sensitivity,
            name = place.name,
        )
    };
    let loss = format!(
        "  onControlPlaneLoss: {{after: {}, live: close, new: refuse}}\n",
        units(10)
    );
    let segments: String = PLACES
        .iter()
        .map(|place| match place.sensitivity {
            "low" => segment(place, "  access: open\n"),
            "critical" => segment(place, &loss),
            _ => segment(place, ""),
        })
        .collect();
    let session_policy = |name: &str, group: &str, place: &str, limits: &str| {
        format!(
            "apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: {name}}}\nspec:\n  from: {{groups: [{group}]}}\n  to: {{segments: [{place}]}}\n  limits: {{{limits}}}\n"
        )
    };
    let orders = format!("maxLifetime: {}, idleTimeout: {}", units(50), units(10));
    let payments = format!(
        "maxLifetime: {}, idleTimeout: {}, reconnect: {}",
        units(24),
        units(20),
        units(30)
    );
    format!(
        "{segments}{}---\n{}",
        session_policy("orders-staff", "staff", "orders-db", &orders),
        session_policy("payments-dba", "dba", "payments-db", &payments)
    )
}

/// What `t` adds: nobody stays in a high segment for longer than this.
pub fn ceiling(unit: Duration) -> String {
    format!(
        "apiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: tightened}}\nspec:\n  admit: false\n  from: {{anyone: true}}\n  to: {{sensitivities: [high]}}\n  limits: {{maxLifetime: {}}}\n",
        format_duration(unit * 8)
    )
}

/// `curfew.yaml`: every service behind the gateway, every user bound to its address.
pub fn config(folder: &Path, upstreams: &[(&str, SocketAddr)]) -> String {
    let services: String = upstreams
        .iter()
        .map(|(name, upstream)| {
            format!("  - {{name: {name}, listen: '127.0.0.1:0', upstream: '{upstream}'}}\n")
        })
        .collect();
    let bindings: String = USERS
        .iter()
        .map(|(user, _, groups)| {
            format!(
                "- {{address: {}, user: {user}, groups: [{groups}]}}\n",
                address_of(user)
            )
        })
        .collect();
    format!(
        "data_dir: {:?}\ncontrol: {{listen: '127.0.0.1:0'}}\npolicy: {{path: policy.yaml}}\ngateway:\n  services:\n{services}bindings:\n{bindings}",
        folder.join("data")
    )
}
