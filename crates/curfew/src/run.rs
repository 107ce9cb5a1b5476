//! `curfew run`: the process in the foreground, until a signal ends it. Putting it together is the node's.

use std::{error::Error, path::PathBuf, process::ExitCode, sync::Arc, thread, time::Duration};

use clap::{Args, ValueEnum};
use curfew_enforcer::Scheduling;
use signal_hook::{
    consts::{SIGHUP, SIGINT, SIGTERM},
    iterator::Signals,
};
use tracing::{error, info, warn};

use crate::{
    cli::{FINDINGS, chain},
    clock::SystemClock,
    config,
    node::{self, Node},
};

/// How long sessions may finish after SIGTERM.
const DRAIN: Duration = Duration::from_secs(10);
/// Between two looks at the log and the control plane.
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
    /// The form of the log on standard error
    #[arg(long, value_enum, default_value_t)]
    log: LogForm,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogForm {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

impl Run {
    /// Runs until a signal ends it.
    ///
    /// # Errors
    /// Why it does not start.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let checked = config::load(&self.config)
            .map_err(Box::<dyn Error>::from)
            .and_then(|config| node::check(config).map_err(Box::from));
        if self.check {
            return Ok(self.report(checked));
        }
        start_log(self.log);
        let checked = checked?;
        checked
            .warnings
            .iter()
            .for_each(|warning| warn!("{warning}"));
        // Signals are caught before anything is started, so that none ends it halfway.
        let mut signals = Signals::new([SIGHUP, SIGTERM, SIGINT])?;
        let mut node = Node::start(checked, Arc::new(SystemClock))?;
        for (service, address) in node.addresses() {
            info!(service, %address, "listening");
        }
        match node.scheduling() {
            Scheduling::RealTime => info!("the deadline thread runs under SCHED_FIFO"),
            ordinary @ Scheduling::Ordinary { .. } => warn!("the deadline thread is {ordinary}"),
        }
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
        loop {
            for signal in signals.pending() {
                if signal != SIGHUP {
                    info!(drain_s = DRAIN.as_secs(), "stopping");
                    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
                    node.stop(DRAIN);
                    return Ok(ExitCode::SUCCESS);
                }
                self.reload(&mut node);
            }
            if node.policy_changed() {
                self.reload(&mut node);
            }
            node.tend();
            thread::park_timeout(TEND);
        }
    }

    fn report(&self, checked: Result<node::Checked, Box<dyn Error>>) -> ExitCode {
        let path = self.config.display();
        match checked {
            Ok(checked) => {
                checked
                    .warnings
                    .iter()
                    .for_each(|warning| println!("{warning}\n"));
                println!("{path}: usable; warnings {}", checked.warnings.len());
                if checked.warnings.is_empty() {
                    ExitCode::SUCCESS
                } else {
                    ExitCode::from(FINDINGS)
                }
            }
            Err(error) => {
                println!("{}\n{path}: NOT usable", chain(&*error));
                ExitCode::from(FINDINGS)
            }
        }
    }

    /// Takes policy and bindings anew; what is not usable changes nothing.
    fn reload(&self, node: &mut Node) {
        let reloaded = config::load(&self.config)
            .map_err(Box::<dyn Error>::from)
            .and_then(|config| node::check(config).map_err(Box::from))
            .and_then(|checked| node.reload(checked).map_err(Box::from));
        match reloaded {
            Ok(done) => {
                info!(revision = %done.revision, closed = done.closed, "reloaded");
                if done.restart_needed {
                    warn!("services or control of the configuration changed: restart for that");
                }
            }
            Err(error) => error!(
                "not reloaded, the policy before stays in force: {}",
                chain(&*error)
            ),
        }
    }
}

fn start_log(form: LogForm) {
    let builder = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_target(false);
    match form {
        LogForm::Text => builder.init(),
        LogForm::Json => builder.json().init(),
    }
}
