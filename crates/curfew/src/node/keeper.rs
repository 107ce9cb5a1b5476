//! The threads between store and enforcer: commits come in as they are made, ends by lifetime go out to be kept.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use curfew_enforcer::{Enforcer, LastEnd};
use curfew_model::{BootInstant, Clock, Issuer, Kind, Now, WallInstant};
use curfew_state::{Change, EndKey, State, Store, SubjectKey, WatchError};
use parking_lot::{Condvar, Mutex};
use tracing::warn;

use super::desired::Desired;

/// How long one wait lasts before a thread looks whether to stop.
const LOOK: Duration = Duration::from_millis(200);

/// Tells the keeper that sessions ended.
#[derive(Default)]
pub struct Bell {
    rung: Mutex<bool>,
    heard: Condvar,
}

impl Bell {
    pub fn ring(&self) {
        *self.rung.lock() = true;
        self.heard.notify_one();
    }

    fn wait(&self) -> bool {
        let mut rung = self.rung.lock();
        if !*rung {
            self.heard.wait_for(&mut rung, LOOK);
        }
        std::mem::take(&mut *rung)
    }
}

/// The running threads; dropping it stops them and waits for them.
pub struct Keeper {
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Keeper {
    /// Starts both.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start(
        store: &Arc<dyn Store>,
        desired: &Arc<Desired>,
        enforcer: &Arc<Enforcer>,
        bell: &Arc<Bell>,
        clock: &Arc<dyn Clock>,
    ) -> std::io::Result<Self> {
        let mut keeper = Self {
            stopping: Arc::default(),
            threads: Vec::new(),
        };
        let (stopping, from, to) = (
            Arc::clone(&keeper.stopping),
            Arc::clone(store),
            Arc::clone(desired),
        );
        keeper
            .threads
            .push(named("state-watch").spawn(move || watch(&stopping, &*from, &to))?);
        let stopping = Arc::clone(&keeper.stopping);
        let (from, to, bell, clock) = (
            Arc::clone(enforcer),
            Arc::clone(store),
            Arc::clone(bell),
            Arc::clone(clock),
        );
        keeper.threads.push(named("ends").spawn(move || {
            let mut kept = BTreeMap::new();
            while !stopping.load(Ordering::Acquire) {
                if bell.wait() {
                    keep_ends(&from, &*to, clock.now(), &mut kept);
                }
            }
        })?);
        Ok(keeper)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn named(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

fn watch(stopping: &AtomicBool, store: &dyn Store, desired: &Desired) {
    let mut watch = store.watch(desired.revision());
    while !stopping.load(Ordering::Acquire) {
        let next = match &mut watch {
            Ok(watch) => watch.next(LOOK),
            Err(error) => Err(*error),
        };
        match next {
            Ok(Some(commit)) => drop(desired.apply(&commit)),
            Ok(None) => {}
            Err(WatchError::Closed) => return,
            Err(error) => {
                warn!(%error, "the watch fell behind: the whole state is read again");
                let state = store.read();
                desired.catch_up(&state);
                watch = store.watch(state.revision);
            }
        }
    }
}

/// Commits what ended since the last time. An end that is not kept is tried again with the next one.
fn keep_ends(
    enforcer: &Enforcer,
    store: &dyn Store,
    now: Now,
    kept: &mut BTreeMap<(String, String), BootInstant>,
) {
    let ends = enforcer.look(curfew_enforcer::Engine::last_ends);
    let key = |end: &LastEnd| (end.subject.clone(), end.segment.to_string());
    let fresh: Vec<&LastEnd> = ends
        .iter()
        .filter(|end| kept.get(&key(end)) != Some(&end.at))
        .collect();
    let changes: Vec<Change> = fresh.iter().filter_map(|end| change(end, now)).collect();
    if changes.is_empty() {
        return;
    }
    match store.commit(None, &changes) {
        Ok(_) => kept.extend(fresh.into_iter().map(|end| (key(end), end.at))),
        Err(error) => warn!(%error, "ends by lifetime are not kept: a restart would forget them"),
    }
}

/// An end as the store keeps it. Subjects without an identity are addresses, and are not kept over a restart.
fn change(end: &LastEnd, now: Now) -> Option<Change> {
    let subject = subject(&end.subject)?;
    Some(Change::Ended {
        key: EndKey {
            subject,
            segment: end.segment.clone(),
        },
        at: now.wall_at(end.at),
    })
}

fn subject(text: &str) -> Option<SubjectKey> {
    let (kind, name) = text.split_once(':')?;
    let kind = [Kind::User, Kind::Workload, Kind::Device, Kind::Role]
        .into_iter()
        .find(|known| known.to_string() == kind)?;
    let (issuer, id) = name.split_once('#')?;
    Some(SubjectKey {
        kind,
        issuer: Issuer(issuer.to_owned()),
        id: id.to_owned(),
    })
}

/// The ends that the store kept, for a new engine.
pub fn kept_ends(state: &State, now: Now) -> impl Iterator<Item = LastEnd> + '_ {
    state.last_ends.iter().map(move |(key, at)| LastEnd {
        subject: subject_text(&key.subject),
        segment: key.segment.clone(),
        at: boot_before(now, *at),
    })
}

fn subject_text(key: &SubjectKey) -> String {
    format!("{}:{}#{}", key.kind, key.issuer.0, key.id)
}

/// The boot instant of a past wall instant; boot itself for what was before.
fn boot_before(now: Now, wall: WallInstant) -> BootInstant {
    let ago = now.wall.since(wall);
    BootInstant(
        now.boot
            .0
            .saturating_sub(u64::try_from(ago.as_nanos()).unwrap_or(u64::MAX)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_end_comes_back_as_it_was() {
        let key = SubjectKey {
            kind: Kind::User,
            issuer: Issuer("https://idp".to_owned()),
            id: "a#b".to_owned(),
        };
        assert_eq!(subject(&subject_text(&key)), Some(key));
        assert_eq!(subject("address:192.0.2.1"), None);
        let now = Now {
            boot: BootInstant(10_000_000_000),
            wall: WallInstant(50_000),
        };
        assert_eq!(
            boot_before(now, WallInstant(48_000)),
            BootInstant(8_000_000_000)
        );
        assert_eq!(boot_before(now, WallInstant(1)), BootInstant(0));
    }
}
