//! What may not end alone. Nothing else may live here.

/// Ends the process when the thread that holds it panics: the sessions of a thread that is gone would outlive their leases,
/// while the kernel resets those of a process that is gone.
#[derive(Debug)]
pub struct Fatal;

impl Drop for Fatal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
