//! Limits that ask for fresh proof, held against those who can never give it. Counting from proof is in `decide`.

use std::collections::HashMap;

use curfew_model::{Binding, BindingKey, Kind, Sensitivity};

use crate::{
    compile::PolicySet,
    document::{From, Name, Selector, SessionPolicy},
    limits::PlacedLimits,
    problem::Problem,
};

/// Policies that are said one by one; the others are counted.
const MAX_POLICIES: usize = 100;
/// Bindings that are looked at, for all policies or members together: starting waits for it.
pub(crate) const MAX_LOOKS: usize = 1_000_000;

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
    /// A warning for each policy that may hold for the subject of one of these bindings, and whose sessions need fresh
    /// proof, by itself or by a segment that it leads to; by place. These are bindings that nobody refreshes.
    #[must_use]
    pub fn unprovable(&self, bindings: &[Binding]) -> Vec<Problem> {
        let mut asks: Vec<Option<Asks>> = self
            .policies
            .iter()
            .map(|policy| Asks::of(&policy.limits))
            .collect();
        let mut raise = |policy: usize, by_segment: Asks| {
            if let Some(asks) = asks.get_mut(policy) {
                *asks = (*asks).max(Some(by_segment));
            }
        };
        let mut of_sensitivity: HashMap<Sensitivity, Asks> = HashMap::new();
        for segment in &self.segments {
            let Some(by_segment) = Asks::of(&segment.limits) else {
                continue;
            };
            let of_all = of_sensitivity.entry(segment.sensitivity);
            let of_all = of_all.or_insert(by_segment);
            *of_all = (*of_all).max(by_segment);
            for policy in &segment.named_by {
                raise(*policy, by_segment);
            }
        }
        for (sensitivity, by_segment) in of_sensitivity {
            for policy in self.leading_to_all(sensitivity) {
                raise(*policy, by_segment);
            }
        }
        let mut looks = MAX_LOOKS;
        let mut asking: Vec<(&SessionPolicy, Asks, &Binding)> = Vec::new();
        for (policy, asks) in self.policies.iter().zip(asks) {
            let Some(asks) = asks else {
                continue;
            };
            let mut some = bindings.iter().take(looks).inspect(|_| looks -= 1);
            if let Some(binding) = some.find(|binding| may_hold(&policy.from, binding)) {
                asking.push((policy, asks, binding));
            }
        }
        asking.sort_by_key(|(policy, ..)| &policy.place);
        let (said, counted) = asking.split_at(asking.len().min(MAX_POLICIES));
        let said = said.iter();
        let mut problems: Vec<Problem> = said
            .map(|(policy, asks, binding)| warning(policy, *asks, binding))
            .collect();
        if let Some((policy, ..)) = counted.first() {
            let text = format!(
                "{} policies more ask for proof that is never given",
                counted.len()
            );
            problems.push(Problem::warning(&policy.place, text));
        }
        problems
    }
}

/// Whether a policy may hold for whoever a binding gives: as roles and source segments show only with a session, they may.
fn may_hold(from: &From, binding: &Binding) -> bool {
    let is_selected = |fields: [Option<bool>; 4]| fields.into_iter().flatten().all(|field| field);
    let is_excepted = |fields: [Option<bool>; 4]| fields.into_iter().flatten().any(|field| field);
    (from.anyone || is_selected(fields(&from.selector, binding)))
        && !is_excepted(fields(&from.except, binding))
}

/// Whether each field that a selector has, and that a binding tells of, selects what it gives.
fn fields(selector: &Selector, binding: &Binding) -> [Option<bool>; 4] {
    let identity = &binding.identity;
    let is = |kind, name: &Name| {
        identity.kind == kind && identity.issuer == name.issuer && identity.id == name.id
    };
    let named = |kind, names: &Option<Vec<Name>>| {
        names
            .as_ref()
            .map(|names| names.iter().any(|name| is(kind, name)))
    };
    let groups = selector.groups.as_ref();
    let cidrs = selector.cidrs.as_ref();
    let address = match &binding.key {
        BindingKey::Address(net) => Some(net),
        BindingKey::Uid(_) | BindingKey::Cgroup(_) => None,
    };
    [
        named(Kind::User, &selector.users),
        named(Kind::Workload, &selector.workloads),
        groups.map(|groups| groups.iter().any(|group| binding.groups.contains(group))),
        cidrs.zip(address).map(|(cidrs, net)| {
            cidrs
                .iter()
                .any(|cidr| cidr.contains(net) || net.contains(cidr))
        }),
    ]
}

fn warning(policy: &SessionPolicy, asks: Asks, binding: &Binding) -> Problem {
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
        "`{field}` holds for {} here, whom curfew.yaml binds, and what it binds is never refreshed",
        binding.identity,
    );
    Problem::warning(&policy.place, text)
        .or_else(otherwise)
        .help("bind them by the API, whose caller refreshes the binding, or let the limit not hold for them")
}
