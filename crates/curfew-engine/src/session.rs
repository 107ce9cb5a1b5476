//! One session as inventory and `explain` see it. Keeping it may not live here.

use curfew_model::{
    BootInstant, EndReason, Facts, Lease, PolicyName, Revision, SegmentName, SessionId, Target,
};

/// Where a session stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It may pass.
    Open,
    /// It was ordered to end for this reason, and the door has not reported the end yet.
    Closing(EndReason),
}

/// One session, for inventory and `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Its id.
    pub id: SessionId,
    /// Where it stands.
    pub state: State,
    /// What is known of it, as `decide` sees it.
    pub facts: Facts,
    /// What it leads to.
    pub target: Target,
    /// Its segments, the most sensitive first.
    pub segments: Vec<SegmentName>,
    /// The policies that matched.
    pub policies: Vec<PolicyName>,
    /// The revision that it was last decided on.
    pub revision: Revision,
    /// Its lease with the provenance of each bound.
    pub lease: Lease,
    /// The last payload that is known of.
    pub last_activity: BootInstant,
    /// Payload from the client, in bytes.
    pub bytes_in: u64,
    /// Payload to the client, in bytes.
    pub bytes_out: u64,
}
