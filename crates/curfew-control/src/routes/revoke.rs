//! Giving an order to end sessions. The cut and the disk run side by side; the answer comes after both (I4).

use std::{sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::{HeaderMap, StatusCode},
};
use curfew_model::{
    Binding, Block, BootInstant, EventKind, Issuer, Kind, Now, Revision, Revocation, RevocationId,
    Scope, WallInstant,
};
use curfew_state::{BLOCKS, Change, Commit, CommitError, Committed, Expected};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{Wait, bindings, devices_unseen, named, revocations::Shown, words};
use crate::{
    Answer, Outcome,
    app::{App, Deed},
    caller::{Caller, Operator},
    extract::{Json, Query},
    metrics::Stage,
    orders,
    problem::{Answered, Code, Document, Problem},
    schema,
};

/// An order to end sessions.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewRevocation {
    /// Which sessions.
    #[schema(value_type = schema::Scope)]
    scope: Scope,
    /// Why, in words.
    reason: String,
    /// What happens to new sessions; if left out, subjects and devices stay out until the block is lifted.
    #[serde(default)]
    #[schema(value_type = Option<schema::Block>)]
    block: Option<Block>,
}

/// A carried out order: durable, on record, and done by every enforcer that answered.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Done {
    #[serde(flatten)]
    order: Shown,
    /// Sessions that the order concerns.
    matched: u64,
    /// Of these, closed.
    closed: u64,
    /// Of these, only recorded, in audit mode.
    audit_only: u64,
    /// Enforcers that did not answer in time.
    unreachable: usize,
    /// Whether the idempotency key was known.
    repeated: bool,
    /// What is probably not meant: the scope names what does not exist.
    warnings: Vec<String>,
    /// From the arrival of the request until the last client was told or reset; where an enforcer closed none or does not say
    /// when, until it had answered. In milliseconds.
    enforced_after_ms: f64,
    /// From the arrival of the request until the order was on disk, in milliseconds.
    durable_after_ms: f64,
}

/// Orders sessions to end. With an `Idempotency-Key`, sending the same again gives the order that was made.
#[utoipa::path(post, path = "/v1/revocations", tag = "revocations", request_body = NewRevocation,
    params(Wait, ("Idempotency-Key" = Option<String>, Header, description = "1 to 200 visible ASCII characters")),
    responses((status = 201, body = Done), (status = 200, description = "the key was known", body = Done),
        (status = 503, description = "`not_durable` or `not_on_record`: the sessions are closed; `enforcers` says which", body = Document, content_type = "application/problem+json"),
        (status = 507, description = "`not_blocked`: the sessions are closed, and new ones are not kept out", body = Document, content_type = "application/problem+json")))]
pub(super) async fn create(
    State(app): State<Arc<App>>,
    Operator(by): Operator,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    Json(new): Json<NewRevocation>,
) -> Answered<(StatusCode, Json<Done>)> {
    let wait = wait.read()?;
    let key = idempotency_key(&headers, &by)?;
    let reason = words("reason", &new.reason)?;
    if let Scope::Subject { kind, id, .. } = &new.scope {
        named(*kind, id)?;
    }
    if !is_bounded(&new.scope) {
        let detail = format!(
            "scope: an id and an issuer have 1 to {} bytes",
            bindings::NAME
        );
        return Err(Problem::new(Code::Invalid, detail));
    }
    let start = app.parts.clock.now();
    let order = Revocation {
        id: RevocationId(uuid_v7(start.wall)?),
        block: new.block.unwrap_or_else(|| new.scope.default_block()),
        scope: new.scope,
        reason,
        source: by.source(),
        created_at: start.wall,
        revision: Revision(0),
        lifted_at: None,
    };
    let issue = Issue {
        app: Arc::clone(&app),
        by,
        wait,
        start,
    };
    app.finish(async move {
        let mut done = issue.carry_out(order, key).await?;
        if done.matched == 0 {
            // Only now: an order waits for nothing before it is carried out.
            let scope = done.order.scope.clone();
            let missing = issue.app.blocking(move |app| missing(app, &scope));
            done.warnings.extend(missing.await?);
        }
        let kept = issue.app.parts.store.read().revocations.len();
        if kept >= BLOCKS / 10 * 9 {
            done.warnings.push(format!(
                "{kept} of {BLOCKS} orders are kept: lift blocks that nobody needs, or soon no further one is taken"
            ));
        }
        orders::start_forgetting(&issue.app);
        let status = if done.repeated {
            StatusCode::OK
        } else {
            StatusCode::CREATED
        };
        Ok((status, Json(done)))
    })
    .await
}

