//! What addresses, uids and cgroups are bound to, and what becomes of sessions when that changes (rule 7).

use std::collections::BTreeMap;

use curfew_model::{Binding, BindingKey, BootInstant, EndReason, EventKind, Facts, Now};

use crate::{
    Engine, EngineError, Peer, Report,
    change::Why,
    record::{List, NEVER},
    session::{Key, Ties, nanos},
};

/// A binding with its instants on the boot clock, converted once.
#[derive(Clone, Debug)]
struct Held {
    binding: Binding,
    until: Option<BootInstant>,
    proved: Option<BootInstant>,
}

/// All bindings; addresses by prefix length, so that the longest is found by few look-ups.
#[derive(Debug, Default)]
pub(crate) struct Bindings {
    held: BTreeMap<BindingKey, Held>,
    /// How many address bindings have each prefix length, IPv4 and IPv6 apart.
    prefixes: BTreeMap<(bool, u8), usize>,
}

impl Bindings {
    fn insert(&mut self, held: Held) -> Option<Held> {
        let key = held.binding.key.clone();
        if let BindingKey::Address(net) = &key
            && !self.held.contains_key(&key)
        {
            *self
                .prefixes
                .entry((net.addr().is_ipv4(), net.prefix_len()))
                .or_default() += 1;
        }
        self.held.insert(key, held)
    }

    fn remove(&mut self, key: &BindingKey) -> Option<Held> {
        let held = self.held.remove(key)?;
        if let BindingKey::Address(net) = key {
            let prefix = (net.addr().is_ipv4(), net.prefix_len());
            if let Some(count) = self.prefixes.get_mut(&prefix) {
                *count -= 1;
                if *count == 0 {
                    self.prefixes.remove(&prefix);
                }
            }
        }
        Some(held)
    }

    fn by_address(&self, address: std::net::IpAddr) -> Option<&Held> {
        let address = address.to_canonical();
        let lengths = self
            .prefixes
            .keys()
            .rev()
            .filter(|(v4, _)| *v4 == address.is_ipv4());
        lengths
            .filter_map(|(_, length)| ipnet::IpNet::new(address, *length).ok())
            .find_map(|net| self.held.get(&BindingKey::Address(net.trunc())))
    }

    fn of<'a>(&'a self, facts: &Facts, peer: &Peer) -> Vec<&'a Held> {
        let uid = peer
            .uid
            .and_then(|uid| self.held.get(&BindingKey::Uid(uid)));
        let cgroup = peer
            .cgroup
            .clone()
            .and_then(|c| self.held.get(&BindingKey::Cgroup(c)));
        self.by_address(facts.client.ip())
            .into_iter()
            .chain(uid)
            .chain(cgroup)
            .collect()
    }
}

/// Address keys are kept in one form: no host bits.
fn canonical(key: BindingKey) -> BindingKey {
    match key {
        BindingKey::Address(net) => BindingKey::Address(net.trunc()),
        other => other,
    }
}

impl Engine {
    /// Adds to the facts what bindings say; answers the bindings used and the instants that tie the session.
    pub(crate) fn attribute(&self, facts: &mut Facts, peer: &Peer) -> (Box<[BindingKey]>, Ties) {
        let now = self.now;
        let mut used = Vec::new();
        let mut until = facts.binding_until.map(|wall| now.boot_at(wall));
        for held in self.bindings.of(facts, peer) {
            if held.until.is_some_and(|until| until <= now.boot) {
                continue;
            }
            used.push(held.binding.key.clone());
            facts.identities.push(held.binding.identity.clone());
            facts.groups.extend(held.binding.groups.iter().cloned());
            facts.proved_at = facts.proved_at.max(held.proved);
            until = until.into_iter().chain(held.until).min();
        }
        facts.identities.sort_unstable();
        facts.identities.dedup();
        facts.groups.sort_unstable();
        facts.groups.dedup();
        facts.binding_until = until.map(|until| now.wall_at(until));
        let ties = Ties {
            proved: nanos(facts.proved_at),
            credential: nanos(facts.credential_until.map(|wall| now.boot_at(wall))),
            binding: nanos(until),
            look_again: NEVER,
            lease_credential: NEVER,
            lease_binding: NEVER,
        };
        (used.into(), ties)
    }

