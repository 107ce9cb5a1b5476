//! What few may hold at once: so many shares in all, and so many of one caller, so that nobody takes them all.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

/// Shares by the name of the caller's token.
#[derive(Clone, Debug)]
pub(crate) struct Shares {
    all: usize,
    of_one: usize,
    held: Arc<Mutex<HashMap<String, usize>>>,
}

impl Shares {
    /// `all` at once, and `of_one` of them to one caller.
    pub(crate) fn new(all: usize, of_one: usize) -> Self {
        Self {
            all,
            of_one,
            held: Arc::default(),
        }
    }

    /// One for this caller; none when too many are held, or too many by it.
    pub(crate) fn take(&self, caller: &str) -> Option<Share> {
        let mut held = self.held.lock();
        let own = held.get(caller).copied().unwrap_or(0);
        if own >= self.of_one || held.values().sum::<usize>() >= self.all {
            return None;
        }
        held.insert(caller.to_owned(), own + 1);
        Some(Share {
            held: Arc::clone(&self.held),
            caller: caller.to_owned(),
        })
    }
}

/// One share; dropping it gives it back.
#[derive(Debug)]
pub(crate) struct Share {
    held: Arc<Mutex<HashMap<String, usize>>>,
    caller: String,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.held.lock();
        if let Some(own) = held.get_mut(&self.caller) {
            *own -= 1;
            if *own == 0 {
                held.remove(&self.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_takes_them_all_and_what_is_dropped_is_free_again() {
        let shares = Shares::new(3, 2);
        let own = [shares.take("a"), shares.take("a")];
        assert!(own.iter().all(Option::is_some));
        assert!(shares.take("a").is_none(), "its own are taken");
        let other = shares.take("b");
        assert!(other.is_some());
        assert!(shares.take("c").is_none(), "all are taken");
        drop(own);
        assert!(shares.take("c").is_some());
        drop(other);
        assert!(shares.held.lock().is_empty());
    }
}
