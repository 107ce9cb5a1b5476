//! Whom policies name literally, held against whom there is. Whether a policy matches a session may not live here.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use curfew_model::{Binding, Issuer, Kind};

use crate::{
    compile::PolicySet,
    problem::{Place, Problem, nearest},
};

/// Names that are said one by one; the others are counted.
const MAX_NAMES: usize = 100;
/// Names that are compared to find those that are near, for all that is missing together: starting waits for it.
const MAX_GUESSES: usize = 20_000;

/// What a name in a policy's `from` is a name of, where a binding can give it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Named {
    Group,
    User,
    Workload,
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Group => "group",
            Self::User => "user",
            Self::Workload => "workload",
        })
    }
}

/// Every name that policies name, each with the first place where it stands.
pub(crate) type Places = BTreeMap<(Named, String), Place>;

/// The name of a subject as policies write it: `ID` or `ISSUER#ID`.
pub(crate) fn name(issuer: &Issuer, id: &str) -> String {
    if *issuer == Issuer::local() {
        id.to_owned()
    } else {
        format!("{}#{id}", issuer.0)
    }
}

/// Whom bindings, and what is known of subjects, give a policy to match.
#[derive(Debug, Default)]
pub struct Given(BTreeSet<(Named, String)>);

impl Given {
    /// A binding gives its subject and its groups.
    pub fn binding(&mut self, binding: &Binding) {
        let identity = &binding.identity;
        let named = match identity.kind {
            Kind::User => Some(Named::User),
            Kind::Workload => Some(Named::Workload),
            Kind::Device | Kind::Role | Kind::Address => None,
        };
        let subject = named.map(|named| (named, name(&identity.issuer, &identity.id)));
        self.0.extend(subject);
        self.groups(&binding.groups);
    }

    /// Groups of a subject.
    pub fn groups(&mut self, groups: &[String]) {
        let groups = groups.iter().cloned();
        self.0.extend(groups.map(|group| (Named::Group, group)));
    }

    /// The workloads, as policies write them.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &str> {
        let all = self.0.range((Named::Workload, String::new())..);
        all.take_while(|(named, _)| *named == Named::Workload)
            .map(|(_, name)| name.as_str())
    }

    /// The name that is near, among at most `guesses`, which are used up.
    fn nearest(&self, named: Named, name: &str, guesses: &mut usize) -> Option<&str> {
        let same = self.0.range((named, String::new())..);
        let same = same.take_while(|(other, _)| *other == named);
        let some = same.take(*guesses).map(|(_, name)| name.as_str());
        nearest(name, some.inspect(|_| *guesses -= 1))
    }
}

impl PolicySet {
    /// A warning for each group, user and workload that policies name literally and that nobody is given, by place. A
    /// binding that comes later may give it; conditions are not looked at.
    #[must_use]
    pub fn unbound(&self, given: &Given) -> Vec<Problem> {
        let mut missing: Vec<(&(Named, String), &Place)> = self
            .named
            .iter()
            .filter(|(name, _)| !given.0.contains(name))
            .collect();
        missing.sort_by_key(|(_, place)| *place);
        let (said, counted) = missing.split_at(missing.len().min(MAX_NAMES));
        let mut guesses = MAX_GUESSES;
        let mut problems: Vec<Problem> = said
            .iter()
            .map(|((named, name), place)| {
                let near = given.nearest(*named, name, &mut guesses);
                no_binding(*named, name, place, near)
            })
            .collect();
        if let Some((_, place)) = counted.first() {
            let text = format!("{} names more that no binding gives yet", counted.len());
            problems.push(Problem::warning(place, text));
        }
        problems
    }
}

fn no_binding(named: Named, name: &str, place: &Place, near: Option<&str>) -> Problem {
    Problem::warning(place, format!("no binding gives {named} {name} yet"))
        .or_else("until one does, it stands for nobody here")
        .help("bind it in `bindings` of curfew.yaml or by the API, or correct it")
        .meant(near)
}
