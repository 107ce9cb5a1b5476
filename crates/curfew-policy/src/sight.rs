//! What members of segments need a door to see, held against what the doors of a process see. Matching is elsewhere.

use crate::{
    compile::PolicySet,
    judge::matches_glob,
    named::Given,
    problem::{Place, Problem},
    proof::MAX_LOOKS,
};

/// Members that are said one by one; the others are counted.
const MAX_MEMBERS: usize = 100;

/// What a door may see of a connection beside its addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sight {
    /// The cgroup of a process.
    Cgroup,
    /// A SPIFFE id that was verified.
    Spiffe,
    /// The user id of the process that listens.
    Uid,
    /// The pod that an address belongs to.
    Pods,
}

impl Sight {
    /// What a member with this field needs, if addresses and names do not tell.
    pub(crate) fn of(field: &str) -> Option<Self> {
        match field {
            "cgroup" => Some(Self::Cgroup),
            "spiffe" => Some(Self::Spiffe),
            "uid" => Some(Self::Uid),
            "pods" => Some(Self::Pods),
            _ => None,
        }
    }

    /// What is seen, in words, and what a member is without it.
    fn words(self) -> (&'static str, &'static str) {
        let nothing = "the member stands for nothing here";
        match self {
            Self::Cgroup => (
                "cgroups",
                "the member stands only for clients that a binding gives as the workload `cgroup:PATH`",
            ),
            Self::Spiffe => (
                "SPIFFE ids",
                "the member stands only for clients that a binding gives as a workload of that id",
            ),
            Self::Uid => ("the uid of a target", nothing),
            Self::Pods => ("pods", nothing),
        }
    }
}

/// A member that needs a door to see something.
#[derive(Debug)]
pub(crate) struct Needed {
    pub(crate) sight: Sight,
    /// The pattern, where it is a text.
    pub(crate) pattern: Option<String>,
    pub(crate) place: Place,
}

impl Needed {
    /// Whether a binding gives a workload that the member stands for, among at most `looks`, which are used up.
    fn is_given(&self, given: &Given, looks: &mut usize) -> bool {
        let Some(pattern) = &self.pattern else {
            return false;
        };
        let prefix = match self.sight {
            Sight::Cgroup => "cgroup:",
            _ => "",
        };
        let is = |id: &str| {
            id.strip_prefix(prefix)
                .is_some_and(|id| matches_glob(pattern, id))
        };
        let mut some = given.workloads().take(*looks).inspect(|_| *looks -= 1);
        some.any(|name| is(name) || name.split_once('#').is_some_and(|(_, id)| is(id)))
    }
}

impl PolicySet {
    /// A warning for each member of a segment that doors which see no more than this cannot see, and that no binding
    /// gives, by place. Where very many members meet very many bindings, the last may be warned of all the same.
    #[must_use]
    pub fn unseen(&self, sees: &[Sight], given: &Given) -> Vec<Problem> {
        let mut looks = MAX_LOOKS;
        let mut unseen: Vec<&Needed> = self
            .needed
            .iter()
            .filter(|needed| !sees.contains(&needed.sight) && !needed.is_given(given, &mut looks))
            .collect();
        unseen.sort_by_key(|needed| &needed.place);
        let (said, counted) = unseen.split_at(unseen.len().min(MAX_MEMBERS));
        let mut problems: Vec<Problem> = said
            .iter()
            .map(|needed| {
                let (what, otherwise) = needed.sight.words();
                let text = format!("no door of this node sees {what}");
                Problem::warning(&needed.place, text)
                    .or_else(otherwise)
                    .help(
                        "name the service, or its addresses by `cidr`, where this node guards them",
                    )
            })
            .collect();
        if let Some(first) = counted.first() {
            let text = format!(
                "{} members more that no door of this node sees",
                counted.len()
            );
            problems.push(Problem::warning(&first.place, text));
        }
        problems
    }
}
