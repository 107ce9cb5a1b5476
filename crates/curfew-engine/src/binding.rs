//! What addresses, uids and cgroups are bound to, and what a session's address and process say of it. What becomes of
//! live sessions when that changes lives in `attribution`.

use std::{collections::BTreeMap, net::IpAddr};

use curfew_model::{Binding, BindingKey, BootInstant, Identity, Now, WallInstant};
use ipnet::IpNet;

use crate::{
    EngineError, Keeper, Owner, Peer,
    who::{Bound, is_same},
};

/// Proof from further ahead than this was noted by a wrong clock, in milliseconds.
const AHEAD: i64 = 60_000;

/// A binding with its instants on the boot clock, converted once.
#[derive(Clone, Debug)]
struct Held {
    identity: Identity,
    groups: Vec<String>,
    ends: Option<WallInstant>,
    until: Option<BootInstant>,
    refreshed: Option<WallInstant>,
    proved: Option<BootInstant>,
}

impl Held {
    /// It ends by the wall time that is judged by, and is as old as the clock says, `shown`, which its source noted it by.
    fn new(binding: Binding, now: Now, shown: WallInstant) -> Self {
        let clocks = Now { wall: shown, ..now };
        let proved_at = |at: WallInstant| {
            if at.0.saturating_sub(shown.0) > AHEAD {
                return BootInstant(0);
            }
            clocks.boot_before(at)
        };
        Self {
            identity: binding.identity,
            groups: binding.groups,
            ends: binding.until,
            until: binding.until.map(|until| now.boot_at(until)),
            refreshed: binding.refreshed_at,
            proved: binding.refreshed_at.map(proved_at),
        }
    }

    /// Keeps the age of proof that was told before: no step of the clock makes it younger. What a clock that was slow took
    /// for proof from the future has none.
    fn keep_age(&mut self, before: &Self) {
        let same = (&self.identity, self.refreshed) == (&before.identity, before.refreshed);
        if same && before.proved != Some(BootInstant(0)) {
            self.proved = before.proved;
        }
    }

    /// Has it end by these clocks; answers whether that changes anything from now on.
    fn end_anew(&mut self, now: Now) -> bool {
        let until = self.ends.map(|ends| now.boot_at(ends));
        let before = std::mem::replace(&mut self.until, until);
        until != before && until.max(before) > Some(now.boot)
    }
}

/// What each keeper says of one key.
#[derive(Debug, Default)]
struct Claims {
    config: Option<Held>,
    state: Option<Held>,
}

impl Claims {
    fn place(&mut self, keeper: Keeper) -> &mut Option<Held> {
        match keeper {
            Keeper::Config => &mut self.config,
            Keeper::State => &mut self.state,
        }
    }

    fn live(&self, now: BootInstant) -> impl Iterator<Item = &Held> {
        let all = self.config.iter().chain(&self.state);
        all.filter(move |held| held.until.is_none_or(|until| until > now))
    }
}

/// The instants that the bindings of a session give it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BoundProof {
    pub(crate) until: Option<BootInstant>,
    pub(crate) proved: Option<BootInstant>,
}

/// All bindings; addresses by prefix length, so that the longest is found by few look-ups.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    claims: BTreeMap<BindingKey, Claims>,
    /// How many address bindings have each prefix length, IPv4 and IPv6 apart.
    prefixes: BTreeMap<(bool, u8), usize>,
}

impl Bindings {
    /// Makes or replaces what a keeper says; `binding.key` is canonical.
    pub(crate) fn insert(
        &mut self,
        keeper: Keeper,
        binding: Binding,
        limit: usize,
        (now, shown): (Now, WallInstant),
    ) -> Result<(), EngineError> {
        let key = binding.key.clone();
        if !self.claims.contains_key(&key) {
            if self.claims.len() >= limit {
                self.drop_ended(now.boot);
            }
            if self.claims.len() >= limit {
                return Err(EngineError::Full {
                    what: "bindings",
                    limit,
                });
            }
            if let BindingKey::Address(net) = &key {
                let prefix = (net.addr().is_ipv4(), net.prefix_len());
                *self.prefixes.entry(prefix).or_default() += 1;
            }
        }
        let place = self.claims.entry(key).or_default().place(keeper);
        let mut held = Held::new(binding, now, shown);
        if let Some(before) = place {
            held.keep_age(before);
        }
        *place = Some(held);
        Ok(())
    }

