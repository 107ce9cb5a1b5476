//! What should be true, worked out from the same happenings by other means: plain lists, walked in full. No code of the
//! engine may be called here, and no lease arithmetic of the model.

mod clock;

use std::collections::{BTreeMap, BTreeSet};

use curfew_model::{EndReason, SessionId};

use crate::support::SECOND;

const MS: u64 = SECOND / 1_000;

pub const PATIENCE: u64 = SECOND;

/// What the policy says of a service; nanoseconds.
#[derive(Clone, Debug)]
pub struct Service {
    pub name: &'static str,
    pub lifetime: u64,
    pub idle: u64,
    pub reauth: Option<u64>,
    pub max: Option<usize>,
    pub wait: u64,
    pub loss: Option<u64>,
    pub audit: bool,
    /// The lifetime in a segment in audit mode that overlaps this one.
    pub shadow: Option<u64>,
    pub adopt_close: bool,
    /// When its window ends, in seconds of the wall clock.
    pub window: Option<u64>,
    /// From when until when, in seconds of the wall clock, another lifetime is a limit too.
    pub ceiling: Option<(u64, u64, u64)>,
}

/// What a keeper says of the first `length` bits of an address.
#[derive(Clone, Debug)]
pub struct Claim {
    pub keeper: usize,
    pub address: u32,
    pub length: u32,
    pub who: &'static str,
    pub until: Option<u64>,
    /// The same on the wall clock, in milliseconds.
    pub ends: Option<i64>,
    pub refreshed: Option<u64>,
}

impl Claim {
    pub fn covers(&self, address: u32) -> bool {
        let shift = 32 - self.length;
        u64::from(self.address) >> shift == u64::from(address) >> shift
    }
}

#[derive(Clone, Debug)]
pub struct Order {
    pub who: &'static str,
    pub revision: u64,
    pub blocks: bool,
}

#[derive(Clone, Debug)]
pub struct Session {
    pub service: usize,
    pub opened_at: u64,
    pub opened_rev: u64,
    pub own: Option<&'static str>,
    pub address: u32,
    pub bound: BTreeSet<&'static str>,
    pub proved: Option<u64>,
    pub bound_until: Option<u64>,
    pub credential: Option<u64>,
    pub expires: u64,
    pub idle: u64,
    /// When the documents last made that shorter.
    pub stricter: Option<u64>,
    pub reauth: Option<u64>,
    /// What the wall clock, as this session knows it, is ahead of the boot clock, in milliseconds.
    pub clock: i64,
    pub window: Option<u64>,
    /// When a limit comes into force, and when it ends the session from then on.
    pub coming: Option<(u64, u64)>,
    /// The door's truth.
    pub last: u64,
    pub admitted: u64,
    /// When the door was asked and did not answer.
    pub unanswered: Option<u64>,
    /// Ordered to end while in audit mode.
    pub ordered: bool,
    /// Reasons that hold from now on.
    pub due: BTreeSet<EndReason>,
}

impl Session {
    pub fn names(&self) -> BTreeSet<&'static str> {
        self.own
            .into_iter()
            .chain(self.bound.iter().copied())
            .collect()
    }

    /// When its clock shows a wall time of `seconds`, if that is after `boot`.
    fn edge(&self, seconds: u64, boot: u64) -> Option<u64> {
        let shown = crate::support::at(seconds).wall.0 - self.clock;
        let shown = u64::try_from(shown).ok()? * MS;
        (shown > boot).then_some(shown)
    }

    /// It is decided on at `boot`: what came into force before stays.
    fn limit(&mut self, boot: u64, service: &Service) {
        if let Some((from, end)) = self.coming.take()
            && from <= boot
        {
            self.expires = self.expires.min(end);
        }
        self.window = service.window.and_then(|end| self.edge(end, boot));
        if let Some((from, to, lifetime)) = service.ceiling
            && self.edge(to, boot).is_some()
        {
            let end = self.opened_at + lifetime;
            match self.edge(from, boot) {
                Some(from) => self.coming = Some((from, end)),
                None => self.expires = self.expires.min(end),
            }
        }
    }

    /// Whether its clock has passed the window of a service.
    fn outside(&self, boot: u64, service: &Service) -> bool {
        let passed = |end| self.edge(end, boot).is_none();
        service.window.is_some_and(passed)
    }

    fn subject(&self) -> String {
        let name = self.names().first().map(|name| (*name).to_owned());
        name.unwrap_or_else(|| format!("#{}", self.address))
    }
}

