//! Draws the demo: two panes of the same clients, what happened, and the keys. It knows no terminal and changes nothing.

use std::time::Duration;

use curfew_model::EndReason;
use ratatui::{
    Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Style, Stylize},
    text::{Line as Text, Span},
    widgets::{Block, Cell, Paragraph, Row as Cells, Table},
};

use super::{
    cast::Wish,
    plain,
    row::{Row, Standing, bytes, time},
    show::{Line, Tone},
};

/// From this width on both panes name their clients.
const WIDE: u16 = 112;
/// From this width on there are two panes, of which the left names the clients; below, one with both.
const MEDIUM: u16 = 80;
/// From this width on the one pane shows what was read through Curfew too.
const ROOMY: u16 = 70;
/// What the right pane needs without the clients' names.
const RIGHT: u16 = 48;
/// What a client's name needs, with the mark before it.
const NAME: u16 = 21;
/// How far in a line goes on below.
const INDENT: usize = 18;
/// A lease that has less left is shown as about to end.
const SOON: Duration = Duration::from_secs(5);

/// What is drawn.
pub struct Picture<'a> {
    pub rows: &'a [Row],
    pub lines: &'a [Line],
    /// The row that `c` and `e` act on.
    pub selected: usize,
    pub age: Duration,
    pub server: &'a str,
    pub killed: bool,
    /// Whether somebody pressed a key, so that the story stopped.
    pub touched: bool,
}

/// Draws it all.
pub fn draw(frame: &mut Frame<'_>, picture: &Picture<'_>) {
    let count = u16::try_from(picture.rows.len()).unwrap_or(u16::MAX);
    let [head, panes, log, keys] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(count.saturating_add(3)),
        Constraint::Min(0),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(heading(picture, head.width), head);
    if panes.width >= MEDIUM {
        let names = (panes.width >= WIDE).then_some(NAME);
        let right = RIGHT + names.map_or(0, |room| room + 1);
        let sides = [Constraint::Min(0), Constraint::Length(right)];
        let [left, right] = Layout::horizontal(sides).areas(panes);
        frame.render_widget(direct_pane(picture, panes.width), left);
        frame.render_widget(curfew_pane(picture, names), right);
    } else {
        frame.render_widget(both(picture, panes.width), panes);
    }
    log_pane(frame, picture, log);
    frame.render_widget(key_line(picture, keys.width), keys);
}