    /// Has everything end by these clocks; gives the keys for which that changes something.
    pub(crate) fn end_anew(&mut self, now: Now) -> Vec<BindingKey> {
        let mut changed = Vec::new();
        for (key, claims) in &mut self.claims {
            let mut anew = false;
            for held in claims.config.iter_mut().chain(&mut claims.state) {
                anew |= held.end_anew(now);
            }
            if anew {
                changed.push(key.clone());
            }
        }
        changed
    }

    /// Takes back what a keeper says; answers whether it said anything.
    pub(crate) fn remove(&mut self, keeper: Keeper, key: &BindingKey) -> bool {
        let Some(claims) = self.claims.get_mut(key) else {
            return false;
        };
        let said = claims.place(keeper).take().is_some();
        if claims.config.is_none() && claims.state.is_none() {
            self.forget(key);
        }
        said
    }

    fn forget(&mut self, key: &BindingKey) {
        self.claims.remove(key);
        if let BindingKey::Address(net) = key {
            let prefix = (net.addr().is_ipv4(), net.prefix_len());
            if let Some(count) = self.prefixes.get_mut(&prefix) {
                *count = count.saturating_sub(1);
                if *count == 0 {
                    self.prefixes.remove(&prefix);
                }
            }
        }
    }

    fn drop_ended(&mut self, now: BootInstant) {
        let ended = |(key, claims): (&BindingKey, &Claims)| {
            claims.live(now).next().is_none().then(|| key.clone())
        };
        let ended: Vec<BindingKey> = self.claims.iter().filter_map(ended).collect();
        ended.iter().for_each(|key| self.forget(key));
    }

    /// The claims of the longest prefix that holds now.
    fn by_address(&self, address: IpAddr, now: BootInstant) -> Option<&Claims> {
        let lengths = self.prefixes.keys().rev();
        lengths
            .filter(|(v4, _)| *v4 == address.is_ipv4())
            .filter_map(|(_, length)| IpNet::new(address, *length).ok())
            .filter_map(|net| self.claims.get(&BindingKey::Address(net.trunc())))
            .find(|claims| claims.live(now).next().is_some())
    }

    /// What the bindings of a client's address and process say now, whose door knew its `own` identities. Proof counts that
    /// is the subject's (rule 2): another identity beside it proves nothing of it.
    pub(crate) fn of(
        &self,
        own: &[Identity],
        address: IpAddr,
        peer: &Peer,
        now: BootInstant,
    ) -> (Bound, BoundProof) {
        let (mut bound, mut proof) = (Bound::default(), BoundProof::default());
        if self.claims.is_empty() {
            return (bound, proof);
        }
        let get = |key| self.claims.get(&key);
        let uid = match peer.owner {
            Owner::Uid(uid) => get(BindingKey::Uid(uid)),
            Owner::Elsewhere | Owner::Unknown | Owner::Unasked => None,
        };
        let cgroup = peer.cgroup.clone();
        let cgroup = cgroup.and_then(|path| get(BindingKey::Cgroup(path)));
        let address = self.by_address(address, now);
        let used = address.into_iter().chain(uid).chain(cgroup);
        let used: Vec<&Held> = used.flat_map(|claims| claims.live(now)).collect();
        for held in &used {
            bound.identities.push(held.identity.clone());
            bound.groups.extend(held.groups.iter().cloned());
            proof.until = proof.until.into_iter().chain(held.until).min();
        }
        let subject = own.iter().chain(&bound.identities).min();
        let is_subject = |held: &&&Held| subject.is_some_and(|it| is_same(it, &held.identity));
        let of_subject = used.iter().filter(is_subject);
        proof.proved = of_subject.filter_map(|held| held.proved).max();
        bound.identities.sort_unstable();
        bound.identities.dedup();
        bound.groups.sort_unstable();
        bound.groups.dedup();
        let all = &bound.identities;
        let other = |a: &Identity| all.iter().any(|b| a.kind == b.kind && !is_same(a, b));
        let anybody = peer.owner == Owner::Unknown && self.binds_a_uid(now);
        bound.ambiguous = anybody || all.iter().any(other);
        (bound, proof)
    }

    fn binds_a_uid(&self, now: BootInstant) -> bool {
        let uids = BindingKey::Uid(0)..=BindingKey::Uid(u32::MAX);
        let mut bound = self.claims.range(uids);
        bound.any(|(_, claims)| claims.live(now).next().is_some())
    }
}
