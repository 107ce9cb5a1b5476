//! A compiler of policies that does as it is told, in tests of the server.
#![cfg(test)]

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use curfew_control::{Ceilings, Compile, Finding, Level, Segment, Source, Valid};
use curfew_model::{Access, Mode, Sensitivity};
use curfew_state::Owner;
use parking_lot::Mutex;

/// Takes lines `segment NAME` and attributes `subject.risk`; anything else is an error.
#[derive(Default)]
pub struct FakeCompile {
    /// Sets that are being validated.
    pub at_once: AtomicUsize,
    /// Held, no validation comes to its end.
    pub gate: Mutex<()>,
    /// Sets that were validated at the same time, at most.
    pub most: AtomicUsize,
}

impl Compile for FakeCompile {
    fn validate(&self, sources: &[(Owner, Source)]) -> Result<Valid, Vec<Finding>> {
        let at_once = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(at_once, Ordering::SeqCst);
        let validated = read(sources);
        drop(self.gate.lock());
        self.at_once.fetch_sub(1, Ordering::SeqCst);
        validated
    }

    fn is_empty(&self, sources: &[Source]) -> bool {
        let mut lines = sources.iter().flat_map(|source| source.text.lines());
        lines.all(|line| line.trim().is_empty() || line.starts_with('#'))
    }

    fn check_attribute(&self, name: &str, _value: &str) -> Result<(), String> {
        match name {
            "subject.risk" => Ok(()),
            other => Err(format!("{other} is no attribute")),
        }
    }
}

fn read(sources: &[(Owner, Source)]) -> Result<Valid, Vec<Finding>> {
    let mut valid = Valid::default();
    let mut errors = Vec::new();
    for (_, source) in sources {
        for (line, text) in (1..).zip(source.text.lines()) {
            let name = text.strip_prefix("segment ");
            match name.and_then(|name| name.parse().ok()) {
                Some(name) => valid.segments.push(Segment {
                    name,
                    labels: BTreeMap::new(),
                    sensitivity: Sensitivity::High,
                    mode: Mode::Enforce,
                    access: Access::Policy,
                    ceilings: Ceilings {
                        max_lifetime: Some(Duration::from_secs(900)),
                        ..Ceilings::default()
                    },
                    place: Some(format!("{}:{line}", source.path)),
                }),
                None => errors.push(Finding {
                    level: Level::Error,
                    path: source.path.clone(),
                    line,
                    column: 1,
                    message: format!("{text:?} is no document"),
                    excerpt: Some(text.to_owned()),
                    consequence: None,
                    help: None,
                    taken: false,
                }),
            }
        }
    }
    if errors.is_empty() {
        Ok(valid)
    } else {
        Err(errors)
    }
}
