//! The demo as plain lines: what happened, one line each. Nothing is decided here.

use std::{
    io::{self, Write},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use super::show::{Line, Show, Tone};

/// Between two looks.
const TICK: Duration = Duration::from_millis(40);

/// Who drives the demo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// Its story, until that is over.
    Story,
    /// People with other terminals, until a signal.
    People,
}

/// Plays until it is over or a signal came.
///
/// # Errors
/// When the lines can be written nowhere.
pub fn play(
    show: &mut Show,
    driver: Driver,
    stopping: &AtomicBool,
    out: &mut impl Write,
) -> io::Result<()> {
    loop {
        let goes_on = match driver {
            Driver::Story => show.play(),
            Driver::People => {
                show.keep_busy();
                true
            }
        };
        show.observe();
        for line in show.take_lines() {
            writeln!(out, "{}", text(&line))?;
        }
        out.flush()?;
        if !goes_on || stopping.load(Ordering::Acquire) {
            return Ok(());
        }
        thread::park_timeout(TICK);
    }
}

/// A line with its time and what it is about.
pub fn text(line: &Line) -> String {
    let at = format!("{:6.1}s", line.at.as_secs_f64());
    match line.tone {
        Tone::Story => format!("{at}  · {}", line.text),
        tone => format!("{at}  {:<8} {}", word(tone), line.text),
    }
}

/// What a line is about, in a word.
pub fn word(tone: Tone) -> &'static str {
    match tone {
        Tone::Story => "·",
        Tone::Order => "order",
        Tone::Opened => "opened",
        Tone::Ended => "ended",
        Tone::Refused => "refused",
        Tone::Trouble => "trouble",
    }
}
