//! The places that connections take, and who gives one up when none is left. Sockets may not live here.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::sync::Notify;

/// As many connections as are served at once.
#[derive(Debug)]
pub(crate) struct Places {
    limit: usize,
    /// Of one address that is not loopback.
    of_address: usize,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    next: u64,
    count: usize,
    by_address: HashMap<IpAddr, usize>,
    /// Connections that have not shown a token on record, the oldest first.
    strangers: BTreeMap<u64, Arc<Notify>>,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            of_address: limit.div_ceil(4),
            taken: Mutex::default(),
        })
    }

    /// A place for one more connection. When all are taken, the oldest one that has shown no token gives up its own, so
    /// that nobody who has none keeps others out; none if there is no such connection.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr) -> Option<Place> {
        let mut taken = self.taken.lock();
        let of_address = taken.by_address.get(&peer).copied().unwrap_or(0);
        if of_address >= self.of_address && !peer.is_loopback() {
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
        *taken.by_address.entry(peer).or_insert(0) += 1;
        taken.strangers.insert(id, Arc::clone(&give_up));
        Some(Place {
            places: Arc::clone(self),
            id,
            peer,
            give_up,
        })
    }
}

/// The place of one connection; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Place {
    places: Arc<Places>,
    id: u64,
    /// The address of the other end.
    pub(crate) peer: IpAddr,
    give_up: Arc<Notify>,
}

impl Place {
    /// Its caller has shown a token on record: nobody else takes the place any more.
    pub(crate) fn keep(&self) {
        self.places.taken.lock().strangers.remove(&self.id);
    }

    /// Waits until somebody else needs the place.
    pub(crate) async fn given_up(&self) {
        self.give_up.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.taken.lock();
        taken.strangers.remove(&self.id);
        taken.count -= 1;
        if let Some(count) = taken.by_address.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                taken.by_address.remove(&self.peer);
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
        known.keep();
        let next = places.take(LOCAL).unwrap();
        assert!(is_given_up(&old));
        assert!(!is_given_up(&known) && !is_given_up(&young) && !is_given_up(&next));
        drop(old);
        young.keep();
        next.keep();
        assert!(places.take(LOCAL).is_none());
        drop(young);
        assert!(places.take(LOCAL).is_some());
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
    fn one_address_has_a_quarter() {
        let places = Places::new(8);
        let held = [(); 2].map(|()| places.take(OTHER).unwrap());
        assert!(places.take(OTHER).is_none());
        assert!(places.take(LOCAL).is_some());
        drop(held);
        assert!(places.take(OTHER).is_some());
    }
}