/// Whether an order keeps out or ends a session of these names that was decided on at `decided`.
fn is_ordered_out(orders: &[Order], names: &BTreeSet<&'static str>, decided: u64) -> bool {
    let mut mine = orders.iter().filter(|order| names.contains(order.who));
    mine.any(|order| order.blocks || decided < order.revision)
}

/// Everything that should be open, and why.
#[derive(Clone, Debug)]
pub struct Oracle {
    pub services: Vec<Service>,
    pub claims: Vec<Claim>,
    pub orders: Vec<Order>,
    pub sessions: BTreeMap<SessionId, Session>,
    pub would: BTreeMap<SessionId, EndReason>,
    pub last_ends: BTreeMap<(String, usize), u64>,
    pub contact: u64,
    pub boot: u64,
    /// The wall time that is judged by, in milliseconds.
    pub wall: i64,
    /// The highest wall time seen, in milliseconds, and when.
    pub highest: (i64, u64),
}

/// Who an address belongs to.
struct Owner {
    names: BTreeSet<&'static str>,
    until: Option<u64>,
    proved: Option<u64>,
}

impl Oracle {
    /// Whose a session is by its address. Proof is what its subject has.
    fn owner(&self, session: &Session) -> Owner {
        let address = session.address;
        let live = |claim: &&Claim| {
            claim.covers(address) && claim.until.is_none_or(|until| until > self.boot)
        };
        let longest = self
            .claims
            .iter()
            .filter(live)
            .map(|claim| claim.length)
            .max();
        let mut owner = Owner {
            names: BTreeSet::new(),
            until: None,
            proved: None,
        };
        let of_it = |claim: &&Claim| Some(claim.length) == longest;
        for claim in self.claims.iter().filter(live).filter(of_it) {
            owner.names.insert(claim.who);
            owner.until = owner.until.into_iter().chain(claim.until).min();
        }
        let subject = owner.names.iter().copied().chain(session.own).min();
        let of_subject = |claim: &&Claim| Some(claim.who) == subject;
        let claims = self.claims.iter().filter(live).filter(of_it);
        let proofs = claims.filter(of_subject).filter_map(|it| it.refreshed);
        owner.proved = proofs.max();
        owner
    }

