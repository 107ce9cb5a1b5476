//! What every handler works with, and the steps that changes share: carried out to the end though the caller hangs up,
//! on record before they are answered. Routes may not live here.

use std::{future::Future, path::PathBuf, sync::Arc, time::Duration};

use curfew_audit::Entry;
use curfew_model::{Event, EventKind, Revision, WallInstant};
use curfew_state::{Change, Commit, Expected};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

use crate::{
    Outcome, Parts,
    caller::Caller,
    guard::Guard,
    outcomes::Outcomes,
    problem::{Answered, Code, Problem},
    segments::Segments,
    watchers::Hub,
};

/// How long a record may take to the disk before its caller is told so.
const RECORD: Duration = Duration::from_secs(10);

/// How long while the log says that it takes none: it tries again twice in that time.
const FAILING: Duration = Duration::from_secs(1);

pub(crate) struct App {
    pub(crate) parts: Parts,
    pub(crate) audit_dir: PathBuf,
    pub(crate) guard: Guard,
    pub(crate) hub: Hub,
    pub(crate) outcomes: Mutex<Outcomes>,
    pub(crate) segments: Segments,
    /// Turns of those who only look, which are fewer than threads that may block: they keep no order waiting.
    pub(crate) looking: Arc<Semaphore>,
    /// Turns of those who change something and wait for the disk: fewer than threads too, so that however slow it is,
    /// sessions are ended at once.
    pub(crate) changing: Arc<Semaphore>,
    /// Orders that nobody needs are forgotten by one at a time.
    pub(crate) forgetting: Arc<Semaphore>,
    /// One verification of the log at a time: each reads everything.
    pub(crate) verifying: Arc<Semaphore>,
    /// One set is validated at a time, beside one that is applied: each may take a processor for seconds.
    pub(crate) validating: Arc<Semaphore>,
    pub(crate) applying: Semaphore,
    /// How far the server has come.
    pub(crate) phase: watch::Receiver<Phase>,
    /// Held by everything that has to finish before the server has stopped.
    pub(crate) work: mpsc::WeakSender<()>,
}

/// From start to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Everything goes on.
    Serving,
    /// Sessions finish, nobody new is let in, and the API serves on.
    Draining,
    /// The API ends too.
    Stopping,
}

/// What happened, for the record.
pub(crate) struct Deed<'a> {
    pub(crate) event: EventKind,
    pub(crate) by: &'a Caller,
    /// In words.
    pub(crate) cause: String,
}

impl Deed<'_> {
    pub(crate) fn entry(&self, at: WallInstant, revision: Revision) -> Entry {
        let event = Event {
            cause: Some(self.cause.clone()),
            ..Event::new(self.event, at, revision)
        };
        Entry::new(event).with("by", self.by.source())
    }
}

impl App {
    pub(crate) fn wall(&self) -> WallInstant {
        self.parts.clock.now().wall
    }

