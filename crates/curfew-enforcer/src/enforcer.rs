//! The enforcer: one engine, one door, one deadline thread. The lock is held for arithmetic only, never for the door
//! or any other system call.

use std::{
    collections::{HashMap, VecDeque},
    io,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
};

use curfew_engine::{
    Action, Admitted, Engine, EngineError, Input, Open, Recorded, Refused, Report,
};
use curfew_model::{BootInstant, Clock, SessionId};
use parking_lot::Mutex;

use crate::{
    door::{Door, Gone, Order, Outcome},
    fatal::Fatal,
    scheduling::{self, Scheduling},
    sink::{Close, Record, Sink},
    timer::Timer,
};

/// What [`Enforcer::armed`] holds when the timer is not set.
const UNARMED: u64 = u64::MAX;

/// The engine between its door and its timer.
pub struct Enforcer {
    engine: Mutex<Engine>,
    door: Weak<dyn Door>,
    clock: Arc<dyn Clock>,
    sink: Arc<dyn Sink>,
    timer: Timer,
    /// When the deadline thread wakes, on CLOCK_BOOTTIME in nanoseconds; written under the engine's lock.
    armed: AtomicU64,
    stopping: AtomicBool,
    /// Whether somebody was bound by uid.
    by_uid: AtomicBool,
    /// Held while the door is asked for that whose the sockets of its sessions are.
    asking: Mutex<()>,
}

impl std::fmt::Debug for Enforcer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Enforcer").finish_non_exhaustive()
    }
}

/// What came of a step at the door.
#[derive(Default)]
struct Done {
    /// When it had closed the last session of those that the step closes.
    closed_at: Option<BootInstant>,
    /// Sessions that ended once it was asked what they moved.
    asked: u64,
}

/// The running deadline thread; dropping it stops the thread and waits for it.
#[derive(Debug)]
pub struct Deadlines {
    enforcer: Arc<Enforcer>,
    scheduling: Scheduling,
    thread: Option<JoinHandle<()>>,
}

impl Enforcer {
    /// Starts the deadline thread for `engine`. The door owns itself and asks by upcalls; the enforcer only refers
    /// to it, and orders to a door that is gone are dropped with it.
    ///
    /// # Errors
    /// The kernel's, when it has no timer or thread left.
    pub fn start(
        engine: Engine,
        door: Weak<dyn Door>,
        clock: Arc<dyn Clock>,
        sink: Arc<dyn Sink>,
    ) -> io::Result<Deadlines> {
        let enforcer = Arc::new(Self {
            engine: Mutex::new(engine),
            door,
            clock,
            sink,
            timer: Timer::new()?,
            armed: AtomicU64::new(UNARMED),
            stopping: AtomicBool::new(false),
            by_uid: AtomicBool::new(false),
            asking: Mutex::default(),
        });
        let run = Arc::clone(&enforcer);
        let (tell, told) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("deadlines".to_owned())
            .spawn(move || {
                // The starter waits for this; it is there.
                let _ = tell.send(scheduling::ask_for_real_time());
                let _fatal = Fatal;
                run.keep_time();
            })?;
        let scheduling = told.recv().map_err(io::Error::other)?;
        Ok(Deadlines {
            enforcer,
            scheduling,
            thread: Some(thread),
        })
    }

    /// Decides about a session and, if it is admitted, registers it in the same step (I7): a change that comes
    /// later finds it.
    ///
    /// # Errors
    /// [`Refused`] with the reason that the client is told.
    pub fn open(&self, open: Open) -> Result<Admitted, Refused> {
        self.step(|engine| engine.open(open, self.clock.now()))
    }

    /// Tells the engine of something, and carries out what follows before it returns: what it closes is closed, and the
    /// report says since when.
    ///
    /// # Errors
    /// [`EngineError`] of the engine.
    pub fn handle(&self, input: Input) -> Result<Report, EngineError> {
        if input.binds_a_uid() {
            self.learn_owners();
        }
        let inline = self
            .door
            .upgrade()
            .is_some_and(|door| door.caps().decides_inline);
        let (answer, done) = self.timed_step(HashMap::new(), |engine| {
            let now = self.clock.now();
            let before = engine.revision();
            let answer = engine.handle(input, now);
            let newest = engine.revision();
            if inline && newest > before {
                // A door that asks has every revision at once; nothing can be wrong with saying so.
                let _ = engine.handle(Input::Installed(newest), now);
            }
            answer
        });
        // Whom an idle limit ends that has become shorter shows when the door is asked.
        answer.map(|report| Report {
            closed_at: done.closed_at,
            closed: report.closed + done.asked.min(report.matched.saturating_sub(report.closed)),
            ..report
        })
    }