    /// The next end that activity does not move, by instant and then by reason.
    pub fn timed(&self, session: &Session) -> Option<(u64, EndReason)> {
        let loss = self.services[session.service].loss;
        [
            Some((session.expires, EndReason::LifetimeExpired)),
            session.window.map(|at| (at, EndReason::OutsideHours)),
            session
                .credential
                .map(|at| (at, EndReason::CredentialExpired)),
            session
                .bound_until
                .map(|at| (at, EndReason::BindingExpired)),
            session.reauth.map(|at| (at, EndReason::ReauthOverdue)),
            session
                .coming
                .map(|(from, end)| (from.max(end), EndReason::LifetimeExpired)),
            loss.map(|after| (self.contact + after, EndReason::ControlPlaneLost)),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// What the lease should say at `boot` of its fixed end.
    pub fn leased(session: &Session, boot: u64) -> u64 {
        let coming = session.coming.filter(|(from, _)| *from <= boot);
        let coming = coming.map(|(_, end)| end);
        let all = [
            session.credential,
            session.bound_until,
            session.reauth,
            coming,
        ];
        all.into_iter().flatten().fold(session.expires, u64::min)
    }

    /// When its door should stop by itself.
    pub fn held(&self, session: &Session) -> u64 {
        let coming = session.coming.map(|(from, end)| from.max(end));
        coming
            .into_iter()
            .fold(Self::leased(session, self.boot), |held, end| held.min(end))
    }

    fn peers(&self, subject: &str, service: usize) -> Vec<(u64, SessionId)> {
        let same = |(_, s): &(&SessionId, &Session)| s.service == service && s.subject() == subject;
        let peers = self.sessions.iter().filter(same);
        let mut peers: Vec<_> = peers.map(|(id, s)| (s.opened_at, *id)).collect();
        peers.sort_unstable();
        peers
    }

    /// A session that asks, or is `found` without having been decided on: held, or the reason that refuses it.
    pub fn open(
        &mut self,
        id: SessionId,
        mut session: Session,
        found: bool,
    ) -> Result<(), EndReason> {
        let owner = self.owner(&session);
        let service = self.services[session.service].clone();
        session.bound = owner.names;
        session.proved = owner.proved;
        session.bound_until = owner.until;
        session.admitted = self.boot;
        session.expires = session.opened_at + service.lifetime;
        session.idle = service.idle;
        let since = session.proved.unwrap_or(session.opened_at);
        session.reauth = service.reauth.map(|every| since + every);
        session.clock = self.clock();
        session.limit(self.boot, &service);
        let mut objections = BTreeSet::new();
        if is_ordered_out(&self.orders, &session.names(), session.opened_rev) {
            objections.insert(EndReason::SubjectRevoked);
        }
        if found && service.adopt_close {
            objections.insert(EndReason::AccessDenied);
        }
        if session.bound.len() > 1 {
            objections.insert(EndReason::Unattributed);
        } else if session.outside(self.boot, &service) {
            objections.insert(EndReason::OutsideHours);
        }
        let lease = [
            Some((session.expires, EndReason::LifetimeExpired)),
            session
                .credential
                .map(|at| (at, EndReason::CredentialExpired)),
            session.reauth.map(|at| (at, EndReason::ReauthOverdue)),
        ];
        let first = lease.into_iter().flatten().min();
        objections.extend(
            first
                .filter(|(at, _)| *at <= self.boot)
                .map(|(_, reason)| reason),
        );
        let last = self.last_ends.get(&(session.subject(), session.service));
        if last.is_some_and(|last| self.boot < last + service.wait) {
            objections.insert(EndReason::LifetimeExpired);
        }
        if service
            .loss
            .is_some_and(|after| self.boot >= self.contact + after)
        {
            objections.insert(EndReason::ControlPlaneLost);
        }
        let peers = self.peers(&session.subject(), session.service);
        if service.max.is_some_and(|max| peers.len() >= max) {
            objections.insert(EndReason::ConcurrencyExceeded);
        }
        if let Some(&reason) = objections.first()
            && !service.audit
        {
            return Err(reason);
        }
        self.sessions.insert(id, session);
        Ok(())
    }

    /// The documents of a service changed.
    pub fn policies(&mut self, index: usize, service: Service) {
        let was_audit = self.services[index].audit;
        self.services[index] = service.clone();
        let clock = self.clock();
        let orders = std::mem::take(&mut self.orders);
        for (id, session) in self.sessions.iter_mut().filter(|(_, s)| s.service == index) {
            session.due.clear();
            if !service.audit && self.would.remove(id).is_some() {
                session.unanswered = None;
            }
            session.expires = session.expires.min(session.opened_at + service.lifetime);
            if service.idle < session.idle {
                session.idle = service.idle;
                session.stricter = Some(self.boot);
            }
            let since = session.proved.unwrap_or(session.opened_at);
            let reauth = service.reauth.map(|every| since + every);
            session.reauth = session.reauth.into_iter().chain(reauth).min();
            session.clock = session.clock.max(clock);
            session.limit(self.boot, &service);
            let outside = session.outside(self.boot, &service);
            if was_audit
                && !service.audit
                && std::mem::take(&mut session.ordered)
                && is_ordered_out(&orders, &session.names(), session.opened_rev)
            {
                session.due.insert(EndReason::SubjectRevoked);
            } else if Self::leased(session, self.boot) <= self.boot
                || outside
                || session.bound.len() > 1
            {
                session.due.insert(EndReason::PolicyChanged);
            }
        }
        self.orders = orders;
        self.limit();
    }

    pub fn revoke(&mut self, order: Order) {
        for session in self.sessions.values_mut() {
            if session.names().contains(order.who) {
                session.due.insert(EndReason::SubjectRevoked);
                session.ordered = self.services[session.service].audit;
            }
        }
        self.orders.push(order);
    }

    /// What is said of addresses changed where `reached` says so.
    pub fn attribute(&mut self, reached: impl Fn(u32) -> bool) {
        let ids: Vec<SessionId> = self.sessions.keys().copied().collect();
        for id in ids {
            let mut session = self.sessions[&id].clone();
            if reached(session.address) {
                self.attribute_one(&mut session);
            }
            self.sessions.insert(id, session);
        }
        self.limit();
    }

    fn attribute_one(&self, session: &mut Session) {
        let owner = self.owner(session);
        let service = &self.services[session.service];
        let lost = !session.bound.is_subset(&owner.names);
        let moved = session.bound != owner.names;
        let newer = match (owner.proved, session.proved) {
            (Some(new), Some(old)) => new > old,
            (Some(new), None) => new > session.opened_at,
            (None, _) => false,
        };
        let ties = owner.proved > session.proved || owner.until != session.bound_until;
        session.bound = owner.names;
        session.proved = session.proved.max(owner.proved);
        session.bound_until = owner.until;
        if lost {
            session.due.insert(EndReason::BindingExpired);
            if !service.audit {
                return;
            }
            // It stays, under what is said now.
        } else if !moved && !ties {
            return;
        } else if moved && is_ordered_out(&self.orders, &session.names(), session.opened_rev) {
            session.due.insert(EndReason::SubjectRevoked);
            session.ordered |= service.audit;
        }
        let since = session.proved.unwrap_or(session.opened_at);
        let reauth = service.reauth.map(|every| since + every);
        if newer && !lost {
            session.idle = service.idle;
            session.reauth = reauth;
        } else {
            session.idle = session.idle.min(service.idle);
            session.reauth = session.reauth.into_iter().chain(reauth).min();
        }
        session.limit(self.boot, service);
        if session.bound.len() > 1 {
            session.due.insert(EndReason::Unattributed);
        } else if session.outside(self.boot, service) {
            session.due.insert(EndReason::OutsideHours);
        }
        if Self::leased(session, self.boot) <= self.boot {
            session
                .due
                .extend(self.timed(session).map(|(_, reason)| reason));
        }
    }

    /// Of too many the newest end.
    fn limit(&mut self) {
        let mut over = Vec::new();
        for session in self.sessions.values().filter(|s| s.due.is_empty()) {
            let Some(max) = self.services[session.service].max else {
                continue;
            };
            let alive = |(_, id): &(u64, SessionId)| self.sessions[id].due.is_empty();
            let peers = self.peers(&session.subject(), session.service);
            over.extend(peers.into_iter().filter(alive).skip(max).map(|(_, id)| id));
        }
        for id in over {
            let due = &mut self.sessions.get_mut(&id).unwrap().due;
            due.insert(EndReason::ConcurrencyExceeded);
        }
    }

    /// Whether `reason` is true of a session now.
    pub fn justifies(&self, id: SessionId, reason: EndReason, gone: bool) -> bool {
        let Some(session) = self.sessions.get(&id) else {
            return false;
        };
        let idle = session.last.max(session.admitted) + session.idle;
        let silent = gone || session.unanswered.is_some();
        match reason {
            EndReason::IdleTimeout => silent || idle <= self.boot,
            // The documents made it idle for too long.
            EndReason::PolicyChanged if session.stricter.is_some_and(|at| silent || idle <= at) => {
                true
            }
            other if session.due.contains(&other) => true,
            other => {
                let timed = self.timed(session);
                session.due.is_empty()
                    && timed.is_some_and(|(at, first)| at <= self.boot && first == other)
            }
        }
    }

    /// Why a session that is still open should not be, if it should not.
    pub fn overdue(&self, id: SessionId, gone: bool) -> Option<String> {
        let session = &self.sessions[&id];
        if let Some(reason) = session.due.first() {
            return Some(format!("{reason} is due"));
        }
        if let Some((at, reason)) = self.timed(session).filter(|(at, _)| *at <= self.boot) {
            return Some(format!("{reason} was at {at}"));
        }
        let idle = session.last.max(session.admitted) + session.idle;
        let late = idle <= self.boot
            && match session.unanswered {
                Some(asked) => asked + PATIENCE <= self.boot,
                None => !gone,
            };
        late.then(|| format!("idle since {}", session.last))
    }

    /// A session was closed.
    pub fn closed(&mut self, id: SessionId, reason: EndReason) {
        if let Some(session) = self.sessions.remove(&id)
            && reason == EndReason::LifetimeExpired
        {
            let key = (session.subject(), session.service);
            self.last_ends.insert(key, self.boot);
        }
    }
}
