//! Measures policy: how long 10,000 segments and 10,000 policies take to be read and compiled, and how long a decision
//! on them takes. One policy in ten has a `when`. Prints names and figures, which `scripts/bench` takes the medians of.
//!
//! Run in release: `cargo run --release -p curfew-policy --example policy_bench`.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a benchmark may stop at the first surprise"
)]

use std::{fmt::Write, hint::black_box, net::SocketAddr};

use curfew_model::{BootInstant, Clock, Facts, Revision};
use curfew_policy::{Decide, PolicySet, compile, load};
use curfew_testkit::{BootClock, alice};

/// Segments, each a network of its own, and policies, each into one of them.
const COUNT: u16 = 10_000;
/// Segments in a file, with their policies.
const IN_A_FILE: u16 = 500;
/// Groups that the policies are for.
const GROUPS: u16 = 100;
/// Decisions that are measured.
const DECISIONS: u32 = 1_000_000;

fn main() {
    let files: Vec<(String, String)> = (0..COUNT / IN_A_FILE).map(file).collect();
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    let start = BootClock.now().boot;
    let loaded = load(
        files
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    assert!(!loaded.has_errors(), "{:?}", loaded.problems.first());
    let read = BootClock.now().boot;
    let set = compile(loaded.documents, Revision(1)).unwrap_or_else(|problems| {
        panic!("{:?}", problems.first());
    });
    let compiled = BootClock.now().boot;
    println!("bytes of documents\t{bytes}");
    println!("reading them, ms\t{}", read.since(start).as_millis());
    println!("compiling them, ms\t{}", compiled.since(read).as_millis());
    decide(&set);
}

/// Decides about one client after the other, every segment in turn.
fn decide(set: &PolicySet) {
    let facts: Vec<Facts> = (0..COUNT).map(facts).collect();
    let now = BootClock.now();
    let admitted = facts
        .iter()
        .filter(|facts| set.decide(facts, now).refusal.is_none())
        .count();
    assert_eq!(admitted, usize::from(COUNT), "a policy for each");
    let start = BootClock.now().boot;
    for facts in facts.iter().cycle().take(DECISIONS as usize) {
        black_box(set.decide(black_box(facts), now));
    }
    let took = BootClock.now().boot.since(start) / DECISIONS;
    println!("a decision, ns\t{}", took.as_nanos());
}

fn file(index: u16) -> (String, String) {
    let mut text = String::new();
    for number in index * IN_A_FILE..(index + 1) * IN_A_FILE {
        let [high, low] = number.to_be_bytes();
        let group = number % GROUPS;
        let when = if number % 10 == 0 {
            ", when: 'subject.risk == \"low\"'"
        } else {
            ""
        };
        write!(
            text,
            "---\napiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {{name: s{number}}}\n\
             spec: {{sensitivity: high, access: policy, members: [{{cidr: 10.{high}.{low}.0/24}}]}}\n\
             ---\napiVersion: curfew.dev/v1alpha1\nkind: SessionPolicy\nmetadata: {{name: p{number}}}\n\
             spec: {{from: {{groups: [g{group}]}}, to: {{segments: [s{number}]}}{when}, \
             limits: {{maxLifetime: 8h, idleTimeout: 15m}}}}\n"
        )
        .unwrap();
    }
    (format!("{index}.yaml"), text)
}

fn facts(number: u16) -> Facts {
    let [high, low] = number.to_be_bytes();
    let client = SocketAddr::from(([192, 0, 2, 1], 40_000));
    let target = SocketAddr::from(([10, high, low, 7], 5432));
    let mut facts = alice(client, target, BootInstant(0));
    facts.groups = vec![format!("g{}", number % GROUPS)];
    facts
        .attributes
        .insert("subject.risk".to_owned(), "low".to_owned());
    facts
}
