//! Aligned columns and lists of names with values. Cells are cleaned on their way in, so that nothing in a table can
//! steer a terminal or break a line.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::clean;

/// Columns that a cell may take, except in the last column.
const WIDEST: usize = 64;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Words.
    Left,
    /// Numbers.
    Right,
}

/// Rows under heads.
#[derive(Clone, Debug)]
pub struct Table<const COLUMNS: usize> {
    heads: [(&'static str, Side); COLUMNS],
    rows: Vec<[String; COLUMNS]>,
}

impl<const COLUMNS: usize> Table<COLUMNS> {
    /// A table without rows.
    #[must_use]
    pub fn new(heads: [(&'static str, Side); COLUMNS]) -> Self {
        Self {
            heads,
            rows: Vec::new(),
        }
    }

    /// One more row.
    pub fn row(&mut self, cells: [String; COLUMNS]) {
        let mut place = 0;
        self.rows.push(cells.map(|cell| {
            place += 1;
            let cell = clean(&cell);
            match cell.as_str() {
                "" => "-".to_owned(),
                _ if place == COLUMNS => cell,
                _ => cut(&cell, WIDEST),
            }
        }));
    }

    /// The table with a line break after each line; without rows, the words that say so.
    #[must_use]
    pub fn written(&self, nothing: &str) -> String {
        if self.rows.is_empty() {
            return format!("{nothing}\n");
        }
        let mut widths = self.heads.map(|(head, _)| head.width());
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.width().max(*width);
            }
        }
        let heads = self.heads.map(|(head, _)| head.to_owned());
        let mut text = String::new();
        for row in std::iter::once(&heads).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, side)) in row.iter().zip(widths).zip(self.heads) {
                let space = " ".repeat(width.saturating_sub(cell.width()));
                match side {
                    Side::Left => line.extend([cell, space.as_str(), "  "]),
                    Side::Right => line.extend([space.as_str(), cell, "  "]),
                }
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// A line of at most so many columns; what does not fit ends with a dot-dot-dot.
#[must_use]
pub fn cut(line: &str, columns: usize) -> String {
    if line.width() <= columns {
        return line.to_owned();
    }
    let mut short = String::new();
    let mut width = 1;
    for character in line.chars() {
        width += character.width().unwrap_or(0);
        if width > columns {
            break;
        }
        short.push(character);
    }
    short + "…"
}

/// Names and values, one a line; what has no value is left out.
#[must_use]
pub fn pairs<'a>(pairs: impl IntoIterator<Item = (&'a str, String)>) -> String {
    let pairs: Vec<_> = pairs
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    let width = pairs.iter().map(|(name, _)| name.width()).max();
    let width = width.unwrap_or(0);
    let line = |(name, value): &(&str, String)| format!("{name:width$}  {}\n", clean(value));
    pairs.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other() {
        let mut table = Table::new([
            ("NAME", Side::Left),
            ("OPEN", Side::Right),
            ("WHY", Side::Left),
        ]);
        table.row(["名前".to_owned(), "7".to_owned(), "a\nb".to_owned()]);
        table.row(["x".repeat(70), "12345".to_owned(), String::new()]);
        let wide = "x".repeat(63);
        let space = " ".repeat(60);
        assert_eq!(
            table.written("none"),
            format!("NAME{space}   OPEN  WHY\n名前{space}      7  a\\nb\n{wide}…  12345  -\n")
        );
        assert_eq!(
            Table::new([("A", Side::Left)]).written("no sessions"),
            "no sessions\n"
        );
    }

    #[test]
    fn pairs_leave_out_what_is_not_there() {
        let text = pairs([
            ("id", "1".to_owned()),
            ("reason", String::new()),
            ("client", "\u{1b}c".to_owned()),
        ]);
        assert_eq!(text, "id      1\nclient  \\u{1b}c\n");
    }
}
