//! The threads between the control plane of this process and its enforcer: commits come in as they are made, ends by
//! lifetime go out to be kept, and the control plane is heard.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use curfew_enforcer::{Enforcer, Input, LastEnd};
use curfew_model::{BootInstant, Clock, Issuer, Kind, Now, WallInstant};
use curfew_state::{Change, EndKey, Expected, State, Store, SubjectKey, WatchError, Whose};
use parking_lot::{Condvar, Mutex};
use tracing::warn;

use super::desired::Desired;

/// How long one wait lasts before a thread looks whether to stop.
const LOOK: Duration = Duration::from_millis(200);
/// Ends that are kept over a restart; beyond it the older half is forgotten.
const KEPT: usize = 50_000;
/// Ends in one commit: fewer than the store takes at once.
const AT_ONCE: usize = 5_000;
/// How much later ends are tried again that could not be kept.
const AGAIN: Duration = Duration::from_secs(5);
/// What the engine calls a subject without identity.
const ADDRESS: &str = "address";

/// Tells the keeper that a session ended by its lifetime.
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

    /// Whether it was rung since the last time, after waiting a while for that.
    pub fn wait(&self) -> bool {
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
    /// Starts them.
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
        // On a thread of its own: whatever is slow here is no loss of the control plane.
        let (stopping, to) = (Arc::clone(&keeper.stopping), Arc::clone(enforcer));
        keeper.threads.push(named("contact").spawn(move || {
            while !stopping.load(Ordering::Acquire) {
                // It cannot be refused.
                let _ = to.handle(Input::Contact);
                std::thread::park_timeout(LOOK);
            }
        })?);
        let stopping = Arc::clone(&keeper.stopping);
        let (from, to, bell, clock) = (
            Arc::clone(enforcer),
            Arc::clone(store),
            Arc::clone(bell),
            Arc::clone(clock),
        );
        // Nobody is let in yet.
        let mut kept = clock.now().boot;
        keeper.threads.push(named("ends").spawn(move || {
            let mut again = None;
            while !stopping.load(Ordering::Acquire) {
                let now = || clock.now();
                if bell.wait() || again.is_some_and(|again| now().boot >= again) {
                    let all = keep_ends(&from, &*to, now(), &mut kept);
                    again = (!all).then(|| now().boot.after(AGAIN));
                }
            }
            // What ended just now.
            keep_ends(&from, &*to, clock.now(), &mut kept);
        })?);
        Ok(keeper)
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Release);
        for thread in self.threads.drain(..) {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }
}

fn named(name: &str) -> std::thread::Builder {
    std::thread::Builder::new().name(name.to_owned())
}