    /// Runs a change to its end, though its caller hangs up or the server begins to stop.
    pub(crate) async fn finish<T: Send + 'static>(
        &self,
        change: impl Future<Output = Answered<T>> + Send + 'static,
    ) -> Answered<T> {
        let Some(work) = self.work.upgrade() else {
            return Err(Problem::new(
                Code::NotDurable,
                "the server is stopping: nothing was changed",
            ));
        };
        let done = tokio::spawn(async move {
            let answer = change.await;
            drop(work);
            answer
        });
        done.await.unwrap_or_else(|error| Err(failed(&error)))
    }

    /// Starts what may block now, on a thread that may; the future ends with it.
    pub(crate) fn blocking<T, W>(
        self: &Arc<Self>,
        work: W,
    ) -> impl Future<Output = Answered<T>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Self) -> T + Send + 'static,
    {
        let app = Arc::clone(self);
        let started = tokio::task::spawn_blocking(move || work(&app));
        async move { started.await.map_err(|error| failed(&error)) }
    }

    /// Looks, on a thread that may block, once a turn is free.
    pub(crate) async fn look<T, W>(self: &Arc<Self>, work: W) -> Answered<T>
    where
        T: Send + 'static,
        W: FnOnce(&Self) -> T + Send + 'static,
    {
        let turn = self.turn(&self.looking).await?;
        self.holding(turn, work).await
    }

    async fn turn(&self, turns: &Arc<Semaphore>) -> Answered<OwnedSemaphorePermit> {
        let turn = Arc::clone(turns).acquire_owned().await;
        turn.map_err(|_| Problem::new(Code::Internal, "nobody gets a turn any more"))
    }

    /// Works on a thread that may block, and gives the turn back when that is done, though the caller hangs up before.
    pub(crate) fn holding<T, W>(
        self: &Arc<Self>,
        turn: OwnedSemaphorePermit,
        work: W,
    ) -> impl Future<Output = Answered<T>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&Self) -> T + Send + 'static,
    {
        self.blocking(move |app| {
            let _turn = turn;
            work(app)
        })
    }

    /// Hands a record over now; the future ends when it is on disk.
    pub(crate) fn record(
        &self,
        entry: &Entry,
    ) -> impl Future<Output = Answered<()>> + Send + use<> {
        let started = self.parts.clock.now().boot;
        let clock = Arc::clone(&self.parts.clock);
        let metrics = Arc::clone(&self.parts.metrics);
        let journal = Arc::clone(&self.parts.journal);
        let (tell, mut told) = oneshot::channel();
        let taken = self.parts.journal.append(entry).map(|ticket| {
            let then = Box::new(move |result| {
                // The caller may have given up waiting.
                let _ = tell.send(result);
            });
            self.parts.journal.when_durable(ticket, then);
        });
        async move {
            let not_on_record = |detail: String| {
                Problem::new(
                    Code::NotOnRecord,
                    format!("{detail}; it was carried out: try again when the log takes records"),
                )
            };
            taken.map_err(|error| not_on_record(error.to_string()))?;
            let told = match tokio::time::timeout(FAILING, &mut told).await {
                // A slow disk is waited for, a full one is not.
                Err(_) if journal.health().keeps_records() => {
                    tokio::time::timeout(RECORD.saturating_sub(FAILING), told).await
                }
                told => told,
            };
            match told {
                Ok(Ok(Ok(()))) => {
                    metrics.recorded(clock.now().boot.since(started));
                    Ok(())
                }
                Ok(Ok(Err(error))) => Err(not_on_record(error.to_string())),
                Ok(Err(_)) => Err(not_on_record("the audit log closed".to_owned())),
                Err(_) => Err(not_on_record(
                    "the audit record did not reach the disk in time".to_owned(),
                )),
            }
        }
    }

    /// Refuses what does not end sessions while the log takes no records. Ending always works.
    pub(crate) fn must_record(&self) -> Answered<()> {
        let health = self.parts.journal.health();
        if health.keeps_records() {
            return Ok(());
        }
        let detail = health
            .error
            .unwrap_or_else(|| "its queue is full".to_owned());
        Err(Problem::new(
            Code::NotOnRecord,
            format!("nothing was changed, because the audit log takes no records: {detail}"),
        ))
    }

    /// Commits changes, has enforcers carry them out, and puts them on record; all three are done when it returns.
    pub(crate) async fn change(
        self: &Arc<Self>,
        expected: Expected,
        changes: Vec<Change>,
        deed: Deed<'_>,
        wait: Duration,
    ) -> Answered<(Revision, Vec<Outcome>)> {
        self.must_record()?;
        let by = deed.by.clone();
        let turn = self.turn(&self.changing).await?;
        let commit = self
            .holding(turn, move |app| {
                by.check_known(&app.parts.store.read())?;
                let revision = app.parts.store.commit(expected, &changes)?;
                Ok::<_, Problem>(Commit { revision, changes })
            })
            .await??;
        let revision = commit.revision;
        let applied = self.blocking(move |app| app.parts.fleet.apply(&commit, wait));
        let recorded = self.record(&deed.entry(self.wall(), revision));
        let (recorded, applied) = tokio::join!(recorded, applied);
        recorded?;
        Ok((revision, applied?))
    }
}

fn failed(error: &tokio::task::JoinError) -> Problem {
    Problem::new(Code::Internal, format!("the work was lost: {error}"))
}
