//! Policies and segments: what is in force, its history, validating a set, applying one.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::extract::State;
use curfew_model::{
    Access, EventKind, Mode, PolicyName, Revision, SegmentName, Sensitivity, WallInstant,
};
use curfew_state::{Change, CommitError, Expected, Hash, Owner, PolicyPointer};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{Wait, word};
use crate::{
    Finding, Outcome, Segment, Source, Valid,
    app::{App, Deed},
    caller::{Admin, Viewer},
    compile::{LimitsView, PackError, pack, unpack},
    extract::{Json, Path, Query},
    problem::{Answered, Code, Document, Problem},
    segments::{invalid, sources},
};

/// Files of a set, at most.
const FILES: usize = 1_000;
/// How long a caller who validates waits for others who do.
const TURN: Duration = Duration::from_secs(10);
/// How often a set is checked anew because another owner's changed meanwhile.
const TRIES: u32 = 5;

/// One segment.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Segment)]
pub(super) struct Shown {
    #[schema(value_type = String)]
    name: SegmentName,
    labels: BTreeMap<String, String>,
    /// `low`, `moderate`, `high` or `critical`.
    #[schema(value_type = String)]
    sensitivity: Sensitivity,
    /// `enforce` or `audit`.
    #[schema(value_type = String)]
    mode: Mode,
    /// `policy` or `open`.
    #[schema(value_type = String)]
    access: Access,
    /// Its ceilings.
    limits: LimitsView,
    /// Where it is written: file and line.
    place: Option<String>,
    /// Open sessions that it is the first segment of.
    open: u64,
}

impl Shown {
    fn new(segment: &Segment, open: u64) -> Self {
        let segment = segment.clone();
        Self {
            name: segment.name,
            labels: segment.labels,
            sensitivity: segment.sensitivity,
            mode: segment.mode,
            access: segment.access,
            limits: segment.ceilings.into(),
            place: segment.place,
            open,
        }
    }
}

/// Every segment.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Segments {
    segments: Vec<Shown>,
    /// The revision that they are of.
    #[schema(value_type = u64)]
    revision: Revision,
}

/// Lists segments.
#[utoipa::path(get, path = "/v1/segments", tag = "segments", responses((status = 200, body = Segments)))]
pub(super) async fn segments(State(app): State<Arc<App>>, _: Viewer) -> Answered<Json<Segments>> {
    app.look(|app| {
        let state = app.parts.store.read();
        let valid = app.segments.of(&state, &*app.parts.compile)?;
        let mut open: BTreeMap<SegmentName, u64> = BTreeMap::new();
        for count in app.parts.fleet.open() {
            if let Some(segment) = count.segment {
                *open.entry(segment).or_default() += count.open;
            }
        }
        let count = |segment: &Segment| open.get(&segment.name).copied().unwrap_or(0);
        let shown = valid
            .segments
            .iter()
            .map(|segment| Shown::new(segment, count(segment)));
        Ok(Json(Segments {
            segments: shown.collect(),
            revision: state.revision,
        }))
    })
    .await?
}

/// A set to validate or apply. It replaces all documents of its owner.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSet {
    /// Its files.
    sources: Vec<Source>,
    /// Whose set: `api` if left out, or `files`.
    #[serde(default = "api")]
    #[schema(value_type = Option<String>)]
    owner: Owner,
    /// Only while the state has this revision.
    #[serde(default)]
    #[schema(value_type = Option<u64>)]
    expected_revision: Option<Revision>,
    /// A set without any document is meant.
    #[serde(default)]
    allow_empty: bool,
}

fn api() -> Owner {
    Owner::Api
}

impl NewSet {
    fn check(&self) -> Answered<()> {
        if self.sources.len() > FILES {
            let detail = format!("sources: at most {FILES} files");
            return Err(Problem::new(Code::Invalid, detail));
        }
        Ok(())
    }

    /// These files as the store keeps them.
    fn packed(&self) -> Answered<String> {
        pack(&self.sources).map_err(|error| {
            let code = match error {
                PackError::TooLarge(_) => Code::Invalid,
                PackError::Json(_) => Code::Internal,
            };
            Problem::new(code, error.to_string())
        })
    }

