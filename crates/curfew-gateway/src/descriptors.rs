//! The descriptors that clients may not take: whoever wants to end sessions has to get through, and the log and the state
//! have to be written, when sessions hold all others.

use std::os::fd::{AsFd, AsRawFd};
use std::sync::OnceLock;

use rustix::process::{Resource, getrlimit};

/// How many are kept back; a quarter where there are few.
const KEPT: u64 = 64;

/// Whether this one is of those that are kept back. The kernel gives the lowest that is free, so that then all below it
/// are taken.
pub(crate) fn is_kept(descriptor: impl AsFd) -> bool {
    // The limit that the process begins to serve with; it is raised before.
    static FIRST: OnceLock<u64> = OnceLock::new();
    let first = FIRST.get_or_init(|| first_of(getrlimit(Resource::Nofile).current));
    u64::try_from(descriptor.as_fd().as_raw_fd()).is_ok_and(|number| number >= *first)
}

/// The first that is kept back under this limit.
fn first_of(limit: Option<u64>) -> u64 {
    limit.map_or(u64::MAX, |limit| limit - KEPT.min(limit / 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn some_are_kept_back_and_never_all() {
        assert_eq!(first_of(Some(1024)), 960);
        assert_eq!(first_of(Some(100)), 75);
        assert_eq!(first_of(Some(0)), 0);
        assert_eq!(first_of(None), u64::MAX);
    }
}
