//! `curfew audit`: tail, verify and export a log's directory, and its head or that of a running server. Writing a log may
//! not happen here.

use std::{
    error::Error,
    io::{self, IsTerminal as _, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Args, Subcommand};
use curfew_audit::{Digest, Head, KeyFrom, Known, Report, Truncation};
use serde_json::json;

use crate::{
    cli::{FINDINGS, number},
    client::{Call, Connect},
    sessions,
    show::{Output, Reading, clean, escaped, out, text},
};

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Audit {
    /// Print the last records
    Tail(Tail),
    /// Prove that no record was altered, dropped or moved, in a log or in an export of one
    Verify(Verify),
    /// Print the newest signed head, to be kept elsewhere
    Head(Newest),
    /// Print every record, oldest first, as the JSON lines that are on disk; there is no other form
    Export {
        /// The log's directory
        dir: PathBuf,
        /// The first record's number
        #[arg(long, value_name = "SEQ", default_value_t = 1, value_parser = number(1..=u64::MAX))]
        from: u64,
    },
}

/// The arguments of `audit tail`.
#[derive(Debug, Args)]
pub struct Tail {
    /// The log's directory
    dir: PathBuf,
    /// How many records
    #[arg(short = 'n', long, default_value_t = 10, value_parser = number(0..=usize::MAX))]
    lines: usize,
    /// The form of the records: lines for people, JSON lines, or YAML documents [default: table on a terminal, else json]
    #[arg(long, value_enum)]
    output: Option<Output>,
}

/// The arguments of `audit head`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  curfew audit head > head.json
  curfew audit verify data/audit --head head.json

As a table it is the one line of JSON that is on disk; `verify --head` takes that and `--output json`.
A server signs its head when it is asked. A directory holds that of the last write, and those of starts, ends and segments.")]
pub struct Newest {
    /// The log's directory [default: the running server is asked]
    dir: Option<PathBuf>,
    /// The form of the head
    #[arg(long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    connect: Connect,
}

/// The arguments of `audit verify`.
#[derive(Debug, Args)]
pub struct Verify {
    /// The log's directory, or a file that `audit export` made
    log: PathBuf,
    /// A head exported earlier, as a file; without one, records cut off the end are not found
    #[arg(long, value_name = "FILE")]
    head: Option<PathBuf>,
    /// The public key that the log has to be signed with: the `key` of a head
    /// [default: that of the head, else of `audit.key` beside the log]
    #[arg(long, value_name = "PUBLIC")]
    key: Option<Digest>,
    /// The form of the report
    #[arg(long, value_enum, default_value_t)]
    output: Output,
}

impl Audit {
    /// Carries the subcommand out.
    ///
    /// # Errors
    /// When the log cannot be read, or standard output is gone.
    pub fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        match self {
            Self::Tail(tail) => tail.run(),
            Self::Head(newest) => newest.run(),
            Self::Export { dir, from } => {
                there_is_a_log(&dir)?;
                print_lines(curfew_audit::export(&dir, from)?)
            }
            Self::Verify(verify) => verify.run(),
        }
    }
}

/// An empty folder proves nothing.
fn there_is_a_log(dir: &Path) -> Result<(), Box<dyn Error>> {
    if curfew_audit::is_log(dir)? {
        return Ok(());
    }
    let inside = dir.join("audit");
    let help = if inside.is_dir() && curfew_audit::is_log(&inside)? {
        format!("did you mean {}?", inside.display())
    } else {
        "name the folder `audit` in the data directory of the server".to_owned()
    };
    Err(format!("there is no audit log in {}; {help}", dir.display()).into())
}

fn print_lines(
    lines: impl Iterator<Item = Result<String, curfew_audit::AuditError>>,
) -> Result<ExitCode, Box<dyn Error>> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    for line in lines {
        written = writeln!(out, "{}", line?);
        if written.is_err() {
            break;
        }
    }
    match written.and_then(|()| out.flush()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other?,
    }
    Ok(ExitCode::SUCCESS)
}