    /// These files beside those of the other owners. Without any document they have to be meant.
    fn whole(&self, app: &App) -> Answered<(Revision, Vec<(Owner, Source)>)> {
        if !self.allow_empty && app.parts.compile.is_empty(&self.sources) {
            let detail = "the set is empty, which would remove every document of its owner: allow_empty, `--allow-empty` on the command line, if that is meant";
            return Err(Problem::new(Code::Invalid, detail));
        }
        let state = app.parts.store.read();
        let mut all = sources(&state, Some(self.owner))?;
        all.extend(
            self.sources
                .iter()
                .cloned()
                .map(|source| (self.owner, source)),
        );
        Ok((state.revision, all))
    }
}

/// What is wrong with a set.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Validated {
    /// Whether it can be applied.
    ok: bool,
    findings: Vec<Finding>,
}

/// Checks a set together with what other owners have in force, and changes nothing.
#[utoipa::path(post, path = "/v1/policies/validate", tag = "policies", request_body = NewSet, responses((status = 200, body = Validated)))]
pub(super) async fn validate(
    State(app): State<Arc<App>>,
    _: Viewer,
    Json(set): Json<NewSet>,
) -> Answered<Json<Validated>> {
    set.check()?;
    // Those who wait for it hold no thread.
    let turn = tokio::time::timeout(TURN, Arc::clone(&app.validating).acquire_owned()).await;
    let Ok(Ok(turn)) = turn else {
        let detail = "other sets are being validated: one at a time";
        return Err(Problem::new(Code::TooManyRequests, detail).retry_after(5));
    };
    app.holding(turn, move |app| {
        set.packed()?;
        let (_, all) = set.whole(app)?;
        let checked = app.parts.compile.validate(&all);
        let (ok, findings) = match checked.and_then(Valid::covering) {
            Ok(valid) => (true, valid.warnings),
            Err(findings) => (false, findings),
        };
        Ok(Json(Validated { ok, findings }))
    })
    .await?
}

/// An applied set.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Applied {
    #[schema(value_type = u64)]
    revision: Revision,
    /// The SHA-256 of the set as it is kept.
    #[schema(value_type = String)]
    hash: Hash,
    warnings: Vec<Finding>,
    /// What each enforcer did.
    enforcers: Vec<Outcome>,
    /// From the arrival of the request until the set was checked, on disk and on record, and every enforcer had answered.
    /// In milliseconds.
    took_ms: f64,
}

/// Applies a set: it replaces all documents of its owner, and live sessions that it concerns are decided again.
#[utoipa::path(post, path = "/v1/policies", tag = "policies", request_body = NewSet, params(Wait),
    responses((status = 200, body = Applied), (status = 409, description = "`conflict`; or `name_taken` by a document of another owner: `findings` says where", body = Document, content_type = "application/problem+json"),
        (status = 422, description = "`policy_invalid`: `findings` lists everything", body = Document, content_type = "application/problem+json")))]
pub(super) async fn apply(
    State(app): State<Arc<App>>,
    Admin(by): Admin,
    Query(wait): Query<Wait>,
    Json(set): Json<NewSet>,
) -> Answered<Json<Applied>> {
    set.check()?;
    let wait = wait.read()?;
    let working = Arc::clone(&app);
    app.finish(async move {
        let app = working;
        let start = app.parts.clock.now();
        let owner = set.owner;
        let content = set.packed()?;
        let hash = Hash::of(content.as_bytes());
        let change = Change::ApplyPolicy {
            owner,
            content: content.into(),
            at: start.wall,
            by: by.source(),
        };
        let set = Arc::new(set);
        let mut tries = 0..TRIES;
        let (revision, enforcers, valid) = loop {
            let checking = Arc::clone(&set);
            let turn = app.applying.acquire().await;
            let (checked_on, valid) = app
                .blocking(move |app| {
                    let (actual, all) = checking.whole(app)?;
                    // Later the state may get there, with sets of other owners that this one was not checked beside.
                    if let Some(expected) = checking.expected_revision
                        && expected != actual
                    {
                        return Err(CommitError::Conflict { expected, actual }.into());
                    }
                    let checked = app.parts.compile.validate(&all);
                    let valid = checked.and_then(Valid::covering).map_err(invalid)?;
                    Ok::<_, Problem>((actual, valid))
                })
                .await??;
            // Enforcers compile it once more, each in its own turn; whoever waits here need not wait for that and the disk.
            drop(turn);
            // What was checked is what is committed: it rests on the sets of the other owners, and on what the caller
            // has seen, if they say so.
            let expected = match set.expected_revision {
                Some(seen) => Expected::State(seen),
                None => Expected::Policies(checked_on),
            };
            let deed = Deed {
                event: EventKind::PolicyApplied,
                by: &by,
                cause: format!("set {hash} of {}", word(owner)),
            };
            match app.change(expected, vec![change.clone()], deed, wait).await {
                Ok((revision, enforcers)) => break (revision, enforcers, valid),
                Err(problem)
                    if problem.code() == Code::Conflict
                        && set.expected_revision.is_none()
                        && tries.next().is_some() => {}
                Err(problem) => return Err(problem),
            }
        };
        Ok(Json(Applied {
            revision,
            hash,
            warnings: valid.warnings,
            enforcers,
            took_ms: app.parts.clock.now().boot.since(start.boot).as_secs_f64() * 1_000.0,
        }))
    })
    .await
}