fn watch(stopping: &AtomicBool, store: &dyn Store, desired: &Desired) {
    let mut watch = store.watch(desired.brought_up_to());
    while !stopping.load(Ordering::Acquire) {
        let next = match &mut watch {
            Ok(watch) => watch.next(LOOK),
            Err(error) => Err(*error),
        };
        match next {
            Ok(Some(commit)) => desired.brought(&commit),
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

/// Commits what ended after `kept`, the oldest first, and moves that on to the last of which all are kept. Gives whether
/// that is everything.
fn keep_ends(enforcer: &Enforcer, store: &dyn Store, now: Now, kept: &mut BootInstant) -> bool {
    let mut ends = enforcer.look(|engine| engine.last_ends(*kept));
    ends.sort_by_key(|end| end.at);
    for some in ends.chunks(AT_ONCE) {
        let mut changes: Vec<Change> = some.iter().filter_map(|end| change(end, now)).collect();
        changes.extend(forget_old(&store.read(), KEPT));
        // A subject that cannot be read back is kept by nobody.
        if !changes.is_empty()
            && let Err(error) = store.commit(Expected::Nothing, &changes)
        {
            warn!(%error, "ends by lifetime are not kept yet: a restart would forget them");
            return false;
        }
        // The next ones may have ended at the same instant as the last of these.
        if let Some(last) = some.last() {
            *kept = BootInstant(last.at.0.saturating_sub(1)).max(*kept);
        }
    }
    *kept = ends.last().map_or(*kept, |last| last.at);
    true
}

/// Of more than `bound` ends, forgets the older half.
fn forget_old(state: &State, bound: usize) -> Option<Change> {
    if state.last_ends.len() <= bound {
        return None;
    }
    let mut ends: Vec<WallInstant> = state.last_ends.values().copied().collect();
    let middle = ends.len() / 2;
    let (_, &mut before, _) = ends.select_nth_unstable(middle);
    Some(Change::ForgetEnds { before })
}

/// An end as the store keeps it.
fn change(end: &LastEnd, now: Now) -> Option<Change> {
    Some(Change::Ended {
        key: EndKey {
            subject: whose(&end.subject)?,
            segment: end.segment.clone(),
        },
        at: now.wall_at(end.at),
    })
}

/// Reads a subject as the engine writes it.
fn whose(text: &str) -> Option<Whose> {
    let (kind, name) = text.split_once(':')?;
    if kind == ADDRESS {
        let address = name.parse().ok()?;
        return Some(Whose::Address { address });
    }
    let kind = Kind::of_word(kind)?;
    let (issuer, id) = name.split_once('#')?;
    Some(Whose::Subject(SubjectKey {
        kind,
        issuer: Issuer::from(issuer.to_owned()),
        id: id.to_owned(),
    }))
}

/// The ends that the store kept, for a new engine.
pub fn kept_ends(state: &State, now: Now) -> impl Iterator<Item = LastEnd> + '_ {
    state.last_ends.iter().map(move |(key, at)| LastEnd {
        subject: subject_text(&key.subject),
        segment: key.segment.clone(),
        at: now.boot_before(*at),
    })
}

fn subject_text(whose: &Whose) -> String {
    match whose {
        Whose::Subject(key) => format!("{}:{}#{}", key.kind, key.issuer.0, key.id),
        Whose::Address { address } => format!("{ADDRESS}:{address}"),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, Ipv4Addr},
        sync::Weak,
    };

    use curfew_enforcer::{Bounds, Engine, Record, Sink};
    use curfew_gateway::door::GatewayDoor;
    use curfew_model::SegmentName;
    use curfew_state::EmbeddedStore;
    use curfew_testkit::{BootClock, Lifetime};

    use super::*;

    struct Silent;

    impl Sink for Silent {
        fn record(&self, _: Vec<Record>) {}
    }

    #[test]
    fn more_ends_at_one_instant_than_a_commit_takes_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(dir.path()).unwrap();
        let now = BootClock.now();
        let mut engine = Engine::new(Arc::new(Lifetime(LOOK)), Bounds::default(), now);
        let ends = 10_001_u32;
        for n in 0..ends {
            let address = IpAddr::from(Ipv4Addr::from_bits(n));
            engine.restore_last_end(LastEnd {
                subject: format!("{ADDRESS}:{address}"),
                segment: SegmentName::new("db").unwrap(),
                at: now.boot,
            });
        }
        let (door, sink) = (Weak::<GatewayDoor>::new(), Arc::new(Silent));
        let deadlines = Enforcer::start(engine, door, Arc::new(BootClock), sink).unwrap();
        let mut kept = BootInstant(0);
        assert!(keep_ends(deadlines.enforcer(), &store, now, &mut kept));
        assert_eq!(kept, now.boot);
        assert_eq!(store.read().last_ends.len(), ends as usize);
    }

    #[test]
    fn a_kept_end_comes_back_as_it_was() {
        let key = Whose::Subject(SubjectKey {
            kind: Kind::User,
            issuer: Issuer("https://idp".into()),
            id: "a#b".to_owned(),
        });
        assert_eq!(whose(&subject_text(&key)), Some(key));
        for address in ["192.0.2.1", "2001:db8::1"] {
            let address = address.parse().unwrap();
            let key = Whose::Address { address };
            assert_eq!(whose(&subject_text(&key)), Some(key));
        }
        assert_eq!(whose("address:db"), None);
    }

    #[test]
    fn of_too_many_ends_the_older_half_is_forgotten() {
        let mut state = State::default();
        for at in 1..=4 {
            let address = std::net::IpAddr::from([192, 0, 2, at]);
            let key = EndKey {
                subject: Whose::Address { address },
                segment: curfew_model::SegmentName::new("db").unwrap(),
            };
            let at = WallInstant(at.into());
            state.last_ends.insert(key, at);
        }
        assert_eq!(forget_old(&state, 4), None);
        let before = WallInstant(3);
        assert_eq!(forget_old(&state, 3), Some(Change::ForgetEnds { before }));
    }
}
