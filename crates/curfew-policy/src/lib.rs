//! Policy documents: read with places, checked, compiled, decided about, explained.
//!
//! What reads them with places, [`read`] and [`Source`], reads `curfew.yaml` too.
//!
//! Pure: no file, clock or environment is looked at. Sources come in as text, facts and the time as parameters.

mod compile;
mod decide;
mod decision;
mod difference;
mod document;
mod explain;
mod inventory;
mod judge;
mod limits;
mod load;
mod named;
mod net;
mod policy_document;
mod problem;
mod proof;
mod read;
mod room;
mod sight;
mod tree;
mod vain;
mod when;
mod window;

pub use compile::{PolicySet, compile};
pub use decision::{ComingEnd, Decide, Decision, MatchedSegment, Refusal};
pub use difference::Difference;
pub use document::Documents;
pub use explain::{Explanation, Outcome};
pub use inventory::SegmentSummary;
pub use load::{Loaded, is_empty, load};
pub use named::Given;
pub use problem::{Place, Problem, Severity, nearest};
pub use read::{Map, Source, read};
pub use sight::Sight;
pub use tree::{Node, Value};
pub use when::check_statement;
