//! A thread that takes what others hand over, and has nobody wait: what finds no room is counted and left out. What it
//! does with the rest is its caller's.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{self, Receiver, SyncSender, TrySendError},
    },
    time::Duration,
};

/// Between two tries to find room for a flush.
const LOOK: Duration = Duration::from_millis(10);

enum Handed<T> {
    Thing(T),
    /// Everything before this is taken.
    Flush(SyncSender<()>),
}

/// The way to the thread, which ends after the last when this is dropped.
pub struct Outlet<T> {
    things: SyncSender<Handed<T>>,
    left_out: Arc<AtomicU64>,
}

impl<T: Send + 'static> Outlet<T> {
    /// Starts the thread, before which so many may wait. `take` gets one after the other, with how many were left out
    /// since the one before it.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start(
        name: &str,
        room: usize,
        mut take: impl FnMut(T, u64) + Send + 'static,
    ) -> io::Result<Self> {
        let (things, handed): (_, Receiver<Handed<T>>) = mpsc::sync_channel(room);
        let left_out = Arc::new(AtomicU64::new(0));
        let missing = Arc::clone(&left_out);
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                for handed in handed {
                    match handed {
                        Handed::Thing(thing) => take(thing, missing.swap(0, Ordering::Relaxed)),
                        Handed::Flush(taken) => {
                            // Whoever asked may have lost patience.
                            let _ = taken.send(());
                        }
                    }
                }
            })?;
        Ok(Self { things, left_out })
    }

    /// Hands one over; never waits.
    pub fn hand(&self, thing: T) {
        if let Err(TrySendError::Full(_)) = self.things.try_send(Handed::Thing(thing)) {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until what was handed over is taken, at most for about `patience`.
    pub fn flush(&self, patience: Duration) {
        let (tell, told) = mpsc::sync_channel(1);
        let mut asking = Handed::Flush(tell);
        for _ in 0..=patience.as_millis() / LOOK.as_millis() {
            match self.things.try_send(asking) {
                Ok(()) => {
                    let _ = told.recv_timeout(patience);
                    return;
                }
                Err(TrySendError::Full(flush)) => asking = flush,
                Err(TrySendError::Disconnected(_)) => return,
            }
            std::thread::park_timeout(LOOK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_hands_over_never_waits_and_what_finds_no_room_is_counted() {
        let (began, begun) = mpsc::channel();
        let (open, opened) = mpsc::channel::<()>();
        let (took, taken) = mpsc::channel();
        let mut closed = true;
        let outlet = Outlet::start("outlet", 2, move |number: u16, left_out| {
            if std::mem::take(&mut closed) {
                began.send(()).unwrap();
                opened.recv().unwrap();
            }
            took.send((number, left_out)).unwrap();
        })
        .unwrap();
        outlet.hand(0);
        begun.recv_timeout(Duration::from_secs(30)).unwrap();
        (1..100).for_each(|number| outlet.hand(number));
        outlet.flush(Duration::from_millis(20));
        open.send(()).unwrap();
        outlet.flush(Duration::from_secs(30));
        let taken: Vec<_> = taken.try_iter().collect();
        assert_eq!(taken, [(0, 0), (1, 97), (2, 0)]);
    }
}
