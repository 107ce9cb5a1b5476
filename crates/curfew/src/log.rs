//! The log for operators on standard error, written by a thread of its own: a reader that takes nothing more keeps
//! nobody, neither who ends sessions nor who serves signals. What is said may not live here.

use std::{
    io::{self, Write as _},
    sync::Arc,
    time::Duration,
};

use clap::ValueEnum;
use tracing::warn;

use crate::outlet::Outlet;

/// Lines that may wait to be written.
const WAITING: usize = 16_384;
/// How long the last lines may take.
const FLUSH: Duration = Duration::from_secs(1);

/// The form of the log.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum LogForm {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// The log. When this is dropped, what was said is written, if somebody takes it.
pub struct Log(Arc<Outlet<Vec<u8>>>);

impl Log {
    /// Has everything that is said from now on written in this form.
    ///
    /// # Errors
    /// The kernel's, when no thread is left.
    pub fn start(form: LogForm) -> io::Result<Self> {
        let lines = Outlet::start("log", WAITING, |line: Vec<u8>, left_out| {
            say_left_out(left_out);
            // One that cannot be written is lost.
            let _ = io::stderr().write_all(&line);
        })?;
        let lines = Arc::new(lines);
        let to = Arc::clone(&lines);
        let builder = tracing_subscriber::fmt()
            .with_writer(move || Line(Arc::clone(&to)))
            .with_target(false);
        match form {
            LogForm::Text => builder.init(),
            LogForm::Json => builder.json().init(),
        }
        Ok(Self(lines))
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.0.flush(FLUSH);
    }
}

/// Says that there was no room for lines, if there was none.
pub fn say_left_out(lines: u64) {
    if lines > 0 {
        warn!(
            lines,
            "lines of this log were left out: they came faster than they could be written; \
             what ended sessions is in the audit log"
        );
    }
}

/// The way of one line, which comes as a whole.
struct Line(Arc<Outlet<Vec<u8>>>);

impl io::Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.hand(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
