//! Services whose upstreams lead back to themselves. What is said of them may not live here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use curfew_gateway::service::ServiceConfig;
use curfew_model::{ServiceName, UpstreamAddress};

use crate::config::overlap;

/// The services that a connection comes back to, be it by way of others.
pub fn circular(services: &[ServiceConfig]) -> Vec<ServiceName> {
    let comes_back = |service: &&ServiceConfig| {
        let mut reached = next(service, services);
        let mut looked = 0;
        while let Some(other) = reached.get(looked).copied() {
            if other.name == service.name {
                return true;
            }
            for further in next(other, services) {
                if !reached.iter().any(|known| known.name == further.name) {
                    reached.push(further);
                }
            }
            looked += 1;
        }
        false
    };
    let circular = services.iter().filter(comes_back);
    circular.map(|service| service.name.clone()).collect()
}

/// The services that one leads to.
fn next<'a>(service: &ServiceConfig, services: &'a [ServiceConfig]) -> Vec<&'a ServiceConfig> {
    let upstreams = service.upstreams.now();
    let leads_to = |other: &&ServiceConfig| {
        let is = |upstream: &UpstreamAddress| match upstream {
            UpstreamAddress::Tcp(address) => listens_at(other.listen, *address),
            UpstreamAddress::Unix(_) => false,
        };
        upstreams.iter().any(is)
    };
    services.iter().filter(leads_to).collect()
}

/// Whether what listens there is reached at this address. Other addresses of this host than loopback are not known here.
fn listens_at(listen: SocketAddr, address: SocketAddr) -> bool {
    let at = listen.ip().to_canonical();
    // Where a connection to no address in particular goes.
    let to = match address.ip().to_canonical() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => Ipv6Addr::LOCALHOST.into(),
        to => to,
    };
    let same = at == to || to.is_loopback() && overlap(at, to);
    listen.port() == address.port() && same
}

#[cfg(test)]
mod tests {
    use curfew_gateway::protocol::Protocol;

    use super::*;

    #[test]
    fn who_leads_back_is_found_by_way_of_others_too() {
        let service = |name: &str, listen: &str, upstream: &str| {
            let upstream = UpstreamAddress::Tcp(upstream.parse().unwrap());
            ServiceConfig::new(
                ServiceName::new(name).unwrap(),
                listen.parse().unwrap(),
                vec![upstream],
                Protocol::Tcp,
            )
        };
        let services = [
            service("itself", "0.0.0.0:1", "127.0.0.1:1"),
            service("one", "127.0.0.1:2", "[::ffff:127.0.0.1]:3"),
            service("other", "[::]:3", "0.0.0.0:2"),
            service("into", "127.0.0.1:4", "127.0.0.1:1"),
            service("chained", "127.0.0.1:5", "127.0.0.1:6"),
            service("last", "127.0.0.1:6", "192.0.2.1:6"),
            service("other-family", "0.0.0.0:7", "[::1]:7"),
            service("elsewhere", "[::]:8", "192.0.2.1:8"),
            service("beside", "127.0.0.2:9", "0.0.0.0:9"),
        ];
        let found = circular(&services);
        let found: Vec<&str> = found.iter().map(ServiceName::as_str).collect();
        assert_eq!(found, ["itself", "one", "other"]);
    }
}
