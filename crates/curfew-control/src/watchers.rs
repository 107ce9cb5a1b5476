//! One thread reads the bus and hands session events to everyone who watches. A watcher that is too slow loses events
//! and is told how many; it makes nobody wait.

use std::{
    io,
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use curfew_model::{Identity, SegmentName};
use curfew_state::{Bus, EnforcerEvent, Message, Received};
use serde::Serialize;
use tokio::sync::broadcast;

use crate::shares::{Share, Shares};

/// Events that wait for the slowest watcher.
const QUEUE: usize = 4_096;
/// Watchers, at most.
const WATCHERS: usize = 64;
/// Of one token.
const OF_TOKEN: usize = 16;
/// How often the thread looks whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// What a watcher gets.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    Event(Arc<Watched>),
    /// So many were lost on the bus.
    Lost(u64),
}

/// An event, written once for all watchers.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) json: String,
    pub(crate) segments: Vec<SegmentName>,
    pub(crate) subject: Option<Identity>,
}

impl Watched {
    fn new(event: &EnforcerEvent) -> Option<Self> {
        #[derive(Serialize)]
        struct Wire<'a> {
            enforcer: &'a curfew_model::EnforcerId,
            enforcer_seq: u64,
            #[serde(flatten)]
            event: &'a curfew_model::Event,
        }
        let kind = serde_json::to_value(event.event.event).ok()?;
        let kind = kind.as_str()?.to_owned();
        let json = serde_json::to_string(&Wire {
            enforcer: &event.enforcer,
            enforcer_seq: event.seq,
            event: &event.event,
        });
        kind.starts_with("session.").then_some(())?;
        Some(Self {
            kind,
            id: format!("{}:{}", event.enforcer, event.seq),
            json: json.ok()?,
            segments: event.event.segments.clone(),
            subject: event.event.subject.clone(),
        })
    }
}

/// The thread and its watchers. Dropping it stops the thread.
pub(crate) struct Hub {
    sender: broadcast::Sender<Told>,
    watching: Shares,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Hub {
    pub(crate) fn start(bus: &dyn Bus) -> io::Result<Self> {
        let (sender, _) = broadcast::channel(QUEUE);
        let stop = Arc::new(AtomicBool::new(false));
        let capacity = NonZeroUsize::new(QUEUE).unwrap_or(NonZeroUsize::MIN);
        let mut subscription = bus.subscribe(capacity);
        let thread = std::thread::Builder::new()
            .name("watch".to_owned())
            .spawn({
                let (sender, stop) = (sender.clone(), Arc::clone(&stop));
                move || {
                    while !stop.load(Ordering::Acquire) {
                        let told = match subscription.next(LOOK) {
                            Some(Received::Message(message)) => match &*message {
                                Message::Event(event) => {
                                    Watched::new(event).map(Arc::new).map(Told::Event)
                                }
                                _ => None,
                            },
                            Some(Received::Lost(lost)) => Some(Told::Lost(lost)),
                            None => None,
                        };
                        if let Some(told) = told {
                            // Nobody watches: nothing is lost.
                            let _ = sender.send(told);
                        }
                    }
                }
            })?;
        Ok(Self {
            sender,
            watching: Shares::new(WATCHERS, OF_TOKEN),
            stop,
            thread: Some(thread),
        })
    }

    /// Everything from now on, for whoever holds this token; none when too many watch, or too many with this token.
    pub(crate) fn watch(&self, token: &str) -> Option<(broadcast::Receiver<Told>, Share)> {
        let place = self.watching.take(token)?;
        Some((self.sender.subscribe(), place))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // A panic there has ended the watching; there is nobody to hand it to here.
            let _ = thread.join();
        }
    }
}
