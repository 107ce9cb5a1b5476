//! The `control` part of `curfew.yaml`: where the API listens, and with which certificate. Listening is
//! `curfew-control`'s.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use curfew_control::Tls;
use curfew_policy::{Node, Problem, Source};

use super::{Control, Placed, services};

/// Where the API listens unless the configuration says otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 7171);

/// Reads it; none if something in it is an error. It stands where its `listen` does.
pub(super) fn read(
    source: &Source<'_>,
    node: Option<&Node>,
    folder: &Path,
) -> Option<Placed<Control>> {
    let Some(node) = node else {
        return Some(Placed {
            value: Control {
                listen: LISTEN,
                tls: None,
            },
            place: source.whole(),
        });
    };
    let map = source.map(node, "`control`", &["listen", "tls"])?;
    let listen = map.get("listen");
    let place = source.place(listen.unwrap_or(node));
    let listen = match listen {
        None => Some(LISTEN),
        Some(node) => services::address(source, node),
    };
    let tls = map.get("tls").map(|node| read_tls(source, node, folder));
    if let Some(listen) = listen
        && tls.is_none()
        && !listen.ip().to_canonical().is_loopback()
    {
        let problem = Problem::error(
            &place,
            format!("the API listens on {listen}, which others can reach, without a certificate"),
        );
        source.report(
            problem
                .or_else("whoever is in between reads the tokens")
                .help("give `control` a `tls: {certificate, key}`, or listen on 127.0.0.1"),
        );
    }
    let tls = match tls {
        None => None,
        Some(read) => Some(read?),
    };
    Some(Placed {
        value: Control {
            listen: listen?,
            tls,
        },
        place,
    })
}

fn read_tls(source: &Source<'_>, node: &Node, folder: &Path) -> Option<Placed<Tls>> {
    let map = source.map(node, "`tls`", &["certificate", "key"])?;
    let path = |field: &str| {
        let text = source.filled(map.need(field)?, &format!("`{field}`"))?;
        Some(folder.join(text))
    };
    let (certificate, key) = (path("certificate"), path("key"));
    Some(Placed {
        value: Tls {
            certificate: certificate?,
            key: key?,
        },
        place: source.place(node),
    })
}