fn heading(picture: &Picture<'_>, width: u16) -> Text<'static> {
    let control = if picture.killed {
        Span::from("control plane: dead").red().bold()
    } else {
        Span::from("control plane: up").green()
    };
    let seconds = picture.age.as_secs();
    let mut spans = vec![
        Span::from(" Curfew ").bold().reversed(),
        Span::from(format!(" {:02}:{:02}  ", seconds / 60, seconds % 60)),
        control,
    ];
    if width >= WIDE {
        spans.push(Span::from(format!("  {}", picture.server)).dim());
        spans.push(
            "  Each client is connected twice. Curfew ends sessions on time."
                .to_owned()
                .dim(),
        );
    }
    Text::from(spans)
}

/// Where there is little room, the colour alone says how the connection is.
fn direct_pane(picture: &Picture<'_>, width: u16) -> Table<'static> {
    let words = width >= WIDE;
    let rows = picture.rows.iter().enumerate().map(|(index, row)| {
        let (word, style) = direct(row);
        let read = right(row.direct.map_or(String::new(), bytes)).style(style);
        let name = Cell::from(marked(picture, index, row));
        let word = words.then(|| Cell::from(word).style(style));
        Cells::new([name, read].into_iter().chain(word)).style(faded(row))
    });
    let word = words.then_some(Constraint::Fill(1));
    let widths = [Constraint::Length(NAME), Constraint::Length(8)];
    Table::new(rows, widths.into_iter().chain(word))
        .header(Cells::new(["  client", "    read"]).dim())
        .block(Block::bordered().title(" connected directly "))
}

/// `names` is the room for the clients' names; without it the rows are those of the left pane.
fn curfew_pane(picture: &Picture<'_>, names: Option<u16>) -> Table<'static> {
    let rows = picture.rows.iter().enumerate().map(|(index, row)| {
        let (word, style) = standing(row);
        let name = names.map(|_| Cell::from(marked(picture, index, row)));
        let rest = [
            Cell::from(row.sensitivity()),
            right(through(row)),
            Cell::from(word).style(style),
        ];
        Cells::new(name.into_iter().chain(rest)).style(faded(row))
    });
    let rest = [
        Constraint::Length(8),
        Constraint::Length(8),
        Constraint::Fill(1),
    ];
    let head = ["segment", "    read", "time left, or why it ended"];
    Table::new(rows, names.map(Constraint::Length).into_iter().chain(rest))
        .header(Cells::new(names.map(|_| "  client").into_iter().chain(head)).dim())
        .block(Block::bordered().title(" the same clients through Curfew "))
}

/// Where there is very little room, what was read through Curfew is left out before any word is cut.
fn both(picture: &Picture<'_>, width: u16) -> Table<'static> {
    let roomy = width >= ROOMY;
    let rows = picture.rows.iter().enumerate().map(|(index, row)| {
        let (word, style) = standing(row);
        let (_, direct_style) = direct(row);
        let name = Cell::from(marked(picture, index, row));
        let read = right(row.direct.map_or(String::new(), bytes)).style(direct_style);
        let through = roomy.then(|| right(through(row)));
        let word = Cell::from(word).style(style);
        let cells = [name, read].into_iter().chain(through).chain([word]);
        Cells::new(cells).style(faded(row))
    });
    let number = Constraint::Length(8);
    let widths = [Constraint::Length(NAME), number]
        .into_iter()
        .chain(roomy.then_some(number))
        .chain([Constraint::Fill(1)]);
    let head = ["  client", "  direct"]
        .into_iter()
        .chain(roomy.then_some("  curfew"))
        .chain(["time left, or why it ended"]);
    Table::new(rows, widths)
        .header(Cells::new(head).dim())
        .block(Block::bordered().title(" directly, and through Curfew "))
}

fn marked(picture: &Picture<'_>, index: usize, row: &Row) -> String {
    let mark = if index == picture.selected {
        '▸'
    } else {
        ' '
    };
    format!("{mark} {}", row.name())
}

fn through(row: &Row) -> String {
    match row.standing {
        Standing::Away => String::new(),
        _ => bytes(row.bytes),
    }
}

/// A client that has not come yet is there, but barely.
fn faded(row: &Row) -> Style {
    match row.standing {
        Standing::Away => Style::new().dim(),
        _ => Style::new(),
    }
}

fn right(text: String) -> Cell<'static> {
    Cell::from(Text::from(text).right_aligned())
}

/// The direct connection in a word.
fn direct(row: &Row) -> (&'static str, Style) {
    match (row.direct, row.direct_gone, row.part.wish) {
        (None, ..) => ("", Style::new()),
        (_, true, _) => ("closed", Style::new().dim()),
        (_, _, Wish::Stream) => ("reading", Style::new().fg(Color::Green)),
        (_, _, Wish::Quiet) => ("open", Style::new().fg(Color::Green)),
    }
}

/// The session in a few words.
fn standing(row: &Row) -> (String, Style) {
    match &row.standing {
        Standing::Away => (String::new(), Style::new()),
        Standing::Arriving => ("…".to_owned(), Style::new()),
        Standing::Open(None) => ("no limit".to_owned(), Style::new().fg(Color::Green)),
        Standing::Open(Some((left, reason))) => {
            let color = if *left < SOON {
                Color::Yellow
            } else {
                Color::Green
            };
            let idle = match reason {
                EndReason::IdleTimeout => ", idle",
                _ => "",
            };
            (format!("{}{idle}", time(*left)), Style::new().fg(color))
        }
        Standing::Ended(reason, measured) => {
            let took = measured.map_or(String::new(), |measured| format!(" {}", measured.short()));
            (
                format!("{reason}{took}"),
                Style::new().fg(Color::Red).bold(),
            )
        }
        Standing::Refused(reason) => (
            format!("refused: {reason}"),
            Style::new().fg(Color::Magenta),
        ),
    }
}

fn log_pane(frame: &mut Frame<'_>, picture: &Picture<'_>, area: Rect) {
    let block = Block::bordered().title(" what happened ");
    let inside = block.inner(area);
    let width = usize::from(inside.width).max(1);
    let texts: Vec<Text<'static>> = picture
        .lines
        .iter()
        .flat_map(|line| lines(line, width))
        .collect();
    let hidden = texts.len().saturating_sub(usize::from(inside.height));
    let shown: Vec<Text<'static>> = texts.into_iter().skip(hidden).collect();
    frame.render_widget(Paragraph::new(shown).block(block), area);
}

/// A line as it is drawn: too long, it goes on below, further in.
fn lines(line: &Line, width: usize) -> Vec<Text<'static>> {
    let style = match line.tone {
        Tone::Story => Style::new().fg(Color::Cyan),
        Tone::Order => Style::new().bold(),
        Tone::Opened => Style::new().fg(Color::Green),
        Tone::Ended => Style::new().fg(Color::Red),
        Tone::Refused => Style::new().fg(Color::Magenta),
        Tone::Trouble => Style::new().fg(Color::Yellow),
    };
    let whole = plain::text(line);
    let mut drawn = Vec::new();
    let mut now = String::new();
    for word in whole.split_inclusive(' ') {
        if now.chars().count() + word.trim_end().chars().count() > width && !now.trim().is_empty() {
            drawn.push(Text::styled(std::mem::take(&mut now), style));
            now = " ".repeat(INDENT.min(width / 4));
        }
        now.push_str(word);
    }
    drawn.push(Text::styled(now, style));
    drawn
}

fn key_line(picture: &Picture<'_>, width: u16) -> Text<'static> {
    let mut keys = vec![
        ("r", "revoke alice"),
        ("t", "tighten"),
        ("c", "cancel"),
        ("e", "explain"),
        ("k", "kill control"),
        ("q", "quit"),
    ];
    if width >= WIDE {
        keys.insert(2, ("↑↓", "choose"));
    }
    let mut spans = Vec::new();
    for (key, what) in keys {
        spans.push(Span::from(format!(" {key} ")).bold().reversed());
        spans.push(Span::from(format!(" {what} ")));
    }
    if width >= WIDE && !picture.touched {
        spans.push(Span::from(" untouched, it plays itself").dim());
    }
    Text::from(spans)
}
