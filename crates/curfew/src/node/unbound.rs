//! Whom the policy names and nobody is yet, and what no door of this process sees: said when it is loaded, as bindings
//! may come later. Finding them is the policy's.

use curfew_model::Binding;
use curfew_policy::{Given, PolicySet, Problem};
use curfew_state::State;

use crate::doors;

/// What a set needs and no door sees, and whom it names and neither these bindings nor these groups give.
pub fn of<'a>(
    set: &PolicySet,
    bindings: impl IntoIterator<Item = &'a Binding>,
    groups: impl IntoIterator<Item = &'a [String]>,
) -> Vec<Problem> {
    let mut given = Given::default();
    bindings
        .into_iter()
        .for_each(|binding| given.binding(binding));
    groups.into_iter().for_each(|groups| given.groups(groups));
    let mut problems = set.unbound(&given);
    problems.extend(set.unseen(doors::sees(), &given));
    problems
}

/// Warns of what no door sees, and of those that a set names and that neither the configuration nor the state gives.
pub fn warn(set: &PolicySet, configured: &[Binding], state: &State) {
    let bindings = configured.iter().chain(state.bindings.values());
    let groups = state
        .subjects
        .values()
        .map(|subject| subject.groups.as_slice());
    for problem in of(set, bindings, groups) {
        tracing::warn!("{problem}");
    }
}
