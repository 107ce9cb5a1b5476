//! What the service manager that started the process is told (`sd_notify`): systemd, or whoever else gave a socket.
//! Acting on signals may not live here.

use std::{
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};

use sd_notify::NotifyState;

/// A watchdog that is shorter is none: it would have the process do nothing else.
const SHORTEST: Duration = Duration::from_millis(20);
/// How long work that waits for the disk is vouched for.
const VOUCHED: Duration = Duration::from_secs(60);

/// The way to the service manager; without one nothing is said.
pub struct Supervisor {
    /// How long the process may be silent before it counts as hung; none where nobody watches.
    watchdog: Option<Duration>,
}

impl Supervisor {
    /// The manager that this process was started by.
    pub fn of_this_process() -> Self {
        Self {
            watchdog: sd_notify::watchdog_enabled().filter(|dog| *dog >= SHORTEST),
        }
    }

    /// How long to wait at most before [`Supervisor::alive`] is to be called again.
    pub fn patience(&self, at_most: Duration) -> Duration {
        self.watchdog.map_or(at_most, |dog| at_most.min(dog / 2))
    }

    /// The process serves, with the configuration that it was started with or has reloaded.
    pub fn ready(&self) {
        tell(&[NotifyState::Ready]);
    }

    /// A reload begins; [`Supervisor::ready`] says when it is over, whatever came of it.
    pub fn reloading(&self) {
        // Without the time `Type=notify-reload` takes no notice.
        if let Ok(now) = NotifyState::monotonic_usec_now() {
            tell(&[NotifyState::Reloading, now]);
        }
    }

    /// The process does its work.
    pub fn alive(&self) {
        if self.watchdog.is_some() {
            tell(&[NotifyState::Watchdog]);
        }
    }

    /// Does work that may have to wait for the disk, which is no sign of a process that hangs, for some time.
    pub fn vouch<T>(&self, work: impl FnOnce() -> T) -> T {
        let Some(dog) = self.watchdog else {
            return work();
        };
        let (done, is_done) = mpsc::channel::<()>();
        thread::scope(|scope| {
            scope.spawn(move || {
                let patience = dog / 2;
                let times = VOUCHED.as_nanos() / patience.as_nanos();
                for _ in 0..times {
                    if is_done.recv_timeout(patience) != Err(RecvTimeoutError::Timeout) {
                        return;
                    }
                    self.alive();
                }
            });
            let answer = work();
            drop(done);
            answer
        })
    }

    /// No session is opened any more.
    pub fn stopping(&self) {
        tell(&[NotifyState::Stopping]);
    }
}

/// A manager that cannot be told is no reason to do anything else.
fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}
