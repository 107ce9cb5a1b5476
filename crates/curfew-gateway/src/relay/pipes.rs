//! The pool of pipes that carry spliced bytes. One pool a thread; nothing here knows of flows.

use std::os::fd::OwnedFd;

use crate::descriptors::is_kept;
use rustix::pipe::{PipeFlags, fcntl_setpipe_size, pipe_with};

/// Wanted capacity of a pipe, in bytes. Smaller ones cost a third of the throughput.
pub(super) const PIPE_BYTES: usize = 1 << 20;
/// Empty pipes kept for the next flow, per thread; more are closed.
const KEPT: usize = 16;

/// A pipe that belongs to one direction of one flow while bytes are in it.
pub(super) struct Pipe {
    pub(super) read: OwnedFd,
    pub(super) write: OwnedFd,
}

/// Empty pipes, ready for use.
#[derive(Default)]
pub(super) struct Pipes {
    idle: Vec<Pipe>,
}

impl Pipes {
    /// An empty pipe; none when descriptors have run out, and then the caller copies instead.
    pub(super) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            return Some(pipe);
        }
        let (read, write) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC).ok()?;
        if is_kept(&read) || is_kept(&write) {
            return None;
        }
        // Past the unprivileged quota this is EPERM: the pipe keeps its default size and works.
        let _ = fcntl_setpipe_size(&write, PIPE_BYTES);
        Some(Pipe { read, write })
    }

    /// Takes back a pipe that is empty. One that holds bytes must be dropped instead.
    pub(super) fn give_back(&mut self, pipe: Pipe) {
        if self.idle.len() < KEPT {
            self.idle.push(pipe);
        }
    }
}
