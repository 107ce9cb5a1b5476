//! `curfew policy`: validate documents, offline. How a decision is explained, and what goes through the API, is next
//! door.

mod explain;

use std::{error::Error, path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use curfew_model::{Clock as _, Revision};
use curfew_policy::{Place, PolicySet, Problem, Severity, compile, load};
use serde_json::json;

use crate::{
    applied,
    cli::FINDINGS,
    clock::SystemClock,
    show::Output,
    sources::{self, Source, SourceError, Sources},
};

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Policy {
    /// Check documents: every problem is found in one pass
    Validate(Validate),
    /// Say how a session would be decided, and why
    Explain(Box<explain::Explain>),
    /// Put documents in force, through the API
    Apply(applied::Apply),
    /// Show which sets were applied, when and by whom, through the API
    History(applied::History),
}

/// The arguments of `policy validate`.
#[derive(Debug, Args)]
pub struct Validate {
    /// A policy file, or a folder of them
    path: PathBuf,
    /// The form of the report
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

/// An attribute as it is written. Whether there is one of that name is for others.
pub fn attribute(text: &str) -> Result<(String, String), String> {
    let (name, value) = text
        .split_once('=')
        .ok_or("write it like subject.risk=low")?;
    Ok((name.to_owned(), value.to_owned()))
}

impl Policy {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// When the documents cannot be read.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        match self {
            Self::Validate(validate) => validate.run(),
            Self::Explain(explain) => explain.run(),
            Self::Apply(apply) => apply.run(),
            Self::History(history) => history.run(),
        }
    }
}

/// A set, or why there is none, and the warnings about it.
pub fn compiled(sources: &[Source], revision: Revision) -> (Option<PolicySet>, Vec<Problem>) {
    compiled_without(&[], sources, revision)
}

/// The same, where further sources could not be read: there is none.
pub fn compiled_without(
    unread: &[SourceError],
    sources: &[Source],
    revision: Revision,
) -> (Option<PolicySet>, Vec<Problem>) {
    let mut loaded = load(
        sources
            .iter()
            .map(|(name, text)| (name.as_str(), text.as_str())),
    );
    unread
        .iter()
        .for_each(|error| loaded.unread(error.problem()));
    let mut problems = loaded.problems;
    // Names across documents are checked too where single documents are wrong already: one pass finds all.
    let set = match compile(loaded.documents, revision) {
        Ok(set) => {
            problems.extend(set.vain());
            problems.extend(set.astray());
            Some(set)
        }
        Err(more) => {
            problems.extend(more);
            None
        }
    };
    problems.sort_by(|a, b| a.place.cmp(&b.place));
    let wrong = problems
        .iter()
        .any(|problem| problem.severity == Severity::Error);
    (set.filter(|_| !wrong), problems)
}

impl Validate {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let sources = match sources::read(&self.path) {
            Err(error) if error.is_finding() => Sources {
                unread: vec![error],
                ..Sources::default()
            },
            other => other?,
        };
        let files = sources.read.len() + sources.unread.len();
        let (set, mut problems) = compiled_without(&sources.unread, &sources.read, Revision(0));
        let now = SystemClock.now().wall;
        problems.extend(set.iter().flat_map(|set| set.over(now)));
        let packed = sources::pack(&sources.read);
        let place = Place::whole(self.path.display().to_string());
        let too_large = packed.as_ref().err();
        problems.extend(too_large.map(|error| Problem::error(&place, error.to_string())));
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        let valid = set.is_some() && packed.is_ok();
        let answer = json!({"valid": valid, "problems": as_json(&problems)});
        self.output.show(&answer, |_| {
            let mut text = String::new();
            for problem in &problems {
                text.push_str(&format!("{problem}\n\n"));
            }
            let summary = summary(valid, files, &problems);
            text + &format!("{}: {summary}\n", self.path.display())
        })?;
        // What is only warned of keeps nobody from using the set.
        Ok(match valid {
            true => ExitCode::SUCCESS,
            false => ExitCode::from(FINDINGS),
        })
    }
}

fn summary(valid: bool, files: usize, problems: &[Problem]) -> String {
    let errors = problems
        .iter()
        .filter(|problem| problem.severity == Severity::Error)
        .count();
    let warnings = problems.len() - errors;
    let verdict = if valid { "valid" } else { "NOT valid" };
    format!("{verdict}; files {files}, errors {errors}, warnings {warnings}")
}

/// Problems as scripts read them.
pub fn as_json(problems: &[Problem]) -> Vec<serde_json::Value> {
    let one = |problem: &Problem| {
        json!({
            "file": &*problem.place.file,
            "line": problem.place.line,
            "column": problem.place.column,
            "severity": problem.severity.to_string(),
            "message": problem.message,
            "excerpt": problem.place.excerpt.as_deref(),
            "consequence": problem.consequence,
            "help": problem.help,
        })
    };
    problems.iter().map(one).collect()
}
