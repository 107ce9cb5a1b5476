//! Clocks for tests: the machine's CLOCK_BOOTTIME beside a wall clock that stands still, for real timers, and one that
//! stands still altogether.

use std::sync::atomic::{AtomicU64, Ordering};

use curfew_model::{BootInstant, Clock, Now, WallInstant};
use rustix::time::{ClockId, clock_gettime};

/// The machine's boot clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct BootClock;

impl Clock for BootClock {
    fn now(&self) -> Now {
        let time = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
        Now {
            boot: BootInstant::at_uptime(seconds * 1_000_000_000 + nanos),
            wall: WallInstant(1_700_000_000_000),
        }
    }
}

/// A clock that stands still, at so many nanoseconds.
#[derive(Debug, Default)]
pub struct StillClock(AtomicU64);

impl StillClock {
    /// Sets it.
    pub fn set(&self, nanos: u64) {
        self.0.store(nanos, Ordering::SeqCst);
    }
}

impl Clock for StillClock {
    fn now(&self) -> Now {
        Now {
            boot: BootInstant(self.0.load(Ordering::SeqCst)),
            ..Now::default()
        }
    }
}
