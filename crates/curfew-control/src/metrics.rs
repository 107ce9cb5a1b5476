//! What is counted, for Prometheus (OpenMetrics text). Labels are bounded, and never a subject.

use std::{collections::BTreeSet, ops::Deref, time::Duration};

use curfew_audit::Health;
use curfew_model::{EndReason, Revision, SegmentName, ServiceName};
use parking_lot::Mutex;
use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Registry, Unit},
};

use crate::{Door, OpenCount};

/// Segments with a label of their own; further ones are `other`.
const SEGMENTS: usize = 1_000;
/// Upper bounds of histograms, in seconds.
const SECONDS: [f64; 14] = [
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0,
];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Place {
    segment: String,
    door: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ending {
    segment: String,
    door: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AtDoor {
    door: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct At {
    stage: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct AtService {
    service: String,
}

/// How far a revocation has come. Each is timed from the arrival of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has its revision.
    Accepted,
    /// Every door had closed the last session; where one does not say when, its enforcer had answered or run out of time.
    Enforced,
    /// It is on disk.
    Durable,
    /// It is answered.
    Acknowledged,
}

impl Stage {
    const ALL: [Self; 4] = [
        Self::Accepted,
        Self::Enforced,
        Self::Durable,
        Self::Acknowledged,
    ];

    fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Enforced => "enforced",
            Self::Durable => "durable",
            Self::Acknowledged => "acknowledged",
        }
    }
}

fn histogram() -> Histogram {
    Histogram::new(SECONDS)
}

type Histograms<L> = Family<L, Histogram, fn() -> Histogram>;

/// What is read when metrics are asked for.
pub(crate) struct Read<'a> {
    pub(crate) open: &'a [OpenCount],
    pub(crate) revision: Revision,
    pub(crate) health: &'a Health,
    /// How much earlier an enforcer's wall clock is than the latest time on record, at most.
    pub(crate) behind: Duration,
}

