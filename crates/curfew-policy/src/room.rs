//! Room on the stack for readers that call themselves: a source nests as deep as its author likes, and the thread that
//! asks may have little left. What is read may not be known here.

use std::thread;

/// More than the deepest document and condition that their parsers take need, in bytes; only what is touched is taken.
const STACK: usize = 64 << 20;

/// Runs `read` on a thread with enough stack.
///
/// # Errors
/// The system's, when it has no thread left.
pub(crate) fn with_room<T: Send>(read: impl FnOnce() -> T + Send) -> std::io::Result<T> {
    thread::scope(|scope| {
        let thread = thread::Builder::new()
            .name("policy".to_owned())
            .stack_size(STACK)
            .spawn_scoped(scope, read)?;
        match thread.join() {
            Ok(read) => Ok(read),
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}