/// Whether what it names can be kept. Which characters a login has is not ours to say: it must be possible to end it.
fn is_bounded(scope: &Scope) -> bool {
    let is = |text: &str| (1..=bindings::NAME).contains(&text.len());
    match scope {
        Scope::Subject { issuer, id, .. } => is(id) && issuer.as_ref().is_none_or(|by| is(&by.0)),
        _ => true,
    }
}

/// What one order needs on its way.
struct Issue {
    app: Arc<App>,
    by: Caller,
    wait: Duration,
    start: Now,
}

/// What came of the cut.
struct Cut {
    outcomes: Vec<Outcome>,
    after: Duration,
    recorded: Answered<()>,
}

impl Issue {
    async fn carry_out(&self, order: Revocation, key: Option<String>) -> Answered<Done> {
        let key = match self.known(&order, key.as_deref()).await {
            Ok(Some(known)) => return self.repeat(known).await,
            Ok(None) => key,
            // Sessions end first, whatever the disk says: without the key, which it cannot look up.
            Err(problem) if problem.code() == Code::Internal => None,
            Err(problem) => return Err(problem),
        };
        if matches!(order.block, Block::Until(until) if until <= self.start.wall) {
            let detail = "block: until is past, so it would keep nobody out: name a later instant, or `none`";
            return Err(Problem::new(Code::BadRequest, detail));
        }
        let (accepted, told) = oneshot::channel();
        let changes = [Change::Revoke(order.clone())];
        let commit = {
            let key = key.clone();
            self.app.blocking(move |app| {
                let accepted =
                    Box::new(move |commit: &Arc<Commit>| drop(accepted.send(Arc::clone(commit))));
                app.parts
                    .store
                    .commit_with(key.as_deref(), Expected::Nothing, &changes, accepted)
            })
        };
        let commit = async {
            let committed = commit.await;
            (committed, self.took())
        };
        let cut = async {
            match told.await {
                Ok(commit) => {
                    self.app.parts.metrics.stage(Stage::Accepted, self.took());
                    Some(self.cut(&order, commit, false).await)
                }
                Err(_) => None,
            }
        };
        let ((committed, durable), cut) = tokio::join!(commit, cut);
        match (committed?, cut) {
            (Ok(Committed { revision, .. }), Some(cut)) => {
                self.app.parts.metrics.stage(Stage::Durable, durable);
                let order = Revocation { revision, ..order };
                self.answer(&order, cut, durable, false)
            }
            // The key came in twice at the same time, and the other was first.
            (Err(CommitError::KeyReused(_)) | Ok(_), None) => {
                match self.known(&order, key.as_deref()).await? {
                    Some(known) => self.repeat(known).await,
                    None => Err(Problem::new(
                        Code::Internal,
                        "the order was not told to enforcers",
                    )),
                }
            }
            (Err(error @ CommitError::Limit { .. }), None) if order.block != Block::None => {
                self.end_only(order, &error).await
            }
            (Err(error), None) => Err(error.into()),
            (Err(error), Some(cut)) => {
                self.withdraw(&order, &error).await?;
                let detail = format!(
                    "the sessions were closed, but the order is not on disk and keeps nobody out: {error}; give it again"
                );
                Err(Problem::new(Code::NotDurable, detail).with("enforcers", cut.outcomes))
            }
        }
    }

    /// Ends what is open although there is no room to keep anybody out, and says so.
    async fn end_only(&self, order: Revocation, error: &CommitError) -> Answered<Done> {
        let order = Revocation {
            block: Block::None,
            ..order
        };
        // Without its key: once there is room, the same order with the same key is taken as it was meant.
        let done = Box::pin(self.carry_out(order, None)).await;
        orders::start_forgetting(&self.app);
        let unblocked = format!(
            "new ones are not kept out: {error}; lift blocks that nobody needs, and give the order again"
        );
        let done = done.map_err(|problem| problem.also(&unblocked))?;
        let detail = format!("the sessions were closed, but {unblocked}");
        Err(Problem::new(Code::NotBlocked, detail).with("enforcers", done.order.enforcers))
    }

