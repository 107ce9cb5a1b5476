//! What each enforcer did with a change: the table of it, and the exit code when some did not answer.

use std::process::ExitCode;

use serde_json::Value;

use crate::{
    cli::PARTIAL,
    show::{Side, Table, clean, items, text},
};

/// The enforcers with this answer.
fn with(answer: &Value, word: &str) -> Vec<String> {
    let outcomes = items(answer, "enforcers").iter();
    outcomes
        .filter(|outcome| text(outcome, "answer") == word)
        .map(|outcome| clean(&text(outcome, "enforcer")))
        .collect()
}

/// Done, or done in part.
#[must_use]
pub fn exit_code(answer: &Value) -> ExitCode {
    if with(answer, "unreachable").is_empty() {
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
    let lost = with(answer, "unreachable");
    if !lost.is_empty() {
        words.push_str(&format!(
            "{} did not answer in time: it follows when it is heard again, and until then its sessions end at their deadlines\n",
            lost.join(", ")
        ));
    }
    let slow = with(answer, "unrecorded");
    if !slow.is_empty() {
        words.push_str(&format!(
            "{} did it, and the records of that are slow to come into the audit log: look for them there\n",
            slow.join(", ")
        ));
    }
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_done_and_not_on_record_yet_is_said() {
        let outcome = json!({"enforcer": "gw-1", "answer": "unrecorded", "matched": 1, "closed": 1, "audit_only": 0});
        let answer = json!({"enforcers": [outcome]});
        let words = table(&answer);
        let says = "\ngw-1 did it, and the records of that are slow";
        assert!(words.contains(says), "{words}");
        assert!(!words.contains("did not answer"), "{words}");
    }
}
