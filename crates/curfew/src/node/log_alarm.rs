//! Tells the engine at once when the audit log takes no more records, and when it does again. What that means for new
//! sessions is the engine's, what operators are told of it `log_watch`'s.

use std::{
    io,
    sync::{Arc, mpsc},
    thread::JoinHandle,
};

use curfew_audit::Log;
use curfew_enforcer::{AuditLog, Enforcer, Input};

use crate::config::OnFull;

/// A thread of its own, since the engine's records come back to the log: neither the log's writer nor whoever hands it a
/// record may wait for the engine. Ends when this is dropped.
pub struct LogAlarm {
    log: Arc<Log>,
    thread: Option<JoinHandle<()>>,
}

impl LogAlarm {
    /// Tells the engine how the log is, and from then on of every change.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start(log: &Arc<Log>, enforcer: Arc<Enforcer>, on_full: OnFull) -> io::Result<Self> {
        let mut alarm = Self {
            log: Arc::clone(log),
            thread: None,
        };
        let (ring, rung) = mpsc::channel();
        log.watch(move |keeps_records| {
            // Nobody listens only while this is being dropped.
            let _ = ring.send(keeps_records);
        });
        let mut known = AuditLog::Writable;
        let mut hear = move |keeps_records| {
            let audit = on_full.log(keeps_records);
            if audit != known {
                known = audit;
                // It cannot be refused.
                let _ = enforcer.handle(Input::Audit(audit));
            }
        };
        // Before anybody is let in.
        rung.try_iter().for_each(&mut hear);
        let thread = std::thread::Builder::new()
            .name("log-alarm".to_owned())
            .spawn(move || {
                for heard in &rung {
                    // Only how it is now counts.
                    hear(rung.try_iter().last().unwrap_or(heard));
                }
            })?;
        alarm.thread = Some(thread);
        Ok(alarm)
    }
}

impl Drop for LogAlarm {
    fn drop(&mut self) {
        self.log.unwatch();
        if let Some(thread) = self.thread.take() {
            // A panic of it has been printed; there is nobody to hand it to here.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, sync::Weak, time::Duration};

    use curfew_audit::{Entry, Options};
    use curfew_enforcer::{Bounds, Engine, Open, Peer, Record, Sink};
    use curfew_gateway::door::GatewayDoor;
    use curfew_model::{Clock as _, EndReason, Event, EventKind, Revision, WallInstant};
    use curfew_testkit::{BootClock, alice};

    use super::*;

    struct Silent;

    impl Sink for Silent {
        fn record(&self, _records: Vec<Record>) {}
    }

    const POLICY: &str = "apiVersion: curfew.dev/v1alpha1\nkind: Segment\nmetadata: {name: db}\n\
        spec: {sensitivity: high, access: open, members: [{cidr: 10.1.0.0/16}]}\n";
    const PATIENCE: Duration = Duration::from_secs(30);

    fn entry() -> Entry {
        let event = Event::new(EventKind::PolicyApplied, WallInstant(1), Revision(1));
        Entry::new(event)
    }

    /// Opens sessions until one more is, or is not, refused for want of a log.
    fn wait_until_refused(enforcer: &Enforcer, refused: bool) {
        let give_up = BootClock.now().boot.after(PATIENCE);
        for n in enforcer.look(|engine| engine.len()).. {
            let client = ([127, 0, 0, 1], 40_000).into();
            let opened_at = BootClock.now().boot;
            let target = ([10, 1, 0, 1], 5432).into();
            let open = Open {
                id: format!("019ac2f0-0000-7000-8000-{n:012}").parse().unwrap(),
                facts: alice(client, target, opened_at),
                peer: Peer::default(),
                decided_at: None,
            };
            let reason = enforcer.open(open).err().map(|refused| refused.reason);
            if reason == refused.then_some(EndReason::Overloaded) {
                return;
            }
            assert!(BootClock.now().boot < give_up, "refused stays {}", !refused);
        }
    }

    #[test]
    fn the_engine_hears_of_a_log_that_fails_and_recovers_without_a_look() {
        let folder = tempfile::tempdir().unwrap();
        let (dir, away) = (folder.path().join("audit"), folder.path().join("away"));
        // A new file for each batch, so that it is missed when the folder is gone.
        let options = Options {
            max_segment: 1,
            ..Options::new(&dir)
        };
        let log = Arc::new(Log::open(options, WallInstant(1)).unwrap());
        let loaded = curfew_policy::load([("p.yaml", POLICY)]);
        let set = curfew_policy::compile(loaded.documents, Revision(1)).unwrap();
        let engine = Engine::new(Arc::new(set), Bounds::default(), BootClock.now());
        let door = Weak::<GatewayDoor>::new();
        let deadlines =
            Enforcer::start(engine, door, Arc::new(BootClock), Arc::new(Silent)).unwrap();
        let enforcer = deadlines.enforcer();
        let start = || LogAlarm::start(&log, Arc::clone(enforcer), OnFull::RefuseNew).unwrap();
        let alarm = start();
        wait_until_refused(enforcer, false);

        let kept = log.append(&entry()).unwrap();
        log.durable(kept, PATIENCE).unwrap();
        fs::rename(&dir, &away).unwrap();
        log.append(&entry()).unwrap();
        wait_until_refused(enforcer, true);
        // Whoever comes to a log that fails already hears of it too.
        drop(alarm);
        let _ = enforcer.handle(Input::Audit(AuditLog::Writable));
        let _alarm = start();
        wait_until_refused(enforcer, true);

        fs::rename(&away, &dir).unwrap();
        wait_until_refused(enforcer, false);
    }
}
