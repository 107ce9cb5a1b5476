//! What the demo says at its end, from its audit log and from what its clients measured.

use std::{fmt::Write, path::Path, time::Duration};

use curfew_audit::{AuditError, Report};

use super::{
    record::{self, Sums, middle_and_most},
    row::{bytes, ms},
    show::Tally,
};

/// The end of a demo, in words, and whether its log verifies.
pub struct Summary {
    pub text: String,
    pub verifies: bool,
}

/// Reads and verifies the log in `dir`.
///
/// # Errors
/// [`AuditError`] when it cannot be read.
pub fn of(tally: &Tally, dir: &Path) -> Result<Summary, AuditError> {
    let report = curfew_audit::verify(dir, None, None)?;
    let sums = record::sums(dir)?;
    Ok(Summary {
        text: text(tally, &sums, &report),
        verifies: report.is_ok(),
    })
}

fn text(tally: &Tally, sums: &Sums, report: &Report) -> String {
    let mut text = String::from(
        "\nWhat Curfew did, from its audit log, and how long after the order or deadline\n",
    );
    // Writing to a string cannot fail.
    for (reason, count) in &sums.ended {
        let times = tally.reasons.get(reason).map(Vec::as_slice);
        let how_late = times.and_then(middle_and_most).map(|(middle, most)| {
            let (middle, most) = (ms(middle), ms(most));
            format!("p50 {middle:>8}, max {most:>8}")
        });
        let _ = writeln!(
            text,
            "  ended    {count:>3}  {:<20} {}",
            reason.code(),
            how_late.unwrap_or_default()
        );
    }
    for (reason, count) in &sums.refused {
        let _ = writeln!(text, "  refused  {count:>3}  {reason}");
    }
    let times = [
        ("order → its client saw the end", &tally.orders),
        ("deadline → its client saw the end", &tally.deadlines),
        ("deadline → the door had closed", &sums.late),
    ];
    if times.iter().any(|(_, times)| !times.is_empty()) {
        text.push_str("\nHow late\n");
    }
    for (what, times) in times {
        late(&mut text, what, times);
    }
    if tally.direct > 0 {
        let _ = writeln!(
            text,
            "\nThe same clients, connected directly: {} of {} were still reading,\n{} since Curfew had ended the other half",
            tally.still_reading,
            tally.direct,
            bytes(tally.read_since)
        );
    }
    for finding in &report.findings {
        let _ = writeln!(text, "  {finding}");
    }
    let verdict = if report.is_ok() {
        "nothing was altered, dropped or moved"
    } else {
        "the log does NOT verify"
    };
    let _ = writeln!(
        text,
        "\naudit verify: {} records: {verdict}\n(that none was cut off its end, only a head exported earlier can prove)",
        report.records
    );
    text.push_str(
        "\nBefore your own PostgreSQL on 127.0.0.1:5432 (README.md says more):\n  curfew run -c examples/postgres/curfew.yaml\n  psql -h 127.0.0.1 -p 6432 -U postgres\n",
    );
    text
}

fn late(text: &mut String, what: &str, times: &[Duration]) {
    let Some((middle, most)) = middle_and_most(times) else {
        return;
    };
    let pad = 36usize.saturating_sub(what.chars().count());
    let _ = writeln!(
        text,
        "  {what}{:pad$} p50 {:>9}  max {:>9}  of {}",
        "",
        ms(middle),
        ms(most),
        times.len()
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middle_and_most_of_few_and_of_none() {
        let times = |list: &[u64]| -> Vec<Duration> {
            list.iter().map(|n| Duration::from_millis(*n)).collect()
        };
        let ms = Duration::from_millis;
        assert_eq!(middle_and_most(&times(&[])), None);
        assert_eq!(middle_and_most(&times(&[7])), Some((ms(7), ms(7))));
        assert_eq!(middle_and_most(&times(&[9, 1, 2])), Some((ms(2), ms(9))));
    }
}
