//! Which segments an address belongs to: a table by prefix length, so that ten thousand ranges cost a few look-ups.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

/// A segment's range, with the ports that it is for.
#[derive(Debug)]
pub(crate) struct Range {
    pub(crate) segment: usize,
    ports: Vec<u16>,
}

impl Range {
    /// Whether it is for this port; without ports it is for all.
    pub(crate) fn is_for(&self, port: u16) -> bool {
        self.ports.is_empty() || self.ports.contains(&port)
    }

    /// The ports as written.
    pub(crate) fn ports(&self) -> &[u16] {
        &self.ports
    }
}

/// Ranges by network.
#[derive(Debug, Default)]
pub(crate) struct NetIndex {
    nets: HashMap<IpNet, Vec<Range>>,
    /// Prefix lengths that occur, for IPv4 and IPv6.
    lengths: [BTreeSet<u8>; 2],
}

impl NetIndex {
    pub(crate) fn add(&mut self, net: IpNet, ports: &[u16], segment: usize) {
        let [v4, v6] = &mut self.lengths;
        let lengths = if net.addr().is_ipv4() { v4 } else { v6 };
        lengths.insert(net.prefix_len());
        self.nets.entry(net).or_default().push(Range {
            segment,
            ports: ports.to_vec(),
        });
    }

    /// Every range with its network.
    pub(crate) fn all(&self) -> impl Iterator<Item = (IpNet, &Range)> {
        self.nets
            .iter()
            .flat_map(|(net, ranges)| ranges.iter().map(move |range| (*net, range)))
    }

    /// The ranges that contain an address; v4-mapped addresses count as IPv4.
    pub(crate) fn at(&self, address: IpAddr) -> impl Iterator<Item = &Range> {
        let address = address.to_canonical();
        let [v4, v6] = &self.lengths;
        let lengths = if address.is_ipv4() { v4 } else { v6 };
        lengths
            .iter()
            .filter_map(move |length| IpNet::new(address, *length).ok())
            .filter_map(|net| self.nets.get(&net.trunc()))
            .flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_in_every_range_around_it() {
        let mut index = NetIndex::default();
        index.add("10.0.0.0/8".parse().unwrap(), &[], 1);
        index.add("10.1.0.0/16".parse().unwrap(), &[5432], 2);
        index.add("::/0".parse().unwrap(), &[], 3);
        let at = |text: &str, port| -> Vec<usize> {
            index
                .at(text.parse().unwrap())
                .filter(|range| range.is_for(port))
                .map(|range| range.segment)
                .collect()
        };
        assert_eq!(at("10.1.2.3", 5432), [1, 2]);
        assert_eq!(at("::ffff:10.1.2.3", 80), [1]);
        assert_eq!(at("11.0.0.1", 80), [0usize; 0]);
        assert_eq!(at("2001:db8::1", 80), [3]);
    }
}
