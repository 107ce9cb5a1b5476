//! Policy documents: parse with places, validate, compile, decide, explain.

mod decision;

pub use decision::{Decide, Decision, MatchedSegment, Refusal, Verdict};
