//! What is wrong with documents: where, what, what would happen, and what to do, each in one line that steers no terminal
//! and no log, whatever the documents hold. Finding it happens elsewhere.

use std::{fmt, sync::Arc};

use curfew_model::clean;

/// Whether a set with this problem can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, and does something that is probably not meant.
    Warning,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

/// A place in a source: its name as given, line and column counted from one; zero is the source as a whole. Whoever
/// knows a place can show its line.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file's name, as it was given.
    pub file: Arc<str>,
    /// The line.
    pub line: u64,
    /// The column, in characters.
    pub column: u64,
    /// The line's text, without what steers a terminal; none for the source as a whole.
    pub excerpt: Option<Arc<str>>,
}

impl Place {
    /// A source as a whole.
    #[must_use]
    pub fn whole(file: impl Into<Arc<str>>) -> Self {
        Self {
            file: file.into(),
            ..Self::default()
        }
    }

    /// For keeping: without the text.
    pub(crate) fn bare(&self) -> Self {
        Self {
            excerpt: None,
            ..self.clone()
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&clean(&self.file)),
            line => write!(f, "{}:{line}:{}", clean(&self.file), self.column),
        }
    }
}

/// One thing that is wrong with documents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// How bad.
    pub severity: Severity,
    /// What.
    pub message: String,
    /// What would happen with it.
    pub consequence: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// Where the name that stands here was given before, where that is the problem.
    pub taken: Option<Place>,
}

impl Problem {
    /// An error at a place.
    #[must_use]
    pub fn error(place: &Place, message: impl Into<String>) -> Self {
        Self {
            place: place.clone(),
            severity: Severity::Error,
            message: clean(&message.into()),
            consequence: None,
            help: None,
            taken: None,
        }
    }

    /// An error where something is given that was given before.
    #[must_use]
    pub(crate) fn twice(place: &Place, what: impl fmt::Display, first: &Place) -> Self {
        let message = format!("{what} given twice; the first is at {first}");
        Self {
            taken: Some(first.bare()),
            ..Self::error(place, message)
        }
    }

    /// A warning at a place.
    #[must_use]
    pub fn warning(place: &Place, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Warning,
            ..Self::error(place, message)
        }
    }

    /// With what would happen otherwise.
    #[must_use]
    pub fn or_else(mut self, consequence: impl Into<String>) -> Self {
        self.consequence = Some(clean(&consequence.into()));
        self
    }

    /// With what to do.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(clean(&help.into()));
        self
    }

    /// With the word that is probably meant, in place of other help, where one is near.
    #[must_use]
    pub(crate) fn meant(self, near: Option<&str>) -> Self {
        match near {
            Some(near) => self.help(format!("did you mean `{near}`?")),
            None => self,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.place, self.severity, self.message)?;
        if let Some(excerpt) = &self.place.excerpt {
            let line = self.place.line.to_string();
            let gutter = " ".repeat(line.len());
            // Tabs keep their width, so that the caret stands under its character.
            let before: String = excerpt
                .chars()
                .take(usize::try_from(self.place.column.saturating_sub(1)).unwrap_or(usize::MAX))
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            write!(f, "\n  {line} | {excerpt}\n  {gutter} | {before}^")?;
        }
        if let Some(consequence) = &self.consequence {
            write!(f, "\n  = otherwise: {consequence}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  = help: {help}")?;
        }
        Ok(())
    }
}

/// The known word nearest to `word`, if it is near enough to be a slip.
#[must_use]
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |candidate: &&str| distance(word, candidate);
    let best = known.into_iter().min_by_key(near)?;
    (distance(word, best) <= 1 + best.chars().count() / 4).then_some(best)
}

/// Edits between two words, upper and lower case alike; long words are cut, as no slip is that long.
fn distance(one: &str, other: &str) -> usize {
    let one: Vec<char> = one.to_lowercase().chars().take(64).collect();
    let other: Vec<char> = other.to_lowercase().chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut next = vec![i + 1];
        let mut left = i + 1;
        for ((b, above), diagonal) in other.iter().zip(row.iter().skip(1)).zip(&row) {
            left = (left + 1)
                .min(above + 1)
                .min(diagonal + usize::from(a != b));
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised() {
        assert_eq!(
            nearest("maxLifetme", ["maxLifetime", "idleTimeout"]),
            Some("maxLifetime")
        );
        assert_eq!(
            nearest("max_lifetime", ["maxLifetime", "idleTimeout"]),
            Some("maxLifetime")
        );
        assert_eq!(nearest("colour", ["maxLifetime", "idleTimeout"]), None);
        assert_eq!(distance("kitten", "sitting"), 3);
    }
}
