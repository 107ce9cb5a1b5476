//! Room on the stack for readers that call themselves: a source nests as deep as its author likes, and the thread that
//! asks may have little left. What is read may not be known here.

use std::thread;

use crate::problem::{Place, Problem};

/// More than the deepest document and condition that their parsers take need, in bytes; only what is touched is taken.
const STACK: usize = 64 << 20;

/// Runs `read` on a thread with enough stack.
///
/// # Errors
/// When the system has no thread left.
pub(crate) fn with_room<T: Send>(read: impl FnOnce() -> T + Send) -> Result<T, Box<Problem>> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("policy".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, read)
            .map_err(|error| {
                Problem::error(&Place::default(), format!("not read: {error}"))
                    .help("the system has no thread left: try again later")
            })?;
        match thread.join() {
            Ok(read) => Ok(read),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
