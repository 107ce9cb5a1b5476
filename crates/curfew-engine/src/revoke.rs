//! Orders: which sessions they end by index, and which new ones their blocks keep out (rule 14).

use curfew_model::{
    Block, BootInstant, EndReason, EventKind, Identity, Revocation, RevocationId, Scope,
};

use crate::{
    Engine, EngineError, Report,
    record::List,
    session::{Class, Key, Who},
};

/// An order as the engine keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    revocation: Revocation,
    /// Until when it blocks; none for no block.
    blocks_until: Option<BootInstant>,
}

fn key_of(scope: &Scope) -> Key {
    match scope {
        Scope::All | Scope::Enforcer(_) => Key::Everything,
        Scope::Segment(name) => Key::Segment(name.clone()),
        Scope::Policy(name) => Key::Policy(name.clone()),
        Scope::Subject { kind, id, .. } => Key::Identity(*kind, id.clone()),
        Scope::Device(device) => Key::Device(device.clone()),
        Scope::Session(id) => Key::Session(*id),
    }
}

fn carries(scope: &Scope, identities: &[Identity]) -> bool {
    let Scope::Subject { kind, issuer, id } = scope else {
        return true;
    };
    identities.iter().any(|i| {
        i.kind == *kind && i.id == *id && issuer.as_ref().is_none_or(|issuer| *issuer == i.issuer)
    })
}

impl Engine {
    /// Ends what an order names. The shell hands over orders of scope `enforcer` only to the enforcer that they name.
    pub(crate) fn revoke(&mut self, revocation: Revocation) -> Result<Report, EngineError> {
        let mut report = Report::default();
        if self.orders.contains_key(&revocation.id) {
            return Ok(report);
        }
        let scope = revocation.scope.clone();
        let reason = scope.reason();
        let cause = format!("revocation {}: {}", revocation.id, revocation.reason);
        let (id, at) = (revocation.id, revocation.revision);
        self.revision = self.revision.max(at);
        let full = self.orders.len() >= self.bounds.revocations;
        if !full {
            let blocks_until = match revocation.block {
                _ if revocation.lifted_at.is_some() => None,
                Block::None => None,
                Block::UntilLifted => Some(BootInstant::NEVER),
                Block::Until(wall) => Some(self.now.boot_at(wall)),
            };
            self.blocks.entry(key_of(&scope)).or_default().push(id);
            self.orders.insert(
                id,
                Order {
                    revocation,
                    blocks_until,
                },
            );
        }
        self.note(EventKind::RevocationCreated, cause.clone());
        let slots = match &scope {
            Scope::All | Scope::Enforcer(_) => self.living(),
            Scope::Segment(_) | Scope::Policy(_) => self.under(List::Class, &[key_of(&scope)]),
            Scope::Subject { .. } | Scope::Device(_) => self.under(List::Who, &[key_of(&scope)]),
            Scope::Session(session) => self.table.find(*session).into_iter().collect(),
        };
        for slot in slots {
            report.visited += 1;
            let Some(record) = self.table.get(slot) else {
                continue;
            };
            let who = self.whos.get(record.who);
            let named = who.is_some_and(|who| carries(&scope, &who.identities));
            if record.closing.is_some() || record.opened_rev > at.0 || !named {
                continue;
            }
            report.matched += 1;
            if self.end(slot, reason, cause.clone(), None) {
                report.closed += 1;
            } else {
                report.audit_only += 1;
            }
        }
        if full {
            // The sessions are ended all the same; only new ones are not kept out.
            return Err(EngineError::Full {
                what: "revocations",
                limit: self.bounds.revocations,
            });
        }
        Ok(report)
    }

    pub(crate) fn lift(&mut self, id: RevocationId) -> Result<Report, EngineError> {
        let order = self
            .orders
            .get_mut(&id)
            .ok_or(EngineError::UnknownRevocation(id))?;
        if order.blocks_until.take().is_some() {
            self.note(EventKind::RevocationLifted, format!("revocation {id}"));
        }
        Ok(Report::default())
    }

    /// The order that keeps a new session out: a block, or one that the door's decision did not know yet (I7).
    pub(crate) fn ordered_out(
        &self,
        id: curfew_model::SessionId,
        who: &Who,
        class: &Class,
        opened_rev: u64,
    ) -> Option<(EndReason, String)> {
        if self.blocks.is_empty() {
            return None;
        }
        let mut keys = who.keys();
        keys.extend(class.keys());
        keys.extend([Key::Everything, Key::Session(id)]);
        let orders = keys.iter().filter_map(|key| self.blocks.get(key)).flatten();
        orders
            .filter_map(|id| self.orders.get(id))
            .filter(|order| carries(&order.revocation.scope, &who.identities))
            .filter(|order| {
                let blocks = order
                    .blocks_until
                    .is_some_and(|until| self.now.boot < until);
                blocks || opened_rev < order.revocation.revision.0
            })
            .map(|order| {
                let revocation = &order.revocation;
                let cause = format!("revocation {}: {}", revocation.id, revocation.reason);
                (revocation.scope.reason(), cause)
            })
            .min()
    }
}
