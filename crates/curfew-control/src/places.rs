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
    strangers: BTreeMap<u64, Arc<Seat>>,
    /// Those that have, by the name of their token.
    known: HashMap<String, BTreeMap<u64, Arc<Seat>>>,
}

impl Taken {
    /// Whose place is given up for another: the oldest stranger's, else the oldest of a token that has more than `share`.
    fn give_up(&mut self, share: usize) -> Option<Arc<Seat>> {
        if let Some((_, oldest)) = self.strangers.pop_first() {
            return Some(oldest);
        }
        let seats = self.known.values_mut().max_by_key(|seats| seats.len());
        let (_, oldest) = seats.filter(|seats| seats.len() > share)?.pop_first()?;
        oldest.must_go.store(true, Ordering::Relaxed);
        Some(oldest)
    }

    /// As [`Taken::give_up`], the oldest stranger's of one network: it keeps out no neighbour who would show a token.
    fn give_up_of(&mut self, network: IpAddr) -> Option<Arc<Seat>> {
        let mut strangers = self.strangers.iter();
        let (&id, _) = strangers.find(|(_, seat)| seat.network == network)?;
        self.strangers.remove(&id)
    }

    fn leave(&mut self, id: u64, token: Option<&str>) {
        self.strangers.remove(&id);
        if let Some(token) = token
            && let Some(seats) = self.known.get_mut(token)
        {
            seats.remove(&id);
            if seats.is_empty() {
                self.known.remove(token);
            }
        }
    }
}

/// How a connection hears that somebody else needs its place.
#[derive(Debug)]
struct Seat {
    network: IpAddr,
    asked: Notify,
    /// It has no choice.
    must_go: AtomicBool,
}

impl Places {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            of_network: limit.div_ceil(4),
            taken: Mutex::default(),
        })
    }

    /// A place for one more connection. When its network has its share, the oldest one of that which has shown no token gives
    /// up its own. When all are taken, or with `no_more` of them to be had, the oldest such one of all does, else the oldest
    /// of a token that has more than a quarter of them, so that nobody keeps all others out; none if there is no such
    /// connection.
    pub(crate) fn take(self: &Arc<Self>, peer: IpAddr, no_more: bool) -> Option<Place> {
        let peer = network(peer);
        let mut taken = self.taken.lock();
        let of_network = taken.by_network.get(&peer).copied().unwrap_or(0);
        let crowded = of_network >= self.of_network && !peer.is_loopback();
        // Those that were asked to go are still there for a moment.
        if taken.count >= 2 * self.limit || crowded && of_network >= 2 * self.of_network {
            return None;
        }
        if crowded {
            taken.give_up_of(peer)?.asked.notify_one();
        } else if no_more || taken.count >= self.limit {
            self.make_room(&mut taken)?;
        }
        if no_more {
            // They become fewer, until there may be more.
            let _ = self.make_room(&mut taken);
        }
        let id = taken.next;
        let seat = Arc::new(Seat {
            network: peer,
            asked: Notify::new(),
            must_go: AtomicBool::new(false),
        });
        taken.next += 1;
        taken.count += 1;
        *taken.by_network.entry(peer).or_insert(0) += 1;
        taken.strangers.insert(id, Arc::clone(&seat));
        Some(Place {
            places: Arc::clone(self),
            id,
            peer,
            seat,
            token: Mutex::default(),
        })
    }

    /// Has one give its place up though no other is to have it: there is no descriptor to take a connection with.
    pub(crate) fn give_up(&self) {
        // If nobody has to, the next is taken later.
        let _ = self.make_room(&mut self.taken.lock());
    }

    fn make_room(&self, taken: &mut Taken) -> Option<()> {
        let share = taken.count.min(self.limit).div_ceil(4);
        let seat = taken.give_up(share)?;
        seat.asked.notify_one();
        Some(())
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
    seat: Arc<Seat>,
    /// The name of the token that its caller has shown.
    token: Mutex<Option<String>>,
}

