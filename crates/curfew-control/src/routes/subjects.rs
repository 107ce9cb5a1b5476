//! Subjects: what is known of them apart from their bindings. List, set, forget.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use axum::extract::State;
use curfew_model::{EventKind, Issuer, Kind};
use curfew_state::{Change, Expected, Subject, SubjectKey};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Changed, Wait, bindings::is_name, devices_unseen, named, page};
use crate::{
    Compile,
    app::{App, Deed},
    caller::{Admin, Caller, Viewer},
    extract::{Json, Query},
    problem::{Answered, Code, Document, Problem},
};

/// Groups or attributes of one subject, at most.
const ENTRIES: usize = 256;
/// Bytes of the groups of one: there may be very many subjects and bindings.
const BYTES: usize = 8 * 1024;

/// Groups as they are kept: sorted, each once.
pub(super) fn groups(mut groups: Vec<String>) -> Answered<Vec<String>> {
    let bytes: usize = groups.iter().map(String::len).sum();
    if groups.len() > ENTRIES || bytes > BYTES || !groups.iter().all(|group| is_name(group)) {
        let detail = format!(
            "groups: at most {ENTRIES} with {BYTES} bytes together, each 1 to 1000 bytes without control characters"
        );
        return Err(Problem::new(Code::Invalid, detail));
    }
    groups.sort();
    groups.dedup();
    Ok(groups)
}

fn local() -> String {
    Issuer::local().0.into_owned()
}

/// What is known of a subject.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Known {
    /// `user`, `workload`, `device` or `role`.
    #[schema(value_type = String)]
    kind: Kind,
    /// Who vouches: an issuer URL; `local` if left out.
    #[serde(default = "local")]
    issuer: String,
    /// The name.
    id: String,
    #[serde(default)]
    groups: Vec<String>,
    /// For conditions of policies, by dotted name; one that they cannot name is refused.
    #[serde(default)]
    attributes: BTreeMap<String, String>,
}

impl Known {
    fn read(self, compile: &dyn Compile) -> Answered<Subject> {
        named(self.kind, &self.id)?;
        let fits = |text: &String| is_name(text);
        let attributes = self.attributes.len() <= ENTRIES
            && self
                .attributes
                .iter()
                .all(|(name, value)| fits(name) && value.len() <= 1_000);
        if !fits(&self.id) || !fits(&self.issuer) || !attributes {
            let detail = format!(
                "names: 1 to 1000 bytes without control characters; at most {ENTRIES} attributes"
            );
            return Err(Problem::new(Code::Invalid, detail));
        }
        for (name, value) in &self.attributes {
            let checked = compile.check_attribute(name, value);
            checked.map_err(|why| Problem::new(Code::Invalid, format!("attributes: {why}")))?;
        }
        Ok(Subject {
            key: SubjectKey {
                kind: self.kind,
                issuer: Issuer::from(self.issuer),
                id: self.id,
            },
            groups: groups(self.groups)?,
            attributes: self.attributes,
        })
    }
}

impl From<&Subject> for Known {
    fn from(subject: &Subject) -> Self {
        let subject = subject.clone();
        Self {
            kind: subject.key.kind,
            issuer: subject.key.issuer.0.into_owned(),
            id: subject.key.id,
            groups: subject.groups,
            attributes: subject.attributes,
        }
    }
}

/// Which page of the list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Listing {
    /// The `next` of the page before.
    after: Option<String>,
    /// Entries, 1 to 1000; 100 if left out.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<usize>,
}

/// One page of subjects.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Subjects {
    subjects: Vec<Known>,
    /// The `after` of the next page; none on the last.
    next: Option<String>,
}

/// Lists subjects.
#[utoipa::path(get, path = "/v1/subjects", tag = "subjects", params(Listing), responses((status = 200, body = Subjects)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Viewer,
    Query(listing): Query<Listing>,
) -> Answered<Json<Subjects>> {
    let limit = page(listing.limit)?;
    let after: Option<SubjectKey> = super::cursor(listing.after.as_deref())?;
    let from = after.map_or(Bound::Unbounded, Bound::Excluded);
    let state = app.parts.store.read();
    let found = state.subjects.range((from, Bound::Unbounded));
    let mut found: Vec<&Subject> = found.map(|(_, subject)| subject).take(limit + 1).collect();
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found
        .last()
        .filter(|_| more)
        .map(|last| super::as_cursor(&last.key));
    let subjects = found.into_iter().map(Known::from).collect();
    Ok(Json(Subjects { subjects, next }))
}

/// Sets what is known of a subject.
#[utoipa::path(put, path = "/v1/subjects", tag = "subjects", request_body = Known, params(Wait),
    responses((status = 200, body = Changed), (status = 422, body = Document, content_type = "application/problem+json")))]
pub(super) async fn set(
    State(app): State<Arc<App>>,
    Admin(by): Admin,
    Query(wait): Query<Wait>,
    Json(known): Json<Known>,
) -> Answered<Json<Changed>> {
    let wait = wait.read()?;
    let subject = known.read(&*app.parts.compile)?;
    let cause = format!("{} is known", name(&subject.key));
    let unseen = (subject.key.kind == Kind::Device).then(|| devices_unseen("it changes nothing"));
    let Json(mut changed) = change(app, by, Change::PutSubject(subject), cause, wait).await?;
    changed.warnings.extend(unseen);
    Ok(Json(changed))
}

/// The subject to forget.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// `user`, `workload`, `device` or `role`.
    #[param(value_type = String)]
    kind: Kind,
    /// Who vouches; `local` if left out.
    issuer: Option<String>,
    /// The name.
    id: String,
    /// How long the answer waits for enforcers, like `5s`; at most 60s.
    wait: Option<String>,
}

/// Forgets what is known of a subject. Its sessions are decided again.
#[utoipa::path(delete, path = "/v1/subjects", tag = "subjects", params(Removal),
    responses((status = 200, body = Changed), (status = 404, body = Document, content_type = "application/problem+json")))]
pub(super) async fn forget(
    State(app): State<Arc<App>>,
    Admin(by): Admin,
    Query(removal): Query<Removal>,
) -> Answered<Json<Changed>> {
    let wait = Wait { wait: removal.wait }.read()?;
    let key = SubjectKey {
        kind: removal.kind,
        issuer: removal.issuer.map_or_else(Issuer::local, Issuer::from),
        id: removal.id,
    };
    let cause = format!("{} is known no more", name(&key));
    change(app, by, Change::ForgetSubject(key), cause, wait).await
}

async fn change(
    app: Arc<App>,
    by: Caller,
    change: Change,
    cause: String,
    wait: std::time::Duration,
) -> Answered<Json<Changed>> {
    let working = Arc::clone(&app);
    app.finish(async move {
        let event = EventKind::SubjectChanged;
        let deed = Deed {
            event,
            by: &by,
            cause,
        };
        let (revision, enforcers) = working
            .change(Expected::Nothing, vec![change], deed, wait)
            .await?;
        Ok(Json(Changed {
            revision,
            enforcers,
            warnings: Vec::new(),
        }))
    })
    .await
}

fn name(key: &SubjectKey) -> String {
    format!("{}:{}#{}", key.kind, key.issuer.0, key.id)
}
