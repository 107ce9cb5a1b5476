//! Waiting for events: awake for a moment while they come fast, else asleep. What events mean may not live here.
//!
//! To wake a thread costs the kernel tens of microseconds where the processor has gone to sleep meanwhile. While answers
//! come within that time, the loop looks again instead of sleeping; whoever else wants the processor goes first.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use curfew_model::{BootInstant, Clock};
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, Event};
use rustix::io::Errno;

/// For how long the loop stays awake, and how fast events must come for it to be worth it.
const AWAKE: Duration = Duration::from_micros(50);
/// The most looks in that time, so that it ends where the clock stands still.
const LOOKS: u32 = 200;
/// A look that takes longer than this gave the processor to somebody else: it is not idle, and the kernel prefers
/// threads that slept to those that look.
const CONTENDED: Duration = Duration::from_micros(10);
/// Waits that were short, less those that were not; from `WORTH` on the loop stays awake.
const MOST: u8 = 16;
const WORTH: u8 = 8;

/// What is remembered of the last waits.
pub(super) struct Wait {
    clock: Arc<dyn Clock>,
    short: u8,
}

impl Wait {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, short: 0 }
    }

    /// Waits until something is ready, or `timeout` from now; for ever without one.
    pub(super) fn wait(
        &mut self,
        epoll: &OwnedFd,
        events: &mut Vec<Event>,
        timeout: Option<Duration>,
    ) -> Result<(), Errno> {
        if timeout.is_some_and(|timeout| timeout < AWAKE) {
            return take(epoll, events, timeout);
        }
        let began = self.now();
        if self.short >= WORTH {
            let mut at = began;
            for _ in 0..LOOKS {
                take(epoll, events, Some(Duration::ZERO))?;
                if !events.is_empty() {
                    self.short = MOST;
                    return Ok(());
                }
                std::thread::yield_now();
                let before = std::mem::replace(&mut at, self.now());
                if at.since(before) > CONTENDED {
                    self.short = 0;
                    break;
                }
                if at.since(began) >= AWAKE {
                    break;
                }
            }
        }
        let result = take(epoll, events, timeout);
        self.short = if self.now().since(began) < AWAKE {
            (self.short + 1).min(MOST)
        } else {
            self.short.saturating_sub(1)
        };
        result
    }

    fn now(&self) -> BootInstant {
        self.clock.now().boot
    }
}

fn take(epoll: &OwnedFd, events: &mut Vec<Event>, timeout: Option<Duration>) -> Result<(), Errno> {
    let timeout = timeout.map(|timeout| Timespec {
        tv_sec: i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: timeout.subsec_nanos().into(),
    });
    epoll::wait(epoll, spare_capacity(events), timeout.as_ref()).map(drop)
}
