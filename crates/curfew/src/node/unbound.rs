//! Whom the policy names and nobody is yet, who can never give the proof that it asks for, and what no door of this
//! process sees: said when it is loaded, as bindings may come later. Finding them is the policy's.

use curfew_model::Binding;
use curfew_policy::{Given, PolicySet, Problem};
use curfew_state::State;

use crate::doors;

/// What a set needs and no door sees, what it asks of those whom the configuration binds and they cannot give, and whom it
/// names and neither the configuration, nor these bindings, nor these groups give.
pub fn of<'a>(
    set: &PolicySet,
    configured: &'a [Binding],
    bindings: impl IntoIterator<Item = &'a Binding>,
    groups: impl IntoIterator<Item = &'a [String]>,
) -> Vec<Problem> {
    let mut given = Given::default();
    let bindings = configured.iter().chain(bindings);
    bindings.for_each(|binding| given.binding(binding));
    groups.into_iter().for_each(|groups| given.groups(groups));
    let mut problems = set.unbound(&given);
    problems.extend(set.unprovable(configured));
    problems.extend(set.unseen(doors::sees(), &given));
    problems
}

/// Warns of all that, with what the state gives.
pub fn warn(set: &PolicySet, configured: &[Binding], state: &State) {
    let groups = state
        .subjects
        .values()
        .map(|subject| subject.groups.as_slice());
    for problem in of(set, configured, state.bindings.values(), groups) {
        tracing::warn!("{problem}");
    }
}
