//! The demo's picture on terminals of several sizes.
#![cfg(test)]

use std::time::Duration;

use curfew_model::EndReason;
use ratatui::{Terminal, backend::TestBackend};

use super::{
    cast::PARTS,
    row::{Measured, Row, Standing},
    show::{Line, Tone},
    view::{Picture, draw},
};

/// The screen's text, a line for each row.
fn screen(width: u16, height: u16) -> String {
    let mut rows: Vec<Row> = PARTS.iter().map(|part| Row::new(*part)).collect();
    for row in &mut rows {
        row.direct = Some(1_234_567);
        row.bytes = 45_600;
    }
    let took = Measured::AfterOrder(Duration::from_micros(1_340));
    rows[0].standing = Standing::Ended(EndReason::SubjectRevoked, Some(took));
    let idle = (Duration::from_millis(4_200), EndReason::IdleTimeout);
    rows[1].standing = Standing::Open(Some(idle));
    rows[2].standing = Standing::Refused(EndReason::SubjectRevoked);
    let late = Measured::AtDoor(Duration::from_micros(123_400));
    rows[10].standing = Standing::Ended(EndReason::ControlPlaneLost, Some(late));
    let lifetime = (Duration::from_secs(7_260), EndReason::LifetimeExpired);
    rows[3].standing = Standing::Open(Some(lifetime));
    let line = |text: &str| Line {
        at: Duration::from_millis(15_200),
        tone: Tone::Order,
        text: text.to_owned(),
    };
    let lines = [line("long ago"), line("revoke alice: matched 3, closed 3")];
    let picture = Picture {
        rows: &rows,
        lines: &lines,
        selected: 1,
        age: Duration::from_secs(75),
        server: "http://127.0.0.1:7171",
        killed: true,
        touched: true,
    };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, &picture)).unwrap();
    let buffer = terminal.backend().buffer();
    let line = |y| -> String { (0..width).map(|x| buffer[(x, y)].symbol()).collect() };
    (0..height)
        .map(|y| format!("{}\n", line(y).trim_end()))
        .collect()
}

/// The one line of the screen with this text.
fn line_with<'a>(screen: &'a str, part: &str) -> &'a str {
    let mut found = screen.lines().filter(|line| line.contains(part));
    let line = found
        .next()
        .unwrap_or_else(|| panic!("no {part:?} in\n{screen}"));
    assert_eq!(found.next(), None, "{part:?} twice in\n{screen}");
    line
}

#[test]
fn a_wide_terminal_shows_two_panes() {
    let screen = screen(120, 30);
    let head = line_with(&screen, "connected directly");
    assert!(head.contains("the same clients through Curfew"), "{screen}");
    let revoked = line_with(&screen, "subject_revoked +1.3 ms");
    assert!(
        revoked.contains("alice → wiki") && revoked.contains("1.2 MB reading"),
        "{screen}"
    );
    assert!(line_with(&screen, "4.2 s, idle").contains("▸ alice → orders-db"));
    assert!(line_with(&screen, "refused: subject_revoked").contains("critical"));
    assert!(line_with(&screen, "2 h 01 min").contains("bob → wiki"));
    assert!(line_with(&screen, "control plane: dead").contains("01:15"));
    line_with(&screen, "revoke alice: matched 3, closed 3");
    line_with(&screen, "kill control");
}

#[test]
fn two_panes_fit_a_terminal_of_eighty_columns() {
    let screen = screen(80, 24);
    let revoked = line_with(&screen, "subject_revoked +1.3 ms");
    assert!(revoked.contains("alice → wiki"), "{screen}");
    line_with(&screen, "refused: subject_revoked");
    let longest = line_with(&screen, "control_plane_lost +123.4 ms");
    assert!(longest.contains("erin → payments-db"), "{screen}");
    line_with(&screen, " q  quit");
}

#[test]
fn a_narrow_terminal_shows_both_in_one() {
    let screen = screen(72, 24);
    let revoked = line_with(&screen, "subject_revoked +1.3 ms");
    assert!(
        revoked.contains("1.2 MB") && revoked.contains("45.6 kB"),
        "{screen}"
    );
    line_with(&screen, "directly, and through Curfew");
    line_with(&screen, "revoke alice: matched 3, closed 3");
}

#[test]
fn a_very_narrow_terminal_cuts_no_reason() {
    let screen = screen(60, 20);
    line_with(&screen, "refused: subject_revoked");
    line_with(&screen, "subject_revoked +1.3 ms");
}

#[test]
fn a_tiny_terminal_breaks_nothing() {
    for (width, height) in [(1, 1), (20, 5), (99, 3), (100, 2), (300, 100)] {
        screen(width, height);
    }
}
