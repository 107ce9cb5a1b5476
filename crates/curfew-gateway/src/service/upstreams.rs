//! Where a service leads: addresses that may become others while it runs. Looking names up may not live here.

use std::{collections::HashSet, sync::Arc};

use curfew_model::UpstreamAddress;
use parking_lot::RwLock;

/// The addresses of one service, in the order to try. Copies are the same service's.
#[derive(Clone, Debug)]
pub struct Upstreams(Arc<RwLock<Arc<[UpstreamAddress]>>>);

impl Upstreams {
    /// A service that leads to these.
    #[must_use]
    pub fn new(addresses: impl Into<Arc<[UpstreamAddress]>>) -> Self {
        Self(Arc::new(RwLock::new(addresses.into())))
    }

    /// As they are now. Sessions that begin while they stay the same share them.
    #[must_use]
    pub fn now(&self) -> Arc<[UpstreamAddress]> {
        Arc::clone(&self.0.read())
    }

    /// From now on new sessions lead to these, unless they are the same in another order; live sessions stay where they
    /// are. Whether they are others.
    pub fn replace(&self, addresses: &[UpstreamAddress]) -> bool {
        let mut known = self.0.write();
        let before: HashSet<_> = known.iter().collect();
        let changes = before != addresses.iter().collect();
        if changes {
            *known = addresses.into();
        }
        changes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_order_is_no_change() {
        let [one, other] = ["10.0.0.1:5432", "[2001:db8::1]:5432"]
            .map(|text| UpstreamAddress::Tcp(text.parse().unwrap()));
        let upstreams = Upstreams::new(vec![one.clone(), other.clone()]);
        let (before, service) = (upstreams.now(), upstreams.clone());
        assert!(!upstreams.replace(&[other.clone(), one]));
        assert!(Arc::ptr_eq(&before, &service.now()));
        assert!(upstreams.replace(std::slice::from_ref(&other)));
        assert_eq!(*service.now(), [other]);
    }
}