impl Tail {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        there_is_a_log(&self.dir)?;
        let reading = Reading::here();
        let output = self.output.unwrap_or(if io::stdout().is_terminal() {
            Output::Table
        } else {
            Output::Json
        });
        for line in curfew_audit::tail(&self.dir, self.lines)? {
            if out(&self.shown(output, &line, &reading)?)?.is_break() {
                break;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn shown(
        &self,
        output: Output,
        line: &str,
        reading: &Reading,
    ) -> Result<String, Box<dyn Error>> {
        if output == Output::Json {
            // In the order in which it was written.
            return Ok(escaped(line) + "\n");
        }
        let dir = self.dir.display();
        let record = serde_json::from_str(line).map_err(|error| {
            format!("a line in {dir} is no record: {error}; run `curfew audit verify {dir}`")
        })?;
        Ok(output.one_of_many(&record, |record| {
            let words = sessions::event_words(record, reading);
            format!("{}  {words}\n", clean(&text(record, "seq")))
        })?)
    }
}

impl Newest {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let head = match &self.dir {
            Some(dir) => {
                there_is_a_log(dir)?;
                let none = || format!("no head was signed in {} yet", dir.display());
                curfew_audit::newest_head(dir)?.ok_or_else(none)?
            }
            None => self.ask()?,
        };
        let shown = serde_json::to_value(&head)?;
        self.output.show(&shown, |_| format!("{head}\n"))?;
        Ok(ExitCode::SUCCESS)
    }

    fn ask(&self) -> Result<Head, Box<dyn Error>> {
        let answer = self.connect.client()?.send(&Call::get("/v1/audit/head"))?;
        let head: Head = serde_json::from_value(answer)
            .map_err(|error| format!("what the server answered is no head: {error}"))?;
        if !head.is_signed() {
            return Err(
                "the signature of the head that the server answered is wrong: it proves nothing"
                    .into(),
            );
        }
        Ok(head)
    }
}

impl Verify {
    fn run(self) -> Result<ExitCode, Box<dyn Error>> {
        let head = self.head.map(read_head).transpose()?;
        let is_export = self.log.is_file();
        if head.is_none() && !is_export {
            // With a head, a log that is gone is a finding.
            there_is_a_log(&self.log)?;
        }
        let report = if is_export {
            curfew_audit::verify_export(&self.log, head.as_ref(), self.key)?
        } else {
            curfew_audit::verify(&self.log, head.as_ref(), self.key)?
        };
        self.output.show(&as_json(&report), |_| words(&report))?;
        Ok(if report.is_ok() {
            ExitCode::SUCCESS
        } else {
            ExitCode::from(FINDINGS)
        })
    }
}

fn read_head(path: PathBuf) -> Result<Head, Box<dyn Error>> {
    let text = std::fs::read_to_string(&path)
        .map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    Ok(text
        .trim()
        .parse::<Head>()
        .map_err(|error| format!("{}: {error}", path.display()))?)
}

fn words(report: &Report) -> String {
    let mut lines: Vec<String> = report.findings.iter().map(ToString::to_string).collect();
    if report.more > 0 {
        lines.push(format!("and {} more", report.more));
    }
    let mut verdict = "the log does NOT verify".to_owned();
    if report.is_ok() {
        "nothing was altered, dropped or moved".clone_into(&mut verdict);
        if unsigned_after(report).is_some() {
            verdict += ", as far as it is signed";
        }
        if report.key.is_some() && report.known.is_none() {
            verdict += ", if the key is the log's own";
        }
    }
    lines.push(format!("{} records: {verdict}", report.records));
    lines.extend(extent(report));
    lines.push(truncation(report));
    if report.lost > 0 {
        lines.push(format!(
            "the log itself says that {} records were lost before they could be written",
            report.lost
        ));
    }
    if report.enforcer_gaps > 0 {
        let (events, are) = match report.enforcer_gaps {
            1 => ("event", "is"),
            _ => ("events", "are"),
        };
        lines.push(format!(
            "{} {events} {are} missing from the enforcers' own counts",
            report.enforcer_gaps
        ));
    }
    lines.join("\n") + "\n"
}

/// Where the log begins and ends, and whose it is.
fn extent(report: &Report) -> impl Iterator<Item = String> {
    let ends = report.first.zip(report.last.as_ref());
    let extent = ends.map(|(first, (last, _))| {
        let before = match first {
            1 => "",
            _ => "; nothing is said of those before",
        };
        format!("from record {first} to record {last}{before}")
    });
    let signed = match (report.key, report.known) {
        (Some(key), Some(known)) => format!("signed with the key {key}, that of {}", origin(known)),
        (Some(key), None) => format!(
            "signed with the key {key}: whoever can write the log's files can have written it anew as a whole with a key \
             of their own; compare it with the key of `curfew audit head`, asked of the running server or kept elsewhere, \
             or give that one with --key"
        ),
        (None, Some(known)) => {
            format!("no signature in it is of the key {}, that of {}", known.key, origin(known))
        }
        (None, None) => "no signature is in it: that it was not written anew as a whole shows only against a head exported \
                 earlier, with --head"
            .to_owned(),
    };
    let unsigned = unsigned_after(report).map(|through| {
        let signed = match through {
            0 => "no record is signed".to_owned(),
            _ => format!("signed up to record {through}: those after it carry no signature"),
        };
        format!("{signed}, so whoever writes the log's files can have written them")
    });
    let missing = report.newest_missing.then(|| {
        "newest.json is missing, which names the last record that was signed: which one it was cannot be told".to_owned()
    });
    extent
        .into_iter()
        .chain([signed])
        .chain(unsigned)
        .chain(missing)
}

/// Where the key was learnt that the log is held against.
fn origin(known: Known) -> &'static str {
    match known.from {
        KeyFrom::Given => "--key",
        KeyFrom::Head => "the given head",
        KeyFrom::File => "audit.key",
    }
}

