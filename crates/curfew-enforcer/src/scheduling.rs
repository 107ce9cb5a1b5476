//! Asking the kernel to run a thread ahead of ordinary ones. When to close anything may not live here.

use std::fmt;

use thread_priority::{
    RealtimeThreadSchedulePolicy, ThreadPriority, ThreadPriorityValue, ThreadSchedulePolicy,
    set_thread_priority_and_policy, thread_native_id,
};

/// The lowest real-time priority: ahead of every ordinary thread, behind whatever else asked for more.
const PRIORITY: u8 = 1;

/// How the kernel runs a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scheduling {
    /// SCHED_FIFO: it runs the moment its timer fires, however busy the machine is.
    RealTime,
    /// Like every other thread: on a busy machine closes are milliseconds late.
    Ordinary {
        /// What the kernel said to the request for SCHED_FIFO.
        why: String,
    },
}

impl fmt::Display for Scheduling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RealTime => f.write_str("SCHED_FIFO"),
            Self::Ordinary { why } => write!(
                f,
                "ordinary: SCHED_FIFO was refused ({why}); grant CAP_SYS_NICE or RLIMIT_RTPRIO of {PRIORITY} \
                 or closes are late under load"
            ),
        }
    }
}

/// Asks for SCHED_FIFO for the calling thread, and says what came of it. Only for threads that close sessions and
/// sleep otherwise: whatever they do, every ordinary thread waits for.
pub fn ask_for_real_time() -> Scheduling {
    let asked = ThreadPriorityValue::try_from(PRIORITY)
        .map_err(|error| error.to_string())
        .and_then(|priority| {
            set_thread_priority_and_policy(
                thread_native_id(),
                ThreadPriority::Crossplatform(priority),
                ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo),
            )
            .map_err(|error| error.to_string())
        });
    match asked {
        Ok(()) => Scheduling::RealTime,
        Err(why) => Scheduling::Ordinary { why },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_said_in_one_line() {
        let why = "not permitted".to_owned();
        let said = Scheduling::Ordinary { why }.to_string();
        assert!(
            said.ends_with("RLIMIT_RTPRIO of 1 or closes are late under load"),
            "{said}"
        );
    }
}