    /// Whether a door has to learn whose a client's socket is: not before somebody is bound by uid, and from then on
    /// always. It asks for this once more after a session of an [`curfew_engine::Owner::Unasked`] is on its table.
    #[must_use]
    pub fn needs_owners(&self) -> bool {
        self.by_uid.load(Ordering::SeqCst)
    }

    /// Before the first binding by uid: whose the sockets are that were not asked for.
    fn learn_owners(&self) {
        // Whoever comes second waits for the answer.
        let _asking = self.asking.lock();
        // First, so that whoever is not on the door's table yet asks.
        if !self.by_uid.swap(true, Ordering::SeqCst) {
            let owners = self.door.upgrade().map(|door| door.owners());
            self.step(|engine| {
                let owners = Input::Owners(owners.unwrap_or_default());
                // Nothing of it can be refused.
                let _ = engine.handle(owners, self.clock.now());
            });
        }
    }

    /// The door's word that a session has no socket any more.
    pub fn finished(&self, gone: Gone) {
        let Gone {
            session: id,
            closed,
            reason,
            cause,
        } = gone;
        let close = Close { closed, late: None };
        // Refused only where the engine had ended the session at the same moment.
        self.timed_step(HashMap::from([(id, close)]), |engine| {
            let ended = Input::Ended {
                id,
                reason,
                cause: cause.map(str::to_owned),
                moved: closed.moved,
                late: None,
            };
            let _ = engine.handle(ended, self.clock.now());
        });
    }

    /// Reads the engine under its lock: keep it short.
    pub fn look<T>(&self, read: impl FnOnce(&Engine) -> T) -> T {
        read(&self.engine.lock())
    }

    /// Asks the door what these sessions moved and tells the engine, so that what is shown is what the sockets did.
    pub fn refresh(&self, sessions: &[SessionId]) {
        let Some(door) = self.door.upgrade() else {
            return;
        };
        let seen = door.activity(sessions);
        self.step(|engine| {
            // A session that ended meanwhile is no error.
            let _ = engine.handle(Input::Activity(seen), self.clock.now());
        });
    }

    fn keep_time(&self) {
        while !self.stopping.load(Ordering::Acquire) {
            self.step(|engine| {
                // The timer has fired: whatever comes next has to set it again.
                self.armed.store(UNARMED, Ordering::Release);
                engine.poll(self.clock.now());
            });
            if self.timer.wait().is_err() {
                // Nobody would close at deadlines any more.
                std::process::abort();
            }
        }
    }

    /// One step of the engine under the lock, then its actions without it, until none is left.
    fn step<T>(&self, change: impl FnOnce(&mut Engine) -> T) -> T {
        self.timed_step(HashMap::new(), change).0
    }

    /// A step that tells the engine of what the door has closed already, and what came of it at the door.
    fn timed_step<T>(
        &self,
        mut closes: HashMap<SessionId, Close>,
        change: impl FnOnce(&mut Engine) -> T,
    ) -> (T, Done) {
        let (answer, mut actions) = self.locked(change);
        let mut done = Done::default();
        while !actions.is_empty() {
            let (answers, last) = self.carry_out(actions, &mut closes);
            done.closed_at = done.closed_at.max(last);
            if answers.is_empty() {
                break;
            }
            actions = self
                .locked(|engine| {
                    for input in answers {
                        let is_asked = matches!(input, Input::Activity(_));
                        // A session that ended meanwhile is no error: the answer came late.
                        if let (true, Ok(report)) =
                            (is_asked, engine.handle(input, self.clock.now()))
                        {
                            done.asked += report.closed;
                        }
                    }
                })
                .1;
        }
        (answer, done)
    }

    fn locked<T>(&self, change: impl FnOnce(&mut Engine) -> T) -> (T, VecDeque<Action>) {
        let mut engine = self.engine.lock();
        let answer = change(&mut engine);
        let actions = engine.take_actions();
        let next = if self.stopping.load(Ordering::Acquire) {
            Some(BootInstant(0))
        } else {
            engine.next_deadline()
        };
        // Waking too early costs a look; so only an earlier instant is worth a system call.
        let earlier = next.is_some_and(|next| next.0 < self.armed.load(Ordering::Acquire));
        if let (true, Some(next)) = (earlier, next) {
            self.armed.store(next.0, Ordering::Release);
        }
        drop(engine);
        if earlier {
            self.arm();
        }
        (answer, actions)
    }