    /// Has enforcers let go of an order that the state did not take, and puts that on record. Its caller is not kept
    /// waiting for the log: the disk takes nothing just now.
    async fn withdraw(&self, order: &Revocation, error: &CommitError) -> Answered<()> {
        let id = order.id;
        self.app
            .blocking(move |app| app.parts.fleet.withdraw(id))
            .await?;
        let deed = Deed {
            event: EventKind::RevocationNotKept,
            by: &self.by,
            cause: format!("revocation {id}: {}: {error}", order.reason),
        };
        let revision = self.app.parts.store.read().revision;
        let entry = deed.entry(self.app.wall(), revision);
        drop(self.app.record(&entry.with("revocation", id)));
        Ok(())
    }

    fn took(&self) -> Duration {
        self.app.parts.clock.now().boot.since(self.start.boot)
    }

    /// Has enforcers carry the order out, and puts it on record meanwhile.
    async fn cut(&self, order: &Revocation, commit: Arc<Commit>, repeated: bool) -> Cut {
        let (revision, wait) = (commit.revision, self.wait);
        let applied = self
            .app
            .blocking(move |app| app.parts.fleet.apply(&commit, wait));
        let applied = async { (applied.await, self.took()) };
        let deed = Deed {
            event: EventKind::RevocationCreated,
            by: &self.by,
            cause: format!("revocation {}: {}", order.id, order.reason),
        };
        let mut entry = deed.entry(order.created_at, revision);
        for (name, value) in orders::order_detail(order) {
            entry = entry.with(name, value);
        }
        if repeated {
            // The record before may not have come to the disk.
            entry = entry.with("repeated", repeated);
        }
        let (recorded, (outcomes, answered)) = tokio::join!(self.app.record(&entry), applied);
        let closed = outcomes
            .as_ref()
            .ok()
            .and_then(|outcomes| last_closed(outcomes));
        let after = closed.map_or(answered, |at| at.since(self.start.boot));
        self.app.parts.metrics.stage(Stage::Enforced, after);
        match outcomes {
            Ok(outcomes) => Cut {
                outcomes: self.app.outcomes.lock().keep(order.id, outcomes),
                after,
                recorded,
            },
            Err(problem) => Cut {
                outcomes: Vec::new(),
                after,
                recorded: Err(problem),
            },
        }
    }

    fn answer(
        &self,
        order: &Revocation,
        cut: Cut,
        durable: Duration,
        repeated: bool,
    ) -> Answered<Done> {
        let Cut {
            outcomes,
            after,
            recorded,
        } = cut;
        recorded.map_err(|problem| problem.with("enforcers", &outcomes))?;
        self.app
            .parts
            .metrics
            .stage(Stage::Acknowledged, self.took());
        let sum = |of: fn(&Outcome) -> u64| outcomes.iter().map(of).sum();
        let lost = |outcome: &&Outcome| outcome.answer == Answer::Unreachable;
        Ok(Done {
            matched: sum(|outcome| outcome.matched),
            closed: sum(|outcome| outcome.closed),
            audit_only: sum(|outcome| outcome.audit_only),
            unreachable: outcomes.iter().filter(lost).count(),
            repeated,
            warnings: Vec::new(),
            enforced_after_ms: after.as_secs_f64() * 1_000.0,
            durable_after_ms: durable.as_secs_f64() * 1_000.0,
            order: Shown::new(order, Some(outcomes), self.start.wall),
        })
    }

    /// The order that this key made before.
    async fn known(&self, order: &Revocation, key: Option<&str>) -> Answered<Option<Revocation>> {
        let Some(key) = key.map(str::to_owned) else {
            return Ok(None);
        };
        let revision = self
            .app
            .blocking(move |app| app.parts.store.revision_of(&key))
            .await?
            .map_err(|error| Problem::new(Code::Internal, error.to_string()))?;
        let Some(revision) = revision else {
            return Ok(None);
        };
        let state = self.app.parts.store.read();
        if state.revision < revision {
            // It is being committed at this moment: asking the store the same waits for it.
            return Ok(None);
        }
        let mut orders = state.revocations.values();
        let known = orders.find(|known| known.revision == revision);
        let reused = |detail: &str| Problem::new(Code::KeyReused, detail);
        let known = known
            .ok_or_else(|| reused("the order of this key is not kept any more: use a new key"))?;
        let same = (&known.scope, known.block, &known.reason)
            == (&order.scope, order.block, &order.reason);
        if !same {
            return Err(
                reused("this key made another order: use a new key").with("revocation", known.id)
            );
        }
        Ok(Some(known.clone()))
    }

