//! The one clock (I6): CLOCK_BOOTTIME for deadlines, CLOCK_REALTIME beside it. Nothing else asks for time.

use std::sync::atomic::{AtomicI64, Ordering};

use curfew_model::{BootInstant, Clock, Now, WallInstant};
use rustix::time::{ClockId, Timespec, clock_gettime};

/// From the boot clock to the wall clock as it was last told, in milliseconds. The two are read one after the other, so
/// that what is measured between them varies; an instant that is shown twice has to look the same.
static APART: AtomicI64 = AtomicI64::new(i64::MIN);
/// What is measured may differ from what is told by this much, in nanoseconds; more is a step of the wall clock.
const STEP: i64 = 2_000_000;

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Now {
        let before = APART.load(Ordering::Relaxed);
        let (mut boot, measured) = measure();
        let mut told = apart(before, measured);
        if told != before {
            // Whoever lost the processor between the clocks measures that.
            let measured;
            (boot, measured) = measure();
            told = apart(before, measured);
            APART.store(told, Ordering::Relaxed);
        }
        let wall = signed(boot.0 / 1_000_000).saturating_add(told);
        Now {
            boot,
            wall: WallInstant(wall),
        }
    }

    fn boot(&self) -> BootInstant {
        BootInstant::at_uptime(nanos(clock_gettime(ClockId::Boottime)))
    }
}

/// The boot clock, and how far ahead of it the wall clock is, in nanoseconds.
fn measure() -> (BootInstant, i64) {
    let boot = SystemClock.boot();
    let wall = nanos(clock_gettime(ClockId::Realtime));
    (boot, signed(wall).saturating_sub(signed(boot.0)))
}

/// How far apart the clocks are from now on, in milliseconds: as far as before, unless the wall clock was stepped.
fn apart(told: i64, measured: i64) -> i64 {
    let differs = told.saturating_mul(1_000_000).saturating_sub(measured);
    if differs.saturating_abs() <= STEP {
        told
    } else {
        measured / 1_000_000
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
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

    #[test]
    fn an_instant_is_shown_as_the_same_millisecond_until_the_wall_clock_is_stepped() {
        let first = SystemClock.now();
        for _ in 0..100_000 {
            assert_eq!(SystemClock.now().wall_at(first.boot), first.wall);
        }
        assert_eq!(apart(5, 5_999_999), 5);
        assert_eq!(apart(5, 3_000_000), 5);
        assert_eq!(apart(5, 7_000_001), 7);
        assert_eq!(apart(i64::MIN, -3_500_000), -3);
    }
}
