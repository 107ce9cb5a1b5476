//! `curfew demo`: live traffic with and without Curfew, side by side, in one process. Whatever it shows is real: the
//! node, its policy files, its API, its log. Nothing here may do what the node should.

mod cast;
mod observe;
mod operator;
mod plain;
mod record;
mod row;
mod screen;
mod script;
mod service;
mod show;
mod site;
mod summary;
mod view;
#[cfg(test)]
mod view_tests;
mod wire;

use std::{
    error::Error,
    io::{self, IsTerminal, Write},
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use clap::Args;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::{
    cli::{FINDINGS, number},
    clock::SystemClock,
};
use plain::Driver;
use show::Show;

/// How long the story plays if nobody says, in seconds.
const STORY: u64 = 60;
/// The same for policy that people look at in other terminals.
const KEPT: u64 = 600;

/// The arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Plain lines, on a terminal too
    #[arg(long)]
    plain: bool,
    /// Stay up, and print what to try in another terminal
    #[arg(long)]
    keep: bool,
    /// How long the story takes; lifetimes in its policy are parts of it [default: 60, with --keep 600]
    #[arg(long, value_parser = number(6..=86_400_u64))]
    seconds: Option<u64>,
}

impl Demo {
    /// Plays the demo.
    ///
    /// # Errors
    /// What could not be started, or shown.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        // Signals are caught before anything is started, so that none ends it halfway.
        let stopping = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&stopping))?;
        }
        let seconds = self.seconds.unwrap_or(if self.keep { KEPT } else { STORY });
        let mut show = Show::start(Duration::from_secs(seconds), Arc::new(SystemClock))?;
        let mut out = io::stdout();
        let on_screen = !self.plain && !self.keep && out.is_terminal() && io::stdin().is_terminal();
        let played = if on_screen {
            screen::play(&mut show, &stopping)
        } else {
            let driver = if self.keep {
                invite(&show, &mut out)?;
                Driver::People
            } else {
                Driver::Story
            };
            plain::play(&mut show, driver, &stopping, &mut out)
        };
        let (tally, folder) = show.stop();
        played?;
        let summary = summary::of(&tally, &folder.path().join("data").join(crate::node::AUDIT))?;
        out.write_all(summary.text.as_bytes())?;
        Ok(if summary.verifies {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FINDINGS)
        })
    }
}

/// What to try from another terminal.
fn invite(show: &Show, out: &mut impl Write) -> io::Result<()> {
    let curfew = std::env::current_exe().unwrap_or_else(|_| "curfew".into());
    let (curfew, log, token) = (curfew.display(), show.site.log(), show.site.token());
    let at = format!(
        "--server {} --token-file {}",
        show.server(),
        token.display()
    );
    writeln!(out, "Curfew is up; Ctrl-C ends it. In another terminal:\n")?;
    for command in [
        "sessions list",
        "sessions explain ID",
        "sessions cancel ID",
        "top",
        "revoke --user alice --reason \"left the company\" --wait 5s",
        "revocations list",
    ] {
        writeln!(out, "  {curfew} {command} {at}")?;
    }
    for command in ["tail", "verify"] {
        writeln!(out, "  {curfew} audit {command} {}", log.display())?;
    }
    writeln!(out)
}