    /// Sets the timer to what is armed. Whoever comes last, of several threads, has seen the last value.
    fn arm(&self) {
        let mut at = self.armed.load(Ordering::Acquire);
        while at != UNARMED {
            // Setting cannot fail for a timer of ours; if it does, the next step sets it again.
            let _ = self.timer.set(BootInstant(at));
            let now = self.armed.load(Ordering::Acquire);
            if now == at {
                return;
            }
            at = now;
        }
    }

    /// Carries actions out at the door, closes first, and returns what the door had to say, and when it had closed the
    /// last. What goes on record of an end takes how it was closed out of `closes`.
    fn carry_out(
        &self,
        actions: VecDeque<Action>,
        closes: &mut HashMap<SessionId, Close>,
    ) -> (Vec<Input>, Option<BootInstant>) {
        let (mut closing, mut deadlines) = (Vec::new(), Vec::new());
        let mut orders = Vec::new();
        let mut probed = Vec::new();
        let mut recorded = Vec::new();
        for action in actions {
            match action {
                Action::Close {
                    id: session,
                    reason,
                    deadline,
                } => {
                    closing.push(Order::Close { session, reason });
                    deadlines.push(deadline);
                }
                Action::Warn { id, deadline } => orders.push(Order::Warn {
                    session: id,
                    deadline,
                }),
                Action::SetLease { id, lease } => {
                    orders.push(Order::SetLease { session: id, lease })
                }
                Action::Probe(ids) => probed.extend(ids),
                Action::Record(record) => recorded.push(record),
            }
        }
        let (mut answers, mut closed_at) = (Vec::new(), None);
        if let Some(door) = self.door.upgrade() {
            (answers, closed_at) = self.close(&*door, &closing, &deadlines, closes);
            if !orders.is_empty() {
                door.apply(&orders, &mut |index, outcome| {
                    if let Some(&Order::Warn { session, deadline }) = orders.get(index)
                        && matches!(outcome, Outcome::Done | Outcome::Started)
                    {
                        answers.push(Input::Warned {
                            id: session,
                            deadline,
                        });
                    }
                });
            }
            if !probed.is_empty() {
                answers.push(Input::Activity(door.activity(&probed)));
            }
        }
        if !recorded.is_empty() {
            let record = |recorded: Recorded| Record {
                close: recorded
                    .session
                    .filter(|_| recorded.event.is_over())
                    .and_then(|session| closes.remove(&session)),
                recorded,
            };
            self.sink.record(recorded.into_iter().map(record).collect());
        }
        (answers, closed_at)
    }

    /// Closes at the door; `deadlines` are those of the orders. What the door had to say, and when it had closed the last.
    fn close(
        &self,
        door: &dyn Door,
        closing: &[Order],
        deadlines: &[Option<BootInstant>],
        closes: &mut HashMap<SessionId, Close>,
    ) -> (Vec<Input>, Option<BootInstant>) {
        let mut closed_at = None;
        let mut answers = Vec::with_capacity(closing.len());
        if closing.is_empty() {
            return (answers, closed_at);
        }
        door.apply(closing, &mut |index, outcome| {
            let done = self.clock.now().boot;
            let Some(&Order::Close { session, reason }) = closing.get(index) else {
                return;
            };
            let mut ended = |moved, late| {
                answers.push(Input::Ended {
                    id: session,
                    reason,
                    cause: None,
                    moved,
                    late,
                });
            };
            match outcome {
                Outcome::Closed(closed) => {
                    let deadline = deadlines.get(index).copied().flatten();
                    let late = deadline.map(|deadline| done.since(deadline));
                    closes.insert(session, Close { closed, late });
                    closed_at = Some(done);
                    ended(closed.moved, late);
                }
                Outcome::Unknown => ended(None, None),
                Outcome::Done | Outcome::Started | Outcome::Later | Outcome::Unsupported => {}
            }
        });
        (answers, closed_at)
    }
}

impl Deadlines {
    /// How the kernel runs the deadline thread: for `doctor`, and for whoever reads a lateness.
    #[must_use]
    pub fn scheduling(&self) -> &Scheduling {
        &self.scheduling
    }

    /// The enforcer that this thread serves.
    #[must_use]
    pub fn enforcer(&self) -> &Arc<Enforcer> {
        &self.enforcer
    }
}

impl Drop for Deadlines {
    fn drop(&mut self) {
        self.enforcer.stopping.store(true, Ordering::Release);
        // Every step from here on sets the timer to fire at once, so that none can take this back.
        self.enforcer.locked(|_| ());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
