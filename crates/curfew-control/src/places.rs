//! The places that connections take, and who gives one up when none is left. Sockets may not live here.

use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// As many connections as are served at once.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    /// Of one network that is not loopback.
    of_network: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    count: usize,
    by_network: HashMap<IpAddr, usize>,
    /// Connections that have not shown a token on record, the oldest first.
    strangers: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            of_network: limit.div_ceil(4),
            taken: Mutex::default(),
        })
    }

    /// A place for one more connection. When all are taken, the oldest one that has shown no token gives up its own, so
    /// that nobody who has none keeps others out; none if there is no such connection.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let peer = network(peer);
        let mut taken = self.taken.lock();
        let of_network = taken.by_network.get(&peer).copied().unwrap_or(0);
        if of_network >= self.of_network && !peer.is_loopback() {
            return None;
        }
        // Those that were asked to go are still there for a moment.
        if taken.count >= 2 * self.limit {
            return None;
        }
        if taken.count >= self.limit {
            let (_, oldest) = taken.strangers.pop_first()?;
            oldest.notify_one();
        }
        let id = taken.next;
        let give_up = Arc::new(Notify::new());
        taken.next += 1;
        taken.count += 1;
        *taken.by_network.entry(peer).or_insert(0) += 1;
        taken.strangers.insert(id, Arc::clone(&give_up));
        Some(Place {
            places: Arc::clone(self),
            id,
            peer,
            give_up,
            is_known: AtomicBool::new(false),
        })
    }
}

/// What one attacker easily has many of counts as one: an IPv6 /64.
fn network(ip: IpAddr) -> IpAddr {
    match ip.to_canonical() {
        IpAddr::V6(v6) if !v6.is_loopback() => {
            let prefix = u128::from(v6) >> 64 << 64;
            IpAddr::V6(Ipv6Addr::from(prefix))
        }
        ip => ip,
    }
}

/// The place of one connection; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
    /// The network of the other end.
    pub(crate) peer: IpAddr,
    give_up: Arc<Notify>,
    is_known: AtomicBool,
}

impl Place {
    /// Takes over whether its caller has just shown a token on record: nobody else takes the place of one who has.
    pub(crate) fn set_known(&self, is_known: bool) {
        if self.is_known.swap(is_known, Ordering::Relaxed) == is_known {
            return;
        }
        let mut taken = self.places.taken.lock();
        if is_known {
            taken.strangers.remove(&self.id);
        } else {
            taken.strangers.insert(self.id, Arc::clone(&self.give_up));
        }
    }

    /// Waits until somebody else needs the place. Who has become known meanwhile keeps it.
    pub(crate) async fn given_up(&self) {
        loop {
            self.give_up.notified().await;
            if !self.is_known.load(Ordering::Relaxed) {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.strangers.remove(&self.id);
        taken.count -= 1;
        if let Some(count) = taken.by_network.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.by_network.remove(&self.peer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    const OTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

    /// Whether somebody else needs the place.
    fn is_given_up(place: &Place) -> bool {
        let mut waiting = std::pin::pin!(place.given_up());
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        Future::poll(waiting.as_mut(), &mut context).is_ready()
    }

    #[test]
    fn the_oldest_stranger_makes_room_and_a_known_caller_does_not() {
        let places = Places::new(3);
        let [known, old, young] = [(); 3].map(|()| places.take(LOCAL).unwrap());
        known.set_known(true);
        let next = places.take(LOCAL).unwrap();
        assert!(is_given_up(&old));
        assert!(!is_given_up(&known) && !is_given_up(&young) && !is_given_up(&next));
        drop(old);
        young.set_known(true);
        next.set_known(true);
        assert!(places.take(LOCAL).is_none());
        // Whose token was removed is a stranger again.
        known.set_known(false);
        let another = places.take(LOCAL).unwrap();
        assert!(is_given_up(&known));
        drop((known, another));
        drop(young);
        assert!(places.take(LOCAL).is_some());
    }

    #[test]
    fn who_becomes_known_before_it_has_gone_stays() {
        let places = Places::new(1);
        let first = places.take(LOCAL).unwrap();
        let _second = places.take(LOCAL).unwrap();
        first.set_known(true);
        assert!(!is_given_up(&first));
    }

    #[test]
    fn those_that_are_slow_to_go_do_not_let_in_more_and_more() {
        let places = Places::new(2);
        let held: Vec<Option<Place>> = (0..9).map(|_| places.take(LOCAL)).collect();
        assert_eq!(held.iter().flatten().count(), 4);
        let given_up: Vec<bool> = held.iter().flatten().map(is_given_up).collect();
        assert_eq!(given_up, [true, true, false, false]);
    }

    #[test]
    fn a_v6_network_is_one_stranger() {
        let net = |text: &str| network(text.parse().unwrap());
        assert_eq!(net("2001:db8::1"), net("2001:db8::ffff:1"));
        assert_ne!(net("2001:db8::1"), net("2001:db8:0:1::1"));
        assert_eq!(net("::ffff:10.0.0.1"), net("10.0.0.1"));
        assert!(net("::1").is_loopback());
    }

    #[test]
    fn one_network_has_a_quarter() {
        let places = Places::new(8);
        let held = [(); 2].map(|()| places.take(OTHER).unwrap());
        assert!(places.take(OTHER).is_none());
        assert!(places.take(LOCAL).is_some());
        drop(held);
        assert!(places.take(OTHER).is_some());
    }
}
