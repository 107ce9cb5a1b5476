//! What a policy decision is. Documents, matching and sessions may not live in this contract.

mod decision;

pub use decision::{Decide, Decision, MatchedSegment, Refusal, Verdict};
