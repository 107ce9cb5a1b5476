//! One timer on CLOCK_BOOTTIME that any thread may set and one thread waits for. No deadline logic may live here.

use std::{io, os::fd::OwnedFd, time::Duration};

use curfew_model::BootInstant;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};

/// A kernel timer: precise to microseconds, and suspend counts.
#[derive(Debug)]
pub(crate) struct Timer(OwnedFd);

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    /// The kernel's, when no descriptor is left.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self(timerfd_create(
            TimerfdClockId::Boottime,
            TimerfdFlags::CLOEXEC,
        )?))
    }

    /// Fires at `at`, at once if that is past; replaces what was set.
    ///
    /// # Errors
    /// The kernel's; none is known for a valid timer.
    pub(crate) fn set(&self, at: BootInstant) -> io::Result<()> {
        // Zero would switch the timer off, so the first nanosecond stands for it.
        let since_boot = Duration::from_nanos(at.uptime().max(1));
        let it_value = Timespec {
            tv_sec: i64::try_from(since_boot.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: since_boot.subsec_nanos().into(),
        };
        let once = Itimerspec {
            it_interval: Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            },
            it_value,
        };
        timerfd_settime(&self.0, TimerfdTimerFlags::ABSTIME, &once)?;
        Ok(())
    }

    /// Waits until it fires.
    ///
    /// # Errors
    /// The kernel's; an interrupted wait goes on.
    pub(crate) fn wait(&self) -> io::Result<()> {
        let mut count = [0u8; 8];
        loop {
            match rustix::io::read(&self.0, &mut count) {
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(()),
            }
        }
    }
}
