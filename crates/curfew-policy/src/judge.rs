//! How one policy stands to one session: whether its limits apply, whether it admits, and why not. One path for
//! `decide` and `explain`. Combining policies is not done here.

use std::cell::OnceCell;

use curfew_model::{Facts, Identity, Kind, Now, Proof, WallInstant};

use crate::{
    compile::PolicySet,
    document::{End, Member, Name, Selector, SessionPolicy},
    when::{Attributes, Truth},
    window::InForce,
};

/// How a policy stands to a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It admits until an instant, or for as long as it stays as it is; its limits apply.
    Admits(End),
    /// Its limits apply, and it does not admit.
    Limits(NoAdmission),
    /// It does not match.
    Absent(NoMatch),
}

/// Why a matching policy does not admit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAdmission {
    /// It says `admit: false`.
    Ceiling,
    /// Only what the client asserted matches.
    Asserted,
    /// An asserted identity is excepted.
    Excepted,
    /// An attribute of the condition is absent.
    Absent,
    /// The condition could not be decided for another reason.
    Failed,
}

/// Why a policy does not match.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoMatch {
    /// It is not for this session's holder or place.
    From,
    /// The holder is excepted.
    Excepted,
    /// The condition is false.
    Condition,
    /// It would admit, but not at this hour; next at this instant.
    OutsideHours {
        /// Whether everything but the hour admits.
        would_admit: bool,
        /// When its hours open next.
        next: Option<WallInstant>,
    },
    /// Its grant ended.
    Ended {
        /// Whether everything but the end admits.
        would_admit: bool,
    },
}

/// Which identities count.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Count {
    All,
    Firm,
}

/// One session under judgement; what several policies need is worked out once.
pub(crate) struct Case<'a> {
    set: &'a PolicySet,
    pub(crate) facts: &'a Facts,
    pub(crate) now: Now,
    attributes: OnceCell<Attributes>,
    sources: OnceCell<Vec<usize>>,
}

impl<'a> Case<'a> {
    pub(crate) fn new(set: &'a PolicySet, facts: &'a Facts, now: Now) -> Self {
        Self {
            set,
            facts,
            now,
            attributes: OnceCell::new(),
            sources: OnceCell::new(),
        }
    }

    pub(crate) fn judge(&self, policy: &SessionPolicy) -> Standing {
        let from = &policy.from;
        if !from.anyone && !self.selects(&from.selector, Count::All) {
            return Standing::Absent(NoMatch::From);
        }
        if self.touches(&from.except, Count::Firm) {
            return Standing::Absent(NoMatch::Excepted);
        }
        let truth = match &policy.when {
            None => Truth::True,
            Some(when) => when.truth(self.attributes()),
        };
        if truth == Truth::False {
            return Standing::Absent(NoMatch::Condition);
        }
        let refusal = self.no_admission(policy, truth);
        match policy.validity.at(self.now.wall) {
            InForce::OutsideHours(next) => Standing::Absent(NoMatch::OutsideHours {
                would_admit: refusal.is_none(),
                next,
            }),
            InForce::Ended => Standing::Absent(NoMatch::Ended {
                would_admit: refusal.is_none(),
            }),
            InForce::Until(end) => refusal.map_or(Standing::Admits(end), Standing::Limits),
        }
    }

    fn attributes(&self) -> &Attributes {
        self.attributes
            .get_or_init(|| Attributes::of(self.facts, self.set.conditions_read))
    }

    /// Why a policy's condition cannot be decided, if it cannot.
    pub(crate) fn failure(&self, policy: &SessionPolicy) -> Option<String> {
        policy.when.as_ref()?.failure(self.attributes())
    }

    fn no_admission(&self, policy: &SessionPolicy, truth: Truth) -> Option<NoAdmission> {
        let from = &policy.from;
        if !policy.admit {
            Some(NoAdmission::Ceiling)
        } else if truth == Truth::Absent {
            Some(NoAdmission::Absent)
        } else if truth == Truth::Failed {
            Some(NoAdmission::Failed)
        } else if self.touches(&from.except, Count::All) {
            Some(NoAdmission::Excepted)
        } else if !from.anyone && !from.allow_asserted && !self.selects(&from.selector, Count::Firm)
        {
            Some(NoAdmission::Asserted)
        } else {
            None
        }
    }

    /// Every field that is given matches.
    fn selects(&self, selector: &Selector, count: Count) -> bool {
        self.fields(selector, count)
            .into_iter()
            .flatten()
            .all(|matches| matches)
    }

    /// Any field that is given matches.
    fn touches(&self, selector: &Selector, count: Count) -> bool {
        self.fields(selector, count)
            .into_iter()
            .flatten()
            .any(|matches| matches)
    }

    fn fields(&self, selector: &Selector, count: Count) -> [Option<bool>; 6] {
        let carries = |kind: Kind, names: &Option<Vec<Name>>| {
            let names = names.as_ref()?;
            Some(self.counted(count).any(|identity| {
                identity.kind == kind
                    && names
                        .iter()
                        .any(|name| name.id == identity.id && name.issuer == identity.issuer)
            }))
        };
        [
            carries(Kind::User, &selector.users),
            carries(Kind::Workload, &selector.workloads),
            carries(Kind::Role, &selector.roles),
            // Groups are the subject's, and as good as its proof.
            selector.groups.as_ref().map(|groups| {
                let known = count == Count::All || self.facts.subject().is_some_and(is_firm);
                known && groups.iter().any(|group| self.facts.groups.contains(group))
            }),
            selector.segments.as_ref().map(|names| {
                let sources = self.sources.get_or_init(|| self.set.sources(self.facts));
                sources
                    .iter()
                    .filter_map(|source| self.set.segments.get(*source))
                    .any(|source| names.contains(&source.name))
            }),
            selector.cidrs.as_ref().map(|nets| {
                let client = self.facts.client.ip().to_canonical();
                nets.iter().any(|net| net.contains(&client))
            }),
        ]
    }

