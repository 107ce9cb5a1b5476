//! What is compiled of the policy sets in force, kept until they change.

use std::sync::Arc;

use curfew_state::{Owner, PolicyPointer, State};
use parking_lot::Mutex;

use crate::{
    Compile, Finding, Level, Source, Valid,
    compile::unpack,
    problem::{Answered, Code, Problem},
};

type Kept = Option<(Vec<PolicyPointer>, Arc<Valid>)>;

/// The last compiled set.
#[derive(Default)]
pub(crate) struct Segments(Mutex<Kept>);

impl Segments {
    /// The set in force. May block while it compiles.
    pub(crate) fn of(&self, state: &State, compile: &dyn Compile) -> Answered<Arc<Valid>> {
        let pointers: Vec<PolicyPointer> = state
            .policies
            .values()
            .map(|(pointer, _)| pointer.clone())
            .collect();
        let mut kept = self.0.lock();
        if let Some((known, valid)) = &*kept
            && *known == pointers
        {
            return Ok(Arc::clone(valid));
        }
        let sources = sources(state, None)?;
        // Nothing was applied yet: that is no error of a set.
        let valid = if sources.is_empty() {
            Valid::default()
        } else {
            compile.validate(&sources).map_err(invalid)?
        };
        let valid = Arc::new(valid);
        *kept = Some((pointers, Arc::clone(&valid)));
        Ok(valid)
    }
}

/// The files of every owner, except one.
pub(crate) fn sources(state: &State, except: Option<Owner>) -> Answered<Vec<(Owner, Source)>> {
    let mut all = Vec::new();
    for (owner, (_, content)) in &state.policies {
        if Some(*owner) == except {
            continue;
        }
        let sources = unpack(content).map_err(|error| {
            let detail = format!("the policy set of {owner:?} cannot be read: {error}");
            Problem::new(Code::Internal, detail)
        })?;
        all.extend(sources.into_iter().map(|source| (*owner, source)));
    }
    Ok(all)
}

/// A set with errors, as a problem that lists every finding. Where all of them are names of another owner's documents, it is
/// a conflict with what is in force.
pub(crate) fn invalid(findings: Vec<Finding>) -> Problem {
    let errors = findings.iter().filter(|f| f.level == Level::Error);
    let taken = errors.clone().filter(|error| error.taken).count();
    let code = if taken > 0 && taken == errors.count() {
        Code::NameTaken
    } else {
        Code::PolicyInvalid
    };
    let detail = format!("{} findings; nothing was changed", findings.len());
    Problem::new(code, detail).with("findings", findings)
}
