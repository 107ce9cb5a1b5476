//! A clock for tests with real timers: the machine's CLOCK_BOOTTIME beside a wall clock that stands still.

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
            boot: BootInstant(seconds * 1_000_000_000 + nanos),
            wall: WallInstant(1_700_000_000_000),
        }
    }
}