    fn counted(&self, count: Count) -> impl Iterator<Item = &Identity> {
        self.facts
            .identities
            .iter()
            .filter(move |identity| count == Count::All || is_firm(identity))
    }
}

fn is_firm(identity: &Identity) -> bool {
    identity.proof != Proof::Asserted
}

impl PolicySet {
    /// The segments that a session comes from, by address or identity. Ports are a target's, so they do not count.
    fn sources(&self, facts: &Facts) -> Vec<usize> {
        let by_address = self.by_net.at(facts.client.ip()).map(|range| range.segment);
        let by_identity = self
            .by_identity
            .iter()
            .filter(|(member, _)| {
                facts
                    .identities
                    .iter()
                    .any(|identity| is_firm(identity) && is_member(member, identity))
            })
            .map(|(_, segment)| *segment);
        by_address.chain(by_identity).collect()
    }
}

fn is_member(member: &Member, identity: &Identity) -> bool {
    let workload = identity.kind == Kind::Workload;
    match member {
        Member::Spiffe(pattern) => workload && matches_glob(pattern, &identity.id),
        Member::Cgroup(pattern) => {
            workload
                && identity
                    .id
                    .strip_prefix("cgroup:")
                    .is_some_and(|path| matches_glob(pattern, path))
        }
        Member::Uid(_) | Member::Pods { .. } | Member::Cidr { .. } | Member::Service(_) => false,
    }
}

/// `*` stands for any characters but `/`. Linear in the product of both lengths, without backtracking over parts.
pub(crate) fn matches_glob(pattern: &str, text: &str) -> bool {
    let mut patterns = pattern.split('/');
    let mut texts = text.split('/');
    loop {
        match (patterns.next(), texts.next()) {
            (None, None) => return true,
            (Some(pattern), Some(text)) if matches_part(pattern, text) => {}
            _ => return false,
        }
    }
}

fn matches_part(pattern: &str, text: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(head) else {
        return false;
    };
    let mut parts = rest.split('*').peekable();
    while let Some(part) = parts.next() {
        if parts.peek().is_none() {
            return text.ends_with(part);
        }
        let Some(at) = text.find(part) else {
            return false;
        };
        text = text.get(at + part.len()..).unwrap_or_default();
    }
    true
}

#[cfg(test)]
mod tests {
    use curfew_model::{BootInstant, Revision};
    use curfew_testkit::alice;

    use super::*;
    use crate::{Decide, compile, load};

    #[test]
    fn every_condition_of_a_set_finds_what_it_reads() {
        let mut text = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\n\
                        spec: {sensitivity: low, access: open, members: [{cidr: 10.0.0.1}]}\n"
            .to_owned();
        for (name, when) in [("a", "subject.risk == 'low'"), ("b", "device.compliant")] {
            text += &format!(
                "---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: {name}}}\n\
                 spec: {{from: {{anyone: true}}, to: {{segments: [db]}}, when: {when:?}}}\n"
            );
        }
        let set = compile(load([("p", text.as_str())]).documents, Revision(1)).unwrap();
        let (client, target) = ("192.0.2.1:1", "10.0.0.1:5432");
        let mut facts = alice(
            client.parse().unwrap(),
            target.parse().unwrap(),
            BootInstant(0),
        );
        let now = Now {
            boot: BootInstant(0),
            wall: WallInstant(0),
        };
        for (risk, compliant, expected) in [
            ("low", "true", &["a", "b"][..]),
            ("low", "false", &["a"]),
            ("high", "true", &["b"]),
            ("high", "false", &[]),
        ] {
            facts.attributes = [("subject.risk", risk), ("device.compliant", compliant)]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
            let matched = set.decide(&facts, now).policies;
            let matched: Vec<&str> = matched.iter().map(|name| name.as_str()).collect();
            assert_eq!(matched, expected, "{risk} {compliant}");
        }
    }

    #[test]
    fn stars_stay_inside_their_part() {
        for (pattern, text, is) in [
            (
                "/system.slice/postgresql*.service",
                "/system.slice/postgresql@15-main.service",
                true,
            ),
            (
                "/system.slice/postgresql*.service",
                "/system.slice/postgresql/x.service",
                false,
            ),
            (
                "spiffe://example.org/ns/payments/sa/*",
                "spiffe://example.org/ns/payments/sa/db",
                true,
            ),
            (
                "spiffe://example.org/ns/payments/sa/*",
                "spiffe://example.org/ns/payments/sa/db/x",
                false,
            ),
            ("/a*b*c", "/aXbXbc", true),
            ("/a*b", "/ab", true),
            ("/a*a", "/a", false),
            ("/a", "/ab", false),
        ] {
            assert_eq!(matches_glob(pattern, text), is, "{pattern} {text}");
        }
    }
}
