//! `curfew run`: the process in the foreground, until a signal ends it. Putting it together is the node's.

use std::{
    error::Error,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::AtomicBool,
        mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use clap::Args;
use curfew_enforcer::Scheduling;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde_json::json;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ},
    flag,
    iterator::Signals,
};
use tracing::{error, info, warn};

use crate::{
    cli::{FINDINGS, chain},
    clock::SystemClock,
    log::{Log, LogForm},
    node::{self, Checked, Node, NodeError, Purpose},
    show::Output,
    supervisor::Supervisor,
};

/// How long sessions may finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);
/// After so much of that it is looked whether somebody asked again.
const SLICE: Duration = Duration::from_millis(100);
/// A signal that comes again so soon is the same order.
const ONE_ORDER: Duration = Duration::from_secs(1);
/// Between two looks at the log and at policy that is watched.
const TEND: Duration = Duration::from_secs(1);

/// The arguments of `run`.
#[derive(Debug, Args)]
pub struct Run {
    /// The configuration
    #[arg(
        short,
        long,
        value_name = "FILE",
        default_value = "/etc/curfew/curfew.yaml"
    )]
    config: PathBuf,
    /// Check the configuration and its policy, and start nothing
    #[arg(long)]
    check: bool,
    /// The form of what --check found
    #[arg(long, value_enum, default_value_t, requires = "check")]
    output: Output,
    /// The form of the log on standard error
    #[arg(long, value_enum, default_value_t)]
    log: LogForm,
}

impl Run {
    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let checked = node::check(&self.config, Purpose::Start);
        if self.check {
            return Ok(self.report(checked)?);
        }
        let _log = Log::start(self.log)?;
        let checked = checked?;
        checked
            .warnings
            .iter()
            .for_each(|warning| warn!("{warning}"));
        // Signals are caught before anything is started, so that none ends it halfway.
        let (tell, events) = sync_channel(1);
        signals(tell.clone())?;
        let mut reader = Reader::start(self.config.clone(), tell)?;
        raise_descriptors();
        let mut node = Node::start(checked, Arc::new(SystemClock))?;
        for (service, address) in node.addresses() {
            info!(service, %address, "listening");
        }
        match node.scheduling() {
            Scheduling::RealTime => info!("the deadline thread runs under SCHED_FIFO"),
            ordinary @ Scheduling::Ordinary { .. } => warn!("the deadline thread is {ordinary}"),
        }
        let supervisor = Supervisor::of_this_process();
        supervisor.ready();
        loop {
            // Those that came together ask for the same: a stop, or one reload.
            let first = match events.recv_timeout(supervisor.patience(TEND)) {
                Ok(event) => Some(event),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => Some(Event::Signal(SIGTERM)),
            };
            if first.is_none() {
                reader.look(node.watched());
            }
            let caught: Vec<Event> = first.into_iter().chain(events.try_iter()).collect();
            if caught.iter().any(Event::is_stop) {
                info!(drain_s = DRAIN.as_secs(), "stopping");
                supervisor.stopping();
                drain(&mut node, &events);
                node.stop();
                info!("stopped");
                return Ok(ExitCode::SUCCESS);
            }
            let mut asked = false;
            for event in caught {
                match event {
                    Event::Signal(_) => asked = true,
                    Event::Read(read) => {
                        reader.is_done();
                        asked |= node.policy_changed(read);
                    }
                    Event::Checked(checked) => {
                        reader.is_done();
                        supervisor.vouch(|| reload(&mut node, *checked));
                        supervisor.ready();
                    }
                }
            }
            if reader.check(asked, || node.reloading()) {
                supervisor.reloading();
            }
            node.tend();
            supervisor.alive();
        }
    }

    /// Prints what a check found, and gives the exit code that says so.
    fn report(&self, checked: Result<Checked, NodeError>) -> std::io::Result<ExitCode> {
        let path = self.config.display();
        // What is only warned of keeps nobody from starting with it.
        let (text, found, code) = match checked {
            Ok(checked) => {
                let unbound = checked.unbound();
                let warnings: Vec<&String> = checked.warnings.iter().chain(&unbound).collect();
                let shown: String = warnings.iter().map(|text| format!("{text}\n\n")).collect();
                let text = format!("{shown}{path}: usable; warnings {}\n", warnings.len());
                let found = json!({"usable": true, "warnings": warnings, "error": null});
                (text, found, ExitCode::SUCCESS)
            }
            Err(error) => {
                let why = chain(&error);
                let found = json!({"usable": false, "warnings": [], "error": why});
                let text = format!("{why}\n{path}: NOT usable\n");
                (text, found, ExitCode::from(FINDINGS))
            }
        };
        self.output.show(&found, |_| text)?;
        Ok(code)
    }
}

