//! The demo on a terminal: its keys and its frames. The terminal is given back as it was, whatever happens.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::{
    row::{Row, Standing},
    show::{Action, Line, Show},
    view::{self, Picture},
};

/// The longest time between two frames.
const FRAME: Duration = Duration::from_millis(60);
/// Lines that stay on the screen at most.
const LINES: usize = 100;

/// Gives the terminal back when dropped; a panic does so too, by the hook that came with it.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        ratatui::restore();
    }
}

/// Plays until it is over, a signal came, or somebody quits.
///
/// # Errors
/// When the terminal does not do what it has to.
pub fn play(show: &mut Show, stopping: &AtomicBool) -> io::Result<()> {
    let mut terminal = ratatui::try_init()?;
    let _restored = Restored;
    let mut lines: Vec<Line> = Vec::new();
    let (mut selected, mut touched) = (0, false);
    while !stopping.load(Ordering::Acquire) {
        if touched {
            show.keep_busy();
        } else if !show.play() {
            return Ok(());
        }
        show.observe();
        lines.extend(show.take_lines());
        lines.drain(..lines.len().saturating_sub(LINES));
        let picture = Picture {
            rows: &show.rows,
            lines: &lines,
            selected,
            age: show.age(),
            server: show.server(),
            killed: show.killed(),
            touched,
        };
        terminal.draw(|frame| view::draw(frame, &picture))?;
        if !event::poll(FRAME)? {
            continue;
        }
        let Event::Key(key) = event::read()? else {
            continue;
        };
        match pressed(key, &show.rows, selected) {
            Some(Pressed::Quit) => return Ok(()),
            Some(Pressed::Choose(row)) => selected = row,
            Some(Pressed::Act(action)) => {
                touched = true;
                show.act(action);
            }
            None => {}
        }
    }
    Ok(())
}

/// What a key means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pressed {
    Quit,
    Choose(usize),
    Act(Action),
}

fn pressed(key: KeyEvent, rows: &[Row], selected: usize) -> Option<Pressed> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    let control = key.modifiers.contains(KeyModifiers::CONTROL);
    let last = rows.len().saturating_sub(1);
    Some(match key.code {
        KeyCode::Char('c' | 'd') if control => Pressed::Quit,
        KeyCode::Char('q') | KeyCode::Esc => Pressed::Quit,
        KeyCode::Char('r') => Pressed::Act(Action::Revoke),
        KeyCode::Char('t') => Pressed::Act(Action::Tighten),
        KeyCode::Char('c') => Pressed::Act(Action::Cancel(meant(rows, selected))),
        KeyCode::Char('e') => Pressed::Act(Action::Explain(meant(rows, selected))),
        KeyCode::Char('k') => Pressed::Act(Action::Kill),
        KeyCode::Up => Pressed::Choose(selected.saturating_sub(1)),
        KeyCode::Down => Pressed::Choose(selected.saturating_add(1).min(last)),
        _ => return None,
    })
}

/// The chosen row if it has an open session, else the next one that has.
fn meant(rows: &[Row], selected: usize) -> usize {
    let is_open = |row: &Row| matches!(row.standing, Standing::Open(_));
    let from = |start: usize| {
        let mut rest = rows.iter().enumerate().skip(start);
        rest.find_map(|(index, row)| is_open(row).then_some(index))
    };
    from(selected).or_else(|| from(0)).unwrap_or(selected)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::cast::PARTS;

    #[test]
    fn keys_act_on_a_session_that_is_open() {
        let mut rows: Vec<Row> = PARTS.iter().map(|part| Row::new(*part)).collect();
        rows[3].standing = Standing::Open(None);
        let press = |code| pressed(KeyEvent::new(code, KeyModifiers::NONE), &rows, 5);
        let cancel = Some(Pressed::Act(Action::Cancel(3)));
        assert_eq!(press(KeyCode::Char('c')), cancel);
        assert_eq!(press(KeyCode::Down), Some(Pressed::Choose(6)));
        assert_eq!(press(KeyCode::Char('x')), None);
        let control_c = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(pressed(control_c, &rows, 0), Some(Pressed::Quit));
    }
}