    /// Answers for an order that is durable already, once enforcers have it and it is on record.
    async fn repeat(&self, order: Revocation) -> Answered<Done> {
        let commit = Arc::new(Commit {
            revision: order.revision,
            changes: vec![Change::Revoke(order.clone())],
        });
        let cut = self.cut(&order, commit, true).await;
        self.answer(&order, cut, self.took(), true)
    }
}

/// Says that what an order names does not exist. May block.
pub(super) fn missing(app: &App, scope: &Scope) -> Option<String> {
    let parts = &app.parts;
    // A set that does not compile any more cannot be asked.
    let policy = || app.segments.of(&parts.store.read(), &*parts.compile).ok();
    match scope {
        Scope::Segment(name) => {
            let known = policy()?.segments.iter().any(|known| known.name == *name);
            (!known).then(|| format!("no segment `{name}` in the policy in force"))
        }
        Scope::Policy(name) => {
            let known = policy()?.policies.contains(name);
            (!known).then(|| format!("no policy `{name}` in the policy in force"))
        }
        Scope::Enforcer(id) => {
            let known = parts.fleet.enforcers().iter().any(|known| known.id == *id);
            (!known).then(|| format!("no enforcer `{id}` is known"))
        }
        Scope::Session(id) => parts
            .fleet
            .session(*id)
            .is_none()
            .then(|| format!("no session `{id}` is open, nor ended not long ago")),
        Scope::Device(_)
        | Scope::Subject {
            kind: Kind::Device, ..
        } => Some(devices_unseen("no session has one")),
        Scope::Subject { kind, issuer, id } => {
            let is = |other: Kind, by: &Issuer, name: &str| {
                other == *kind && name == id && issuer.as_ref().is_none_or(|issuer| by == issuer)
            };
            let state = parts.store.read();
            let mut subjects = state.subjects.keys();
            let bound = |binding: &Binding| {
                let identity = &binding.identity;
                is(identity.kind, &identity.issuer, &identity.id)
            };
            let known = subjects.any(|subject| is(subject.kind, &subject.issuer, &subject.id))
                || state.bindings.values().any(bound)
                || parts.fleet.configured().values().any(bound);
            (!known).then(|| {
                format!(
                    "no session has the {kind} `{id}`, and neither a binding nor a subject names it"
                )
            })
        }
        Scope::All => None,
    }
}

/// When the last door had closed its last session; none unless all that closed some say it.
fn last_closed(outcomes: &[Outcome]) -> Option<BootInstant> {
    let all = outcomes.iter().map(|outcome| outcome.closed_at);
    all.collect::<Option<Vec<_>>>()?.into_iter().max()
}

/// The store's key for the caller's: callers do not see each other's.
fn idempotency_key(headers: &HeaderMap, by: &Caller) -> Answered<Option<String>> {
    let Some(key) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let visible =
        |key: &&str| (1..=200).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic());
    let key = key.to_str().ok().filter(visible).ok_or_else(|| {
        Problem::new(
            Code::BadRequest,
            "Idempotency-Key: 1 to 200 visible ASCII characters",
        )
    })?;
    let by = curfew_state::Hash::of(by.name.as_bytes()).to_string();
    let by: String = by.chars().take(16).collect();
    Ok(Some(format!("revocation {by} {key}")))
}

/// A UUIDv7 of our own clock.
fn uuid_v7(now: WallInstant) -> Answered<Uuid> {
    let mut random = [0; 10];
    getrandom::fill(&mut random).map_err(|error| {
        Problem::new(Code::Internal, format!("no randomness for an id: {error}"))
    })?;
    let millis = u64::try_from(now.0).unwrap_or(0);
    Ok(uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid())
}
