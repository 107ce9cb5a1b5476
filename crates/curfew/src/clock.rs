//! The one clock (I6): CLOCK_BOOTTIME for deadlines, CLOCK_REALTIME beside it. Nothing else asks for time.

use curfew_model::{BootInstant, Clock, Now, WallInstant};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let boot = clock_gettime(ClockId::Boottime);
        let wall = clock_gettime(ClockId::Realtime);
        Now {
            boot: BootInstant(nanos(boot)),
            wall: WallInstant(
                wall.tv_sec
                    .saturating_mul(1_000)
                    .saturating_add(wall.tv_nsec / 1_000_000),
            ),
        }
    }
}

fn nanos(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_runs_forward() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(first.boot.0 > 0 && second.boot >= first.boot);
        assert!(first.wall > WallInstant(1_700_000_000_000));
    }
}