/// The set of one owner.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InForce {
    /// `files` or `api`.
    #[schema(value_type = String)]
    owner: Owner,
    #[schema(value_type = String)]
    hash: Hash,
    /// Since which revision.
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = String, format = DateTime)]
    at: WallInstant,
    /// Who applied it.
    by: String,
    sources: Vec<Source>,
}

impl InForce {
    fn new(pointer: &PolicyPointer, content: &str) -> Answered<Self> {
        let sources = unpack(content).map_err(|error| {
            let detail = format!("the policy set {} cannot be read: {error}", pointer.hash);
            Problem::new(Code::Internal, detail)
        })?;
        Ok(Self {
            owner: pointer.owner,
            hash: pointer.hash,
            revision: pointer.revision,
            at: pointer.at,
            by: pointer.by.clone(),
            sources,
        })
    }
}

/// What is in force.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Policies {
    /// The set of each owner.
    sets: Vec<InForce>,
    /// Every session policy by name.
    #[schema(value_type = Vec<String>)]
    policies: Vec<PolicyName>,
}

/// Shows the sets in force.
#[utoipa::path(get, path = "/v1/policies", tag = "policies", responses((status = 200, body = Policies)))]
pub(super) async fn list(State(app): State<Arc<App>>, _: Viewer) -> Answered<Json<Policies>> {
    app.look(|app| {
        let state = app.parts.store.read();
        let valid = app.segments.of(&state, &*app.parts.compile)?;
        let sets = state.policies.values();
        let sets: Answered<Vec<_>> = sets
            .map(|(pointer, content)| InForce::new(pointer, content))
            .collect();
        Ok(Json(Policies {
            sets: sets?,
            policies: valid.policies.clone(),
        }))
    })
    .await?
}

/// One application of a set.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Past {
    #[schema(value_type = String)]
    owner: Owner,
    #[schema(value_type = String)]
    hash: Hash,
    #[schema(value_type = u64)]
    revision: Revision,
    #[schema(value_type = String, format = DateTime)]
    at: WallInstant,
    by: String,
}

/// The last applications, the newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct History {
    history: Vec<Past>,
}

/// Shows which sets were applied, when and by whom.
#[utoipa::path(get, path = "/v1/policies/history", tag = "policies", responses((status = 200, body = History)))]
pub(super) async fn history(State(app): State<Arc<App>>, _: Viewer) -> Answered<Json<History>> {
    let state = app.parts.store.read();
    let past = state.policy_history.iter().rev().map(|pointer| Past {
        owner: pointer.owner,
        hash: pointer.hash,
        revision: pointer.revision,
        at: pointer.at,
        by: pointer.by.clone(),
    });
    Ok(Json(History {
        history: past.collect(),
    }))
}

/// Shows a set of the history.
#[utoipa::path(get, path = "/v1/policies/history/{revision}", tag = "policies", params(("revision" = u64, Path)),
    responses((status = 200, body = InForce), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn past(
    State(app): State<Arc<App>>,
    _: Viewer,
    Path(revision): Path<Revision>,
) -> Answered<Json<InForce>> {
    app.look(move |app| {
        let state = app.parts.store.read();
        let mut history = state.policy_history.iter();
        let pointer = history.find(|pointer| pointer.revision == revision);
        let missing = || Problem::not_found("applied policy set of revision", revision);
        let pointer = pointer.ok_or_else(missing)?;
        let content = app.parts.store.policy(pointer.hash);
        let content = content.map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        InForce::new(pointer, &content.ok_or_else(missing)?).map(Json)
    })
    .await?
}
