//! Limits that ask for fresh proof, held against those who can never give it. Counting from proof is in `decide`.

use crate::{
    compile::PolicySet,
    document::{From, Name, SessionPolicy},
    limits::PlacedLimits,
    named::{Given, Named, name},
    problem::Problem,
};

/// Policies that are said one by one.
const MAX_POLICIES: usize = 100;

/// A limit that asks for fresh proof; what is worse without any comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Asks {
    /// To go on.
    Reauth,
    /// To come in again.
    Reconnect,
}

impl Asks {
    fn of(limits: &PlacedLimits) -> Option<Self> {
        let reconnect = limits.reconnect.as_ref();
        if reconnect.is_some_and(|(reconnect, _)| reconnect.proof) {
            Some(Self::Reconnect)
        } else {
            limits.reauth_every.as_ref().map(|_| Self::Reauth)
        }
    }
}

impl PolicySet {
    /// A warning for each policy that names one of these, and whose sessions need fresh proof, by itself or by a segment
    /// that it leads to; by place. These are whom bindings give that nobody refreshes.
    #[must_use]
    pub fn unprovable(&self, given: &Given) -> Vec<Problem> {
        let mut asks: Vec<Option<Asks>> = self
            .policies
            .iter()
            .map(|policy| Asks::of(&policy.limits))
            .collect();
        for segment in &self.segments {
            let Some(by_segment) = Asks::of(&segment.limits) else {
                continue;
            };
            for index in &segment.policies {
                if let Some(asks) = asks.get_mut(*index) {
                    *asks = (*asks).max(Some(by_segment));
                }
            }
        }
        let policies = self.policies.iter().zip(asks);
        let mut asking: Vec<(&SessionPolicy, Asks, String)> = policies
            .filter_map(|(policy, asks)| Some((policy, asks?, named(&policy.from, given)?)))
            .collect();
        asking.sort_by_key(|(policy, ..)| &policy.place);
        let said = asking.into_iter().take(MAX_POLICIES);
        said.map(|(policy, asks, who)| warning(policy, asks, &who))
            .collect()
    }
}

/// The first group, user or workload of a policy that is given.
fn named(from: &From, given: &Given) -> Option<String> {
    let selector = &from.selector;
    let written = |name: &Name| self::name(&name.issuer, &name.id);
    let groups = selector.groups.iter().flatten().cloned();
    let users = selector.users.iter().flatten().map(written);
    let workloads = selector.workloads.iter().flatten().map(written);
    let groups = groups.map(|name| (Named::Group, name));
    let users = users.map(|name| (Named::User, name));
    let workloads = workloads.map(|name| (Named::Workload, name));
    let mut all = groups.chain(users).chain(workloads);
    all.find(|named| given.has(named))
        .map(|(named, name)| format!("{named} {name}"))
}

fn warning(policy: &SessionPolicy, asks: Asks, who: &str) -> Problem {
    let (field, otherwise) = match asks {
        Asks::Reconnect => (
            "reconnect: proof",
            "after a session of theirs ended by its lifetime, they get no other",
        ),
        Asks::Reauth => (
            "reauthEvery",
            "each session of theirs ends after that time, and has to be opened anew",
        ),
    };
    let text = format!(
        "`{field}` holds for {who} here, whom curfew.yaml binds, and what it binds is never refreshed"
    );
    Problem::warning(&policy.place, text)
        .or_else(otherwise)
        .help("bind them by the API, whose caller refreshes the binding, or let the limit not hold for them")
}
