//! Taking a new configuration while the process runs. Checking it is `check`'s.

use std::{path::Path, sync::Arc};

use curfew_enforcer::Report;
use curfew_gateway::service::ServiceConfig;
use curfew_model::{EventKind, Revision, Target};
use curfew_policy::PolicySet;
use curfew_state::{CommitError, Expected, Owner};

use super::{
    Checked, Node, NodeError, Purpose, Running,
    compiler::{self, Uncovered},
    in_force, keep_policy, unbound,
};

/// How often a set is checked anew because another owner's changed meanwhile.
const TRIES: u32 = 5;

/// What a reload did.
#[derive(Clone, Copy, Debug)]
pub struct Reloaded {
    /// The revision that is in force.
    pub revision: Revision,
    /// Sessions that it ended.
    pub closed: u64,
    /// The data directory, services, the API or the audit log differ, and a restart is needed for that.
    pub restart_needed: bool,
}

impl Node {
    /// Takes policy and bindings from a new configuration; live sessions are decided again.
    ///
    /// # Errors
    /// What the check found, or [`NodeError`]: a set that does not compile with what the API holds changes nothing.
    pub fn reload(&mut self, checked: Result<Checked, NodeError>) -> Result<Reloaded, NodeError> {
        let taken = checked.and_then(|checked| self.take(checked));
        self.recorder.metrics.reloaded(taken.is_ok());
        taken
    }

    fn take(&mut self, checked: Checked) -> Result<Reloaded, NodeError> {
        let mut tries = 0..TRIES;
        let (state, set, report) = loop {
            let state = self.store.read();
            let mut owners = in_force::owners(&state.policies);
            owners.insert(Owner::Files, checked.policy.as_str().into());
            let set = compiler::union(&owners, Revision(0)).map_err(NodeError::Policy)?;
            self.check_covered(&set)?;
            match self.put_in_force(&checked, state.revision) {
                Ok(report) => break (state, set, report),
                Err(NodeError::Commit(CommitError::Conflict { .. })) if tries.next().is_some() => {}
                Err(error) => return Err(error),
            }
        };
        unbound::warn(&set, &checked.config.bindings, &state);
        self.configured.told(checked.config.bindings);
        let restart_needed = checked.config.data_dir != self.config.data_dir
            || checked.config.services != self.config.services
            || checked.config.control != self.config.control
            || checked.config.audit != self.config.audit;
        self.config.policy = checked.config.policy;
        self.config.watch = checked.config.watch;
        self.seen = Ok(checked.policy);
        Ok(Reloaded {
            revision: self.desired.revision(),
            closed: report.closed,
            restart_needed,
        })
    }

    /// Another owner's set may have changed since the files were checked beside it.
    fn check_covered(&self, set: &PolicySet) -> Result<(), NodeError> {
        let covers = |target: &Target| self.desired.covers(target);
        let left_out = |service: &&ServiceConfig| {
            Uncovered::of(set, service, covers) == Some(Uncovered::ByTheSet)
        };
        match self.running.iter().find(left_out) {
            None => Ok(()),
            Some(service) => Err(NodeError::Policy(format!(
                "the service {} would be in no segment",
                service.name
            ))),
        }
    }

    /// Carries out what was checked beside the sets of this revision.
    fn put_in_force(&self, checked: &Checked, on: Revision) -> Result<Report, NodeError> {
        let bindings = self.configured.changes(&checked.config.bindings);
        self.desired.reload(bindings, || {
            let wall = self.clock.now().wall;
            let expected = Expected::Policies(on);
            let commit = keep_policy(
                &*self.store,
                expected,
                &checked.policy,
                &checked.config,
                wall,
            )?;
            if let Some(commit) = &commit {
                let cause = Some(checked.config.policy.display().to_string());
                self.recorder
                    .note(EventKind::PolicyApplied, commit.revision, cause);
            }
            Ok(commit.map(|commit| (commit, self.store.read())))
        })
    }

    /// What a configuration is checked for that is to be taken while this runs.
    #[must_use]
    pub fn reloading(&self) -> Purpose {
        Purpose::Reload(Running {
            services: Arc::clone(&self.running),
            desired: Arc::clone(&self.desired),
            policies: in_force::owners(&self.store.read().policies),
        })
    }

    /// The policy's files, if they are to be watched.
    #[must_use]
    pub fn watched(&self) -> Option<&Path> {
        self.config.watch.then_some(&self.config.policy)
    }

    /// Whether the policy's files, as they were just read, are others than those that were read last. Files that cannot
    /// be read are others too: reading them says why.
    #[must_use]
    pub fn policy_changed(&mut self, read: Result<String, NodeError>) -> bool {
        let read = read.map_err(|error| error.to_string());
        let changed = read != self.seen;
        self.seen = read;
        changed
    }
}