/// Takes policy and bindings anew; what is not usable changes nothing.
fn reload(node: &mut Node, checked: Result<Checked, NodeError>) {
    match node.reload(checked) {
        Ok(done) => {
            info!(revision = %done.revision, closed = done.closed, "reloaded");
            if done.restart_needed {
                warn!(
                    "data_dir, services, control or audit of the configuration changed: restart for that"
                );
            }
        }
        Err(error) => error!(
            "not reloaded, the policy before stays in force: {}",
            chain(&error)
        ),
    }
}

/// Lets sessions finish, until somebody who asked for the stop asks once more. At once that may be the same order: it is
/// sent to a process and to its group.
fn drain(node: &mut Node, events: &Receiver<Event>) {
    node.take_nobody();
    for slice in 1..=DRAIN.as_millis() / SLICE.as_millis() {
        if node.drain(SLICE) {
            return;
        }
        let again = events.try_iter().any(|event| event.is_stop());
        if again && slice * SLICE.as_millis() >= ONE_ORDER.as_millis() {
            info!("a second signal: what has not finished ends now");
            return;
        }
    }
}

/// What the process waits for.
enum Event {
    /// A signal came.
    Signal(i32),
    /// The policy's files were read, to see whether they changed.
    Read(Result<String, NodeError>),
    /// The configuration was read and checked.
    Checked(Box<Result<Checked, NodeError>>),
}

impl Event {
    fn is_stop(&self) -> bool {
        matches!(self, Self::Signal(signal) if *signal != SIGHUP)
    }
}

/// What is to be read.
enum Ask {
    /// The policy's files, to see whether they changed.
    Look(PathBuf),
    /// The configuration with everything that it names.
    Check(Purpose),
}

/// Reads on a thread of its own, one thing after the other: files take the time that they take, and a stop does not wait
/// for them.
struct Reader {
    ask: Sender<Ask>,
    reading: bool,
    /// A check is wanted that has not begun.
    wanted: bool,
}

impl Reader {
    fn start(config: PathBuf, tell: SyncSender<Event>) -> std::io::Result<Self> {
        let (ask, asked) = channel();
        thread::Builder::new()
            .name("reader".to_owned())
            .spawn(move || {
                for ask in asked {
                    let event = match ask {
                        Ask::Look(policy) => Event::Read(node::packed(&policy)),
                        Ask::Check(purpose) => {
                            Event::Checked(Box::new(node::check(&config, purpose)))
                        }
                    };
                    if tell.send(event).is_err() {
                        return;
                    }
                }
            })?;
        Ok(Self {
            ask,
            reading: false,
            wanted: false,
        })
    }

    /// What was asked for last is read.
    fn is_done(&mut self) {
        self.reading = false;
    }

    /// Reads the files of a policy that is watched, unless something is being read.
    fn look(&mut self, policy: Option<&Path>) {
        if let (false, Some(policy)) = (self.reading, policy) {
            self.reading = self.ask.send(Ask::Look(policy.to_owned())).is_ok();
        }
    }

    /// Begins a check, if one is asked for or still wanted: after what is being read, which may be older. Whether it did.
    fn check(&mut self, asked: bool, purpose: impl FnOnce() -> Purpose) -> bool {
        self.wanted |= asked;
        let begins = self.wanted && !self.reading;
        if begins {
            self.wanted = false;
            self.reading = self.ask.send(Ask::Check(purpose())).is_ok();
        }
        begins
    }
}

/// A session takes two descriptors, and the limit that processes start with is for those that use `select`. What stays
/// too low shows as clients that wait.
fn raise_descriptors() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        warn!(
            current = %plain(current),
            maximum = %plain(maximum),
            "the limit of open files stays as it is, and half of it are sessions: {error}"
        );
    }
}

/// A limit of the system as a number, where there is one.
fn plain(limit: Option<u64>) -> String {
    limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string())
}

/// The signals that this process serves, as they come: a stricter policy closes at once.
fn signals(tell: SyncSender<Event>) -> std::io::Result<()> {
    let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT])?;
    // A file that may not grow is an error where it is written, like a full disk, and does not end the process.
    flag::register(SIGXFSZ, Arc::new(AtomicBool::default()))?;
    // What comes while the channel is full is kept by the handler, once of each.
    thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            for signal in signals.forever() {
                if tell.send(Event::Signal(signal)).is_err() {
                    return;
                }
            }
        })?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_plain_numbers() {
        assert_eq!(plain(Some(1_024)), "1024");
        assert_eq!(plain(None), "unlimited");
    }
}