/// Every metric. The binary tells it what the doors did; the rest is read when it is asked for.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    segments: Mutex<BTreeSet<SegmentName>>,
    /// Held while the gauges are set and written, so that two readers do not mix.
    reading: Mutex<()>,
    open: Family<Place, Gauge>,
    ended: Family<Ending, Counter>,
    refused: Family<Ending, Counter>,
    late: Histograms<AtDoor>,
    stages: Histograms<At>,
    revision: Gauge,
    reload: Gauge,
    recorded: Histogram,
    waiting: Gauge,
    lost: Gauge,
    last: Gauge,
    files: Gauge,
    writable: Gauge,
    resolved: Family<AtService, Gauge>,
    behind: Gauge,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Everything at zero.
    #[must_use]
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("curfew"),
            segments: Mutex::default(),
            reading: Mutex::default(),
            open: Family::default(),
            ended: Family::default(),
            refused: Family::default(),
            late: Family::new_with_constructor(histogram),
            stages: Family::new_with_constructor(histogram),
            revision: Gauge::default(),
            reload: Gauge::default(),
            recorded: histogram(),
            waiting: Gauge::default(),
            lost: Gauge::default(),
            last: Gauge::default(),
            files: Gauge::default(),
            writable: Gauge::default(),
            resolved: Family::default(),
            behind: Gauge::default(),
        };
        metrics.register();
        metrics.reloaded(true);
        // What has all its labels from the start is there from the start.
        drop(metrics.lateness(Door::Gateway));
        for stage in Stage::ALL {
            drop(metrics.reached(stage));
        }
        metrics
    }

    fn register(&mut self) {
        let registry = &mut self.registry;
        registry.register("sessions_open", "Open sessions", self.open.clone());
        registry.register("sessions_ended", "Sessions that ended", self.ended.clone());
        registry.register(
            "sessions_refused",
            "Sessions that were refused",
            self.refused.clone(),
        );
        registry.register_with_unit(
            "close_lateness",
            "From a session's deadline until its door had closed it",
            Unit::Seconds,
            self.late.clone(),
        );
        registry.register_with_unit(
            "revocation_stage",
            "From the arrival of a revocation until this stage",
            Unit::Seconds,
            self.stages.clone(),
        );
        registry.register(
            "state_revision",
            "The revision of the desired state",
            self.revision.clone(),
        );
        registry.register(
            "reload_successful",
            "1 unless the last reload of policy and bindings was refused",
            self.reload.clone(),
        );
        registry.register_with_unit(
            "audit_durable",
            "From handing a record of the API over until it was on disk",
            Unit::Seconds,
            self.recorded.clone(),
        );
        registry.register(
            "audit_records_waiting",
            "Records that wait for the disk",
            self.waiting.clone(),
        );
        registry.register(
            "audit_records_lost",
            "Records lost since the log was opened",
            self.lost.clone(),
        );
        registry.register(
            "audit_last_record",
            "The last record on disk",
            self.last.clone(),
        );
        registry.register(
            "audit_files",
            "Files of the log on disk",
            self.files.clone(),
        );
        registry.register(
            "audit_writable",
            "1 while the log takes records",
            self.writable.clone(),
        );
        registry.register(
            "upstream_resolved",
            "1 unless the name of the upstream could not be looked up the last time",
            self.resolved.clone(),
        );
        registry.register_with_unit(
            "clock_behind",
            "How much earlier an enforcer's wall clock is than the latest time on record, at most",
            Unit::Seconds,
            self.behind.clone(),
        );
    }

    /// A session ended; its segments are in the order of the session.
    pub fn ended(&self, segments: &[SegmentName], door: Door, reason: EndReason) {
        self.ended
            .get_or_create(&self.ending(segments, door, reason))
            .inc();
    }

    /// A session was refused.
    pub fn refused(&self, segments: &[SegmentName], door: Door, reason: EndReason) {
        self.refused
            .get_or_create(&self.ending(segments, door, reason))
            .inc();
    }

    /// A door had closed a session so long after its deadline.
    pub fn closed(&self, door: Door, late: Duration) {
        self.lateness(door).observe(late.as_secs_f64());
    }

    fn lateness(&self, door: Door) -> impl Deref<Target = Histogram> {
        let door = door.as_str();
        self.late.get_or_create(&AtDoor { door })
    }

    /// Policy and bindings were taken anew, or refused so that those before stay in force.
    pub fn reloaded(&self, taken: bool) {
        self.reload.set(i64::from(taken));
    }

    /// The name of a service's upstream was looked up, with or without an answer.
    pub fn resolved(&self, service: &ServiceName, found: bool) {
        let label = AtService {
            service: service.to_string(),
        };
        self.resolved.get_or_create(&label).set(i64::from(found));
    }

    pub(crate) fn stage(&self, stage: Stage, took: Duration) {
        self.reached(stage).observe(took.as_secs_f64());
    }

    fn reached(&self, stage: Stage) -> impl Deref<Target = Histogram> {
        let stage = stage.as_str();
        self.stages.get_or_create(&At { stage })
    }

    pub(crate) fn recorded(&self, took: Duration) {
        self.recorded.observe(took.as_secs_f64());
    }

    fn ending(&self, segments: &[SegmentName], door: Door, reason: EndReason) -> Ending {
        Ending {
            segment: self.label(segments.first()),
            door: door.as_str(),
            reason: reason.code(),
        }
    }

    fn label(&self, segment: Option<&SegmentName>) -> String {
        let Some(segment) = segment else {
            return "none".to_owned();
        };
        let mut known = self.segments.lock();
        if !known.contains(segment) {
            if known.len() >= SEGMENTS {
                return "other".to_owned();
            }
            known.insert(segment.clone());
        }
        segment.as_str().to_owned()
    }

    /// Writes everything, with what is read now.
    pub(crate) fn write(&self, read: &Read<'_>) -> String {
        let Read {
            open,
            revision,
            health,
            behind,
        } = read;
        let _reading = self.reading.lock();
        self.open.clear();
        for count in *open {
            let place = Place {
                segment: self.label(count.segment.as_ref()),
                door: count.door.as_str(),
            };
            self.open.get_or_create(&place).inc_by(gauge(count.open));
        }
        self.revision.set(gauge(revision.0));
        self.waiting.set(gauge(health.waiting));
        self.lost.set(gauge(health.lost));
        self.last.set(gauge(health.seq));
        self.files.set(gauge(health.segments));
        self.writable.set(i64::from(health.keeps_records()));
        self.behind.set(gauge(behind.as_secs()));
        let mut text = String::new();
        // Writing to a string cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> SegmentName {
        SegmentName::new(&format!("s{number}")).unwrap()
    }

    #[test]
    fn segments_of_labels_are_bounded() {
        let metrics = Metrics::new();
        for number in 0..SEGMENTS + 50 {
            metrics.ended(&[name(number)], Door::Gateway, EndReason::IdleTimeout);
        }
        let health = Health {
            full: false,
            error: None,
            waiting: 0,
            lost: 0,
            seq: 0,
            segments: 1,
        };
        let text = metrics.write(&Read {
            open: &[],
            revision: Revision(7),
            health: &health,
            behind: Duration::from_millis(3_999),
        });
        let lines = text
            .lines()
            .filter(|line| line.starts_with("curfew_sessions_ended_total{"));
        assert_eq!(lines.count(), SEGMENTS + 1);
        let other = r#"curfew_sessions_ended_total{segment="other",door="gateway",reason="idle_timeout"} 50"#;
        assert!(text.contains(other), "{text}");
        assert!(text.contains("curfew_state_revision 7"));
        for none in [
            "close_lateness_seconds_count{door=\"gateway\"} 0",
            "revocation_stage_seconds_count{stage=\"durable\"} 0",
        ] {
            assert!(text.contains(none), "{text}");
        }
        assert!(text.contains("curfew_clock_behind_seconds 3\n"), "{text}");
    }
}
