//! The audit log: its last records, its signed head, its verification.

use std::{path::Path, sync::Arc};

use axum::{
    extract::State,
    http::header,
    response::{IntoResponse, Response},
};
use curfew_audit::{AuditError, Digest, Finding, Head, Report, Truncation};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::{IntoParams, ToSchema};

use super::page;
use crate::{
    app::App,
    caller::Viewer,
    extract::{Json, Query},
    problem::{Answered, Code, Document, Problem},
};

/// How often a line that is not whole is read again.
const AGAIN: usize = 3;

/// How many records.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Tail {
    /// 1 to 1000; 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// The last records.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Records {
    /// As they are on disk, the oldest first.
    #[schema(value_type = Vec<Object>)]
    records: Vec<Box<RawValue>>,
}

/// Shows the last records.
#[utoipa::path(get, path = "/v1/audit", tag = "audit", params(Tail), responses((status = 200, body = Records)))]
pub(super) async fn tail(
    State(app): State<Arc<App>>,
    _: Viewer,
    Query(tail): Query<Tail>,
) -> Answered<Json<Records>> {
    let limit = page(tail.limit)?;
    let lines = app
        .look(move |app| curfew_audit::tail(&app.audit_dir, limit))
        .await?
        .map_err(unreadable)?;
    let records: Result<Vec<_>, _> = lines.into_iter().map(RawValue::from_string).collect();
    let records = records.map_err(|error| {
        let detail = format!("a record is not JSON: {error}; verify the log");
        Problem::new(Code::Internal, detail)
    })?;
    Ok(Json(Records { records }))
}

/// Shows the place that the log has reached, signed: keep it elsewhere, and truncation is found against it.
#[utoipa::path(get, path = "/v1/audit/head", tag = "audit", responses((status = 200, body = Object)))]
pub(super) async fn head(State(app): State<Arc<App>>, _: Viewer) -> Answered<Response> {
    let head = app.parts.journal.head(app.wall()).to_string();
    Ok(([(header::CONTENT_TYPE, "application/json")], head).into_response())
}

/// What to verify against.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Against {
    /// A head exported earlier.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    head: Option<Head>,
}

/// Something wrong at a place.
#[derive(Debug, Serialize, ToSchema)]
struct Wrong {
    file: String,
    /// From one; zero for the file as a whole.
    line: u64,
    /// The record, where it is known.
    seq: Option<u64>,
    problem: String,
}

/// What verification found.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Verified {
    /// Nothing was altered, dropped or moved.
    ok: bool,
    records: u64,
    first: Option<u64>,
    last: Option<u64>,
    findings: Vec<Wrong>,
    /// Findings that are not listed.
    more: u64,
    /// The server's own key, which the heads are signed with; none where it signed no head that is there.
    key: Option<String>,
    /// Whether the file of the newest head is missing, which a log always has.
    newest_missing: bool,
    /// The last record that a signed head names: those after it, whoever writes the files can have written.
    signed_through: Option<u64>,
    /// Up to this record nothing was cut off: the given head names it.
    whole_through: Option<u64>,
    /// Truncation after this record cannot be excluded.
    unknown_after: Option<u64>,
    /// Records that the log itself says it lost.
    lost: u64,
    /// Events missing from the enforcers' own counts.
    enforcer_gaps: u64,
}

impl From<Report> for Verified {
    fn from(report: Report) -> Self {
        let (whole_through, unknown_after) = match report.truncation {
            Truncation::ExcludedThrough(seq) => (Some(seq), None),
            Truncation::NotExcludedAfter(seq) | Truncation::HeadOutdated { last: seq, .. } => {
                (None, Some(seq))
            }
        };
        let wrong = report.findings.iter().map(|finding| Wrong {
            file: finding.place.file.clone(),
            line: finding.place.line,
            seq: finding.place.seq,
            problem: finding.problem.to_string(),
        });
        Self {
            ok: report.is_ok(),
            records: report.records,
            first: report.first,
            last: report.last.map(|(seq, _)| seq),
            findings: wrong.collect(),
            more: report.more,
            key: report.key.map(|key| key.to_string()),
            newest_missing: report.newest_missing,
            signed_through: report.signed_through,
            whole_through,
            unknown_after,
            lost: report.lost,
            enforcer_gaps: report.enforcer_gaps,
        }
    }
}

/// Verifies the whole log on the server. Who does not trust the server verifies an export elsewhere:
/// `curfew audit export DIR > FILE` beside the server, then `curfew audit verify FILE --head HEAD`.
#[utoipa::path(post, path = "/v1/audit/verify", tag = "audit", request_body = Against,
    responses((status = 200, body = Verified), (status = 429, body = Document, content_type = "application/problem+json")))]
pub(super) async fn verify(
    State(app): State<Arc<App>>,
    _: Viewer,
    Json(against): Json<Against>,
) -> Answered<Json<Verified>> {
    let Ok(turn) = Arc::clone(&app.verifying).try_acquire_owned() else {
        let detail = "the log is being verified: one at a time";
        return Err(Problem::new(Code::TooManyRequests, detail).retry_after(5));
    };
    app.holding(turn, move |app| {
        // Not that of the file, which whoever writes the log's files may have replaced.
        let key = app.parts.journal.head(app.wall()).key;
        read_whole(&app.audit_dir, against.head.as_ref(), key)
    })
    .await?
    .map(|report| Json(Verified::from(report)))
    .map_err(unreadable)
}

/// Verifies a log that is being written: a last line that is not whole yet is read again.
fn read_whole(dir: &Path, head: Option<&Head>, key: Digest) -> Result<Report, AuditError> {
    let mut report = curfew_audit::verify(dir, head, Some(key))?;
    for _ in 0..AGAIN {
        let torn = |finding: &Finding| finding.problem == curfew_audit::Problem::Torn;
        if !report.findings.iter().any(torn) {
            break;
        }
        report = curfew_audit::verify(dir, head, Some(key))?;
    }
    Ok(report)
}

fn unreadable(error: AuditError) -> Problem {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}"));
    let detail = format!("{error}{}", cause.unwrap_or_default());
    Problem::new(Code::Internal, detail)
}
