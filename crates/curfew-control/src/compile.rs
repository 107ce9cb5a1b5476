//! What control needs of the policy compiler, as a trait that the binary implements, and how a set of policy files is
//! kept as one text. Parsing and matching may not live here.

use std::{collections::BTreeMap, time::Duration};

use curfew_model::{Access, Mode, PolicyName, SegmentName, Sensitivity, format_duration};
use curfew_state::{Owner, POLICY_BYTES};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// One policy file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Source {
    /// Its path, as findings and explanations name it.
    pub path: String,
    /// Its documents.
    pub text: String,
}

/// Why the files of one owner cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// They are more than the store takes.
    #[error(
        "the set has {0} bytes as JSON, and {POLICY_BYTES} is the most that is kept: shorten it, or have the other owner, `files` or `api`, keep a part of it"
    )]
    TooLarge(usize),
    /// They cannot be written, which strings always can.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
}

/// Writes the files of one owner as the text that the store keeps.
///
/// # Errors
/// [`PackError`].
pub fn pack(sources: &[Source]) -> Result<String, PackError> {
    let content = serde_json::to_string(sources)?;
    match content.len() {
        0..=POLICY_BYTES => Ok(content),
        bytes => Err(PackError::TooLarge(bytes)),
    }
}

/// Reads what [`pack`] wrote.
///
/// # Errors
/// When it is something else.
pub fn unpack(content: &str) -> Result<Vec<Source>, serde_json::Error> {
    serde_json::from_str(content)
}

/// The policy compiler.
pub trait Compile: Send + Sync {
    /// Reads, checks and compiles the union of what every owner has, as one set. Finds everything in one pass.
    ///
    /// # Errors
    /// Every finding, when at least one is an error.
    fn validate(&self, sources: &[(Owner, Source)]) -> Result<Valid, Vec<Finding>>;

    /// Whether these files hold no document at all, comments and separators aside.
    fn is_empty(&self, sources: &[Source]) -> bool;

    /// Checks an attribute that somebody sets of a subject: that conditions of policies can name it, and read its value.
    ///
    /// # Errors
    /// What is wrong, and what to write.
    fn check_attribute(&self, name: &str, value: &str) -> Result<(), String>;
}

/// A set that compiles.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Valid {
    /// Its segments.
    pub segments: Vec<Segment>,
    /// Its session policies.
    pub policies: Vec<PolicyName>,
    /// What is allowed and probably not meant.
    pub warnings: Vec<Finding>,
    /// An error for each service that it leaves in no segment: what is in force can be shown so, not applied.
    pub uncovered: Vec<Finding>,
}

impl Valid {
    /// Refuses a set that leaves a service in no segment.
    pub(crate) fn covering(self) -> Result<Self, Vec<Finding>> {
        if self.uncovered.is_empty() {
            return Ok(self);
        }
        let Self {
            uncovered,
            warnings,
            ..
        } = self;
        Err(uncovered.into_iter().chain(warnings).collect())
    }
}

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// The set is refused.
    Error,
    /// The set is taken.
    Warning,
}

/// Something about a document.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Finding {
    /// How bad it is.
    pub level: Level,
    /// The file; empty where it is about what no file has.
    pub path: String,
    /// The line, from one; zero for the file as a whole.
    pub line: u64,
    /// The column, from one; zero for the line as a whole.
    pub column: u64,
    /// What is wrong.
    pub message: String,
    /// The line of the source.
    pub excerpt: Option<String>,
    /// What would happen with it.
    pub consequence: Option<String>,
    /// What to do.
    pub help: Option<String>,
    /// Whether it is that another owner has this name.
    #[serde(skip)]
    pub taken: bool,
}

/// A segment as its documents define it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub name: SegmentName,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// How much it matters.
    pub sensitivity: Sensitivity,
    /// Whether its decisions act.
    pub mode: Mode,
    /// What a session needs to be admitted.
    pub access: Access,
    /// The defaults of its sensitivity, replaced by its own limits.
    pub ceilings: Ceilings,
    /// Where it is written: file and line.
    pub place: Option<String>,
}

/// The ceilings of a segment; none where nothing limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ceilings {
    /// From opening to the end.
    pub max_lifetime: Option<Duration>,
    /// Without payload.
    pub idle_timeout: Option<Duration>,
    /// From the subject's last proof.
    pub reauth_every: Option<Duration>,
    /// Open sessions of one subject.
    pub max_concurrent: Option<u32>,
    /// How long before a deadline the client is warned.
    pub warn_before: Option<Duration>,
}

/// The ceilings of a segment, durations written like `15m`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub(crate) struct LimitsView {
    /// From opening to the end.
    max_lifetime: Option<String>,
    /// Without payload.
    idle_timeout: Option<String>,
    /// From the subject's last proof.
    reauth_every: Option<String>,
    /// Open sessions of one subject.
    max_concurrent: Option<u32>,
    /// How long before a deadline the client is warned.
    warn_before: Option<String>,
}

impl From<Ceilings> for LimitsView {
    fn from(limits: Ceilings) -> Self {
        Self {
            max_lifetime: limits.max_lifetime.map(format_duration),
            idle_timeout: limits.idle_timeout.map(format_duration),
            reauth_every: limits.reauth_every.map(format_duration),
            max_concurrent: limits.max_concurrent,
            warn_before: limits.warn_before.map(format_duration),
        }
    }
}
