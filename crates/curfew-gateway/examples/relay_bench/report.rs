//! Tables in Markdown, of medians and of ratios that were taken round by round.

use std::{collections::BTreeMap, fmt::Write, time::Duration};

use crate::relays::Kind;

/// Figures by workload and relay, one a round; higher is better.
pub(crate) struct Table {
    /// Direct first, then Curfew, then its peers.
    relays: Vec<&'static str>,
    workloads: Vec<&'static str>,
    figures: BTreeMap<(&'static str, &'static str), Vec<f64>>,
}

impl Table {
    pub(crate) fn new(relays: Vec<&'static str>) -> Self {
        Self {
            relays,
            workloads: Vec::new(),
            figures: BTreeMap::new(),
        }
    }

    pub(crate) fn add(&mut self, workload: &'static str, relay: &'static str, figure: f64) {
        if !self.workloads.contains(&workload) {
            self.workloads.push(workload);
        }
        self.figures
            .entry((workload, relay))
            .or_default()
            .push(figure);
    }

    fn of(&self, workload: &'static str, relay: &'static str) -> &[f64] {
        self.figures
            .get(&(workload, relay))
            .map_or(&[], Vec::as_slice)
    }

    /// Medians of every relay; of Curfew's also the medians of its ratios to direct and to each peer, taken round by
    /// round, with the lowest and the highest.
    pub(crate) fn with_ratios(&self) -> String {
        let [direct, ours, peers @ ..] = self.relays.as_slice() else {
            return String::new();
        };
        let mut text = String::from("| workload |");
        for relay in &self.relays {
            let _ = write!(text, " {relay} |");
        }
        text.push_str(" Curfew × direct |");
        for peer in peers {
            let _ = write!(text, " × {peer} |");
        }
        text.push_str("\n|---|");
        text.push_str(&"---:|".repeat(2 * self.relays.len() - 1));
        text.push('\n');
        for workload in &self.workloads {
            let _ = write!(text, "| {workload} |");
            for relay in &self.relays {
                let _ = write!(text, " {:.0} |", median(self.of(workload, relay)));
            }
            for other in std::iter::once(direct).chain(peers) {
                let pairs = self.of(workload, ours).iter().zip(self.of(workload, other));
                let ratios: Vec<f64> = pairs.map(|(ours, other)| ours / other).collect();
                let _ = write!(text, " {} |", spread(&ratios));
            }
            text.push('\n');
        }
        text
    }
}

fn sorted(figures: &[f64]) -> Vec<f64> {
    let mut figures = figures.to_vec();
    figures.sort_by(f64::total_cmp);
    figures
}

fn median(figures: &[f64]) -> f64 {
    sorted(figures)
        .get(figures.len() / 2)
        .copied()
        .unwrap_or(f64::NAN)
}

fn spread(ratios: &[f64]) -> String {
    let all = sorted(ratios);
    match (all.first(), all.last()) {
        (Some(low), Some(high)) => format!("{:.2} ({low:.2}–{high:.2})", median(ratios)),
        _ => "none".to_owned(),
    }
}

/// Memory of an idle connection.
pub(crate) fn weights(weights: &[(Kind, f64)]) -> String {
    let mut text = String::from("| relay | bytes an idle connection |\n|---|---:|\n");
    for (kind, bytes) in weights {
        let _ = writeln!(text, "| {} | {bytes:.0} |", kind.name());
    }
    text
}

/// Lateness, idle and saturated; both in order.
pub(crate) fn lateness(late: &[(Kind, Vec<Duration>, Vec<Duration>)]) -> String {
    let mut text = String::from(
        "| relay | idle p50, ms | idle p99, ms | saturated p50, ms | saturated p99, ms |\n|---|---:|---:|---:|---:|\n",
    );
    let at = |late: &[Duration], percent: usize| {
        late.get(percent * late.len().saturating_sub(1) / 100)
            .map_or(f64::NAN, |late| late.as_secs_f64() * 1e3)
    };
    for (kind, idle, busy) in late {
        let _ = writeln!(
            text,
            "| {} | {:.2} | {:.2} | {:.2} | {:.2} |",
            kind.name(),
            at(idle, 50),
            at(idle, 99),
            at(busy, 50),
            at(busy, 99)
        );
    }
    text
}
