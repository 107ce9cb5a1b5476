//! What each enforcer did with a change: the table of it, and the exit code when some did not answer.

use std::process::ExitCode;

use serde_json::Value;

use crate::{
    cli::PARTIAL,
    show::{Side, Table, clean, items, text},
};

fn unreachable(answer: &Value) -> Vec<String> {
    let lost = items(answer, "enforcers").iter();
    lost.filter(|outcome| text(outcome, "answer") == "unreachable")
        .map(|outcome| clean(&text(outcome, "enforcer")))
        .collect()
}

/// Done, or done in part.
#[must_use]
pub fn exit_code(answer: &Value) -> ExitCode {
    if unreachable(answer).is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(PARTIAL)
    }
}

/// Says on standard error what is probably not meant.
pub fn warn(answer: &Value) {
    for warning in items(answer, "warnings") {
        let warning = warning.as_str().unwrap_or_default();
        eprintln!("curfew: warning: {}", clean(warning));
    }
}

/// A row for each enforcer, and what becomes of those that did not answer.
#[must_use]
pub fn table(answer: &Value) -> String {
    let mut table = Table::new([
        ("ENFORCER", Side::Left),
        ("ANSWER", Side::Left),
        ("MATCHED", Side::Right),
        ("CLOSED", Side::Right),
        ("AUDIT ONLY", Side::Right),
    ]);
    for outcome in items(answer, "enforcers") {
        table.row([
            text(outcome, "enforcer"),
            text(outcome, "answer"),
            text(outcome, "matched"),
            text(outcome, "closed"),
            text(outcome, "audit_only"),
        ]);
    }
    let mut words = table.written("no enforcer is known");
    let lost = unreachable(answer);
    if !lost.is_empty() {
        words.push_str(&format!(
            "{} did not answer in time: it follows when it is heard again, and until then its sessions end at their deadlines\n",
            lost.join(", ")
        ));
    }
    words
}