/// The last record that is signed, of a log that goes on behind it.
fn unsigned_after(report: &Report) -> Option<u64> {
    let (last, _) = report.last?;
    let through = report.signed_through.unwrap_or(0);
    (report.key.is_some() && through < last).then_some(through)
}

fn truncation(report: &Report) -> String {
    match report.truncation {
        Truncation::HeadOutdated { head, last } => format!(
            "the given head names record {head}, which is not there any more, and proves nothing of those that are: \
             truncation after record {last} cannot be excluded; give a newer head"
        ),
        Truncation::ExcludedThrough(seq) => {
            format!("nothing up to record {seq} was cut off: the given head names it")
        }
        Truncation::NotExcludedAfter(seq) => {
            // Of a log that does not verify a head helps no further.
            let help = match report.is_ok() {
                true => ": give a head exported earlier with --head",
                false => "",
            };
            format!("truncation after record {seq} cannot be excluded{help}")
        }
    }
}

fn as_json(report: &Report) -> serde_json::Value {
    let findings: Vec<_> = report
        .findings
        .iter()
        .map(|finding| {
            let place = &finding.place;
            json!({"file": place.file, "line": place.line, "seq": place.seq, "problem": finding.problem.to_string()})
        })
        .collect();
    json!({
        "ok": report.is_ok(),
        "records": report.records,
        "first": report.first,
        "last": report.last.as_ref().map(|(seq, hash)| json!({"seq": seq, "hash": hash})),
        "key": report.key,
        "held_against": report.known.map(|known| json!({"key": known.key, "from": origin(known)})),
        "newest_missing": report.newest_missing,
        "signed_through": report.signed_through,
        "findings": findings,
        "more": report.more,
        "truncation": truncation(report),
        "lost": report.lost,
        "enforcer_gaps": report.enforcer_gaps,
    })
}
