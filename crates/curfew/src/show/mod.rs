//! What is printed: tables for people, JSON and YAML for programs. Nothing that a server said reaches a terminal raw.
//! Asking a server may not live here.

mod field;
mod table;
mod time;
mod yaml;

use std::{
    io::{self, Write as _},
    ops::ControlFlow,
};

use clap::ValueEnum;
use curfew_model::steers;
use serde_json::Value;

pub use curfew_model::{clean, clean_lines};
pub use field::{count, flag, items, list, name, scope, text};
pub use table::{Side, Table, cut, pairs};
pub use time::Reading;

/// The form of what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people: times as they are read here.
    #[default]
    Table,
    /// For programs: times in UTC.
    Json,
    /// The same as YAML.
    Yaml,
}

impl Output {
    /// Prints an answer: as it is for programs, and as `table` words it for people.
    ///
    /// # Errors
    /// When standard output does not take it.
    pub fn show(self, answer: &Value, table: impl FnOnce(&Value) -> String) -> io::Result<()> {
        let text = match self {
            Self::Table => table(answer),
            Self::Json => json(answer)?,
            Self::Yaml => yaml::written(answer),
        };
        // There is nothing after it that a closed pipe would stop.
        let _ = out(&text)?;
        Ok(())
    }

    /// One of many documents that follow each other: a line for people, a line of JSON, or a YAML document.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn one_of_many(
        self,
        value: &Value,
        line: impl FnOnce(&Value) -> String,
    ) -> io::Result<String> {
        Ok(match self {
            Self::Table => line(value),
            Self::Json => escaped(&serde_json::to_string(value)?) + "\n",
            Self::Yaml => format!("---\n{}", yaml::written(value)),
        })
    }
}

/// JSON over several lines.
fn json(value: &Value) -> io::Result<String> {
    Ok(escaped(&serde_json::to_string_pretty(value)?) + "\n")
}

/// JSON leaves some characters as they are that steer terminals; they stand in strings only, where this means the same.
#[must_use]
pub fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut units = [0; 2];
    for character in json.chars() {
        if steers(character) && character != '\n' {
            for unit in character.encode_utf16(&mut units) {
                text.push_str(&format!("\\u{unit:04x}"));
            }
        } else {
            text.push(character);
        }
    }
    text
}

/// Writes to standard output and says whether anybody still reads it: a closed pipe is no error.
///
/// # Errors
/// When it cannot be written for another reason.
pub fn out(text: &str) -> io::Result<ControlFlow<()>> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(ControlFlow::Break(())),
        other => other.map(|()| ControlFlow::Continue(())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_form_prints_what_steers_a_terminal() {
        let value =
            json!({"a": "\u{1b}[2J\u{9b}1m\u{7f}\u{202e}x\n\u{e0001}", "\u{1b}": [1, null, true]});
        for text in [
            json(&value).unwrap(),
            yaml::written(&value),
            Output::Json.one_of_many(&value, |_| String::new()).unwrap(),
        ] {
            assert!(!text.chars().any(|c| steers(c) && c != '\n'), "{text:?}");
        }
        assert_eq!(
            serde_json::from_str::<Value>(&json(&value).unwrap()).unwrap(),
            value
        );
        assert_eq!(
            serde_saphyr::from_str::<Value>(&yaml::written(&value)).unwrap(),
            value
        );
    }
}