    pub(crate) fn set_binding(&mut self, mut binding: Binding) -> Result<Report, EngineError> {
        binding.key = canonical(binding.key);
        let full = self.bindings.held.len() >= self.bounds.bindings;
        if full && !self.bindings.held.contains_key(&binding.key) {
            return Err(EngineError::Full {
                what: "bindings",
                limit: self.bounds.bindings,
            });
        }
        let Now { boot, wall } = self.now;
        let back = |at: curfew_model::WallInstant| {
            BootInstant(
                boot.0
                    .saturating_sub(u64::try_from(wall.since(at).as_nanos()).unwrap_or(NEVER)),
            )
        };
        let held = Held {
            until: binding.until.map(|until| self.now.boot_at(until)),
            proved: binding.refreshed_at.map(back),
            binding: binding.clone(),
        };
        self.note(
            EventKind::BindingChanged,
            format!("{:?} to {}", binding.key, binding.identity),
        );
        let before = self.bindings.insert(held);
        let moved = before.is_some_and(|b| b.binding.identity != binding.identity);
        if moved {
            return Ok(self.end_bound(&binding.key, "the binding went to another subject"));
        }
        let mut report = Report::default();
        for slot in self.under(List::Who, &[Key::Binding(binding.key.clone())]) {
            report.visited += 1;
            report.matched += 1;
            self.refresh(slot);
        }
        if let BindingKey::Address(net) = &binding.key {
            for wider in self.wider(net) {
                let shadowed =
                    self.end_bound_if(&wider, "a narrower binding claims the address", |address| {
                        binding.key.covers(address)
                    });
                report.visited += shadowed.visited;
                report.matched += shadowed.matched;
                report.closed += shadowed.closed;
                report.audit_only += shadowed.audit_only;
            }
        }
        Ok(report)
    }

    fn wider(&self, net: &ipnet::IpNet) -> Vec<BindingKey> {
        let lengths = self.bindings.prefixes.keys();
        lengths
            .filter(|(v4, length)| *v4 == net.addr().is_ipv4() && *length < net.prefix_len())
            .filter_map(|(_, length)| ipnet::IpNet::new(net.addr(), *length).ok())
            .map(|net| BindingKey::Address(net.trunc()))
            .filter(|key| self.bindings.held.contains_key(key))
            .collect()
    }

    pub(crate) fn remove_binding(&mut self, key: &BindingKey) -> Report {
        let key = canonical(key.clone());
        if self.bindings.remove(&key).is_none() {
            return Report::default();
        }
        self.note(EventKind::BindingChanged, format!("{key:?} removed"));
        self.end_bound(&key, "the binding was removed")
    }

    fn end_bound(&mut self, key: &BindingKey, cause: &str) -> Report {
        self.end_bound_if(key, cause, |_| true)
    }

    fn end_bound_if(
        &mut self,
        key: &BindingKey,
        cause: &str,
        covers: impl Fn(std::net::IpAddr) -> bool,
    ) -> Report {
        let mut report = Report::default();
        for slot in self.under(List::Who, &[Key::Binding(key.clone())]) {
            report.visited += 1;
            if !self
                .table
                .get(slot)
                .is_some_and(|record| covers(record.client().ip()))
            {
                continue;
            }
            report.matched += 1;
            if self.end(slot, EndReason::BindingExpired, cause.to_owned(), None) {
                report.closed += 1;
            } else {
                report.audit_only += 1;
            }
        }
        report
    }

    /// Takes a later refresh of a session's bindings into its lease; answers whether there was one.
    pub(crate) fn refresh(&mut self, slot: u32) -> bool {
        let Some(record) = self.table.get(slot) else {
            return false;
        };
        let (Some(who), Some(&old)) = (self.whos.get(record.who), self.ties.get(record.ties))
        else {
            return false;
        };
        let held: Vec<&Held> = who
            .bindings
            .iter()
            .filter_map(|key| self.bindings.held.get(key))
            .collect();
        let proved = held.iter().filter_map(|held| held.proved).max();
        let before = if old.proved == NEVER {
            record.opened_at
        } else {
            old.proved
        };
        let Some(proved) = proved.filter(|proved| proved.0 > before) else {
            return false;
        };
        let until = held.iter().filter_map(|held| held.until).min();
        let ties = Ties {
            proved: proved.0,
            binding: nanos(until),
            ..old
        };
        let (ties, _) = self.ties.acquire(ties);
        let Some(record) = self.table.get_mut(slot) else {
            return false;
        };
        let old = std::mem::replace(&mut record.ties, ties);
        self.ties.release(old);
        if self.review(slot, &Why::Proof) {
            self.record(
                slot,
                EventKind::SessionRenewed,
                None,
                Some("the binding was refreshed".to_owned()),
            );
        }
        true
    }
}
