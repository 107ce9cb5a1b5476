//! Policy documents as text, and compiled.
#![allow(
    clippy::panic,
    reason = "a test helper that cannot go on fails its test"
)]

use curfew_model::Revision;
use curfew_policy::{PolicySet, compile, load};

/// A document of a set: its kind, its name, and what stands between the braces of its `spec`.
#[must_use]
pub fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: curfew.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// The set that this text is, as the file `p.yaml`. Warnings are passed over.
///
/// # Panics
/// With every problem, when it is not valid.
#[must_use]
pub fn compiled(text: &str, revision: u64) -> PolicySet {
    let loaded = load([("p.yaml", text)]);
    let problems: Vec<String> = loaded.problems.iter().map(ToString::to_string).collect();
    assert!(!loaded.has_errors(), "{}", problems.join("\n"));
    compile(loaded.documents, Revision(revision)).unwrap_or_else(|problems| panic!("{problems:?}"))
}