impl Place {
    /// Takes over which token on record its caller has just shown, if any: no stranger takes the place of one who has.
    pub(crate) fn set_known(&self, by: Option<&str>) {
        let mut token = self.token.lock();
        if token.as_deref() == by {
            return;
        }
        let mut taken = self.places.taken.lock();
        taken.leave(self.id, token.as_deref());
        let seats = match by {
            Some(by) => taken.known.entry(by.to_owned()).or_default(),
            None => &mut taken.strangers,
        };
        seats.insert(self.id, Arc::clone(&self.seat));
        *token = by.map(str::to_owned);
    }

    /// Waits until somebody else needs the place. Who has become known meanwhile keeps it.
    pub(crate) async fn given_up(&self) {
        loop {
            self.seat.asked.notified().await;
            if self.seat.must_go.load(Ordering::Relaxed) || self.token.lock().is_none() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let token = self.token.get_mut().take();
        let mut taken = self.places.taken.lock();
        taken.leave(self.id, token.as_deref());
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
        let [known, old, young] = [(); 3].map(|()| places.take(LOCAL, false).unwrap());
        known.set_known(Some("k"));
        let next = places.take(LOCAL, false).unwrap();
        assert!(is_given_up(&old));
        assert!(!is_given_up(&known) && !is_given_up(&young) && !is_given_up(&next));
        drop(old);
        young.set_known(Some("y"));
        next.set_known(Some("n"));
        assert!(places.take(LOCAL, false).is_none());
        // Whose token was removed is a stranger again.
        known.set_known(None);
        let another = places.take(LOCAL, false).unwrap();
        assert!(is_given_up(&known));
        drop((known, another));
        drop(young);
        assert!(places.take(LOCAL, false).is_some());
    }

    #[test]
    fn a_token_with_more_than_its_share_makes_room() {
        let places = Places::new(8);
        let held = [(); 7].map(|()| places.take(LOCAL, false).unwrap());
        held.iter().for_each(|place| place.set_known(Some("many")));
        let one = places.take(LOCAL, false).unwrap();
        one.set_known(Some("one"));
        let other = places.take(LOCAL, false).unwrap();
        assert!(is_given_up(&held[0]) && !is_given_up(&one) && !is_given_up(&held[1]));
        // Nobody has more than a quarter any more: who comes now waits.
        let few = Places::new(4);
        let held = [(); 4].map(|()| few.take(LOCAL, false).unwrap());
        for (place, name) in held.iter().zip(["a", "b", "c", "d"]) {
            place.set_known(Some(name));
        }
        assert!(few.take(LOCAL, false).is_none());
        drop(other);
    }

    #[test]
    fn who_becomes_known_before_it_has_gone_stays() {
        let places = Places::new(1);
        let first = places.take(LOCAL, false).unwrap();
        let _second = places.take(LOCAL, false).unwrap();
        first.set_known(Some("f"));
        assert!(!is_given_up(&first));
    }

    #[test]
    fn those_that_are_slow_to_go_do_not_let_in_more_and_more() {
        let places = Places::new(2);
        let held: Vec<Option<Place>> = (0..9).map(|_| places.take(LOCAL, false)).collect();
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
        let [known, stranger] = [(); 2].map(|()| places.take(OTHER, false).unwrap());
        known.set_known(Some("a"));
        let local = places.take(LOCAL, false).unwrap();
        // Who is silent keeps none of its neighbours out.
        let next = places.take(OTHER, false).unwrap();
        assert!(is_given_up(&stranger) && !is_given_up(&known) && !is_given_up(&local));
        next.set_known(Some("b"));
        drop(stranger);
        assert!(places.take(OTHER, false).is_none());
        assert!(places.take(LOCAL, false).is_some());
        drop(known);
        assert!(places.take(OTHER, false).is_some());
    }

    #[test]
    fn one_that_may_only_replace_another_does() {
        let places = Places::new(9);
        assert!(places.take(LOCAL, true).is_none());
        let [known, stranger] = [(); 2].map(|()| places.take(LOCAL, false).unwrap());
        known.set_known(Some("a"));
        let next = places.take(LOCAL, true).unwrap();
        assert!(is_given_up(&stranger));
        next.set_known(Some("b"));
        drop(stranger);
        assert!(places.take(LOCAL, true).is_none());
        assert!(!is_given_up(&known) && !is_given_up(&next));
        // Of the few there are none has more than its share.
        next.set_known(Some("a"));
        assert!(places.take(LOCAL, true).is_some());
        assert!(is_given_up(&known));
    }
}
