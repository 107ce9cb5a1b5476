//! What operators are told of the audit log: once when it begins to fail, once when it recovers. What the log or the
//! engine does then may not live here.

use curfew_audit::Health;
use curfew_enforcer::AuditLog;
use tracing::{error, info};

/// What the last look found.
#[derive(Debug, Default)]
pub struct LogWatch {
    failing: bool,
    /// Records lost up to the last look that found it well.
    lost: u64,
}

/// What there is to say.
#[derive(Debug, PartialEq, Eq)]
pub enum Told {
    /// It began to fail.
    Fails(String),
    /// It is well again, and lost so many records meanwhile.
    Recovered(u64),
    /// So many records were lost, and it is well.
    Lost(u64),
}

impl LogWatch {
    /// What has changed since the last look.
    pub fn look(&mut self, health: &Health) -> Option<Told> {
        let was_failing = std::mem::replace(&mut self.failing, !health.keeps_records());
        if self.failing {
            let reason = health.error.as_deref().unwrap_or("its queue is full");
            return (!was_failing).then(|| Told::Fails(reason.to_owned()));
        }
        let lost = health.lost - std::mem::replace(&mut self.lost, health.lost);
        match (was_failing, lost) {
            (true, lost) => Some(Told::Recovered(lost)),
            (false, 0) => None,
            (false, lost) => Some(Told::Lost(lost)),
        }
    }
}

impl Told {
    /// Says it, with what a failing log means for new sessions here.
    pub fn say(&self, failing: AuditLog) {
        match (self, failing) {
            (Self::Fails(reason), AuditLog::Full) => error!(
                reason,
                "the audit log cannot be written: new sessions into high and critical segments are refused \
                 `overloaded` until it can; live ones go on, and closing works"
            ),
            (Self::Fails(reason), AuditLog::Writable) => error!(
                reason,
                "the audit log cannot be written: sessions go on, and records that find no room are lost"
            ),
            (Self::Recovered(lost), _) => info!(lost, "the audit log is written again"),
            (Self::Lost(lost), _) => error!(
                lost,
                "records found no room in the audit log, which says so itself"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_log_is_told_once_and_its_recovery_with_what_was_lost() {
        let health = |error: Option<&str>, full, lost| Health {
            full,
            error: error.map(str::to_owned),
            waiting: 0,
            lost,
            seq: 1,
            segments: 1,
        };
        let mut watch = LogWatch::default();
        assert_eq!(watch.look(&health(None, false, 0)), None);
        let fails = Some(Told::Fails("no space left".to_owned()));
        assert_eq!(watch.look(&health(Some("no space left"), false, 0)), fails);
        assert_eq!(watch.look(&health(Some("other"), true, 5)), None);
        let recovered = Some(Told::Recovered(7));
        assert_eq!(watch.look(&health(None, false, 7)), recovered);
        assert_eq!(watch.look(&health(None, false, 7)), None);
        let lost = Some(Told::Lost(2));
        assert_eq!(watch.look(&health(None, false, 9)), lost);
        let full = Some(Told::Fails("its queue is full".to_owned()));
        assert_eq!(watch.look(&health(None, true, 9)), full);
        assert_eq!(
            watch.look(&health(None, false, 9)),
            Some(Told::Recovered(0))
        );
    }
}
