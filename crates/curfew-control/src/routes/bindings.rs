//! Bindings: list, make or refresh, remove. A binder touches only addresses within its networks.

use std::{ops::Bound, sync::Arc};

use axum::extract::State;
use curfew_model::{Binding, BindingKey, EventKind, Identity, Issuer, Kind, Proof, WallInstant};
use curfew_state::{Change, Expected};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::{Changed, Wait, page, subjects::groups};
use crate::{
    Door, Enforcer,
    app::{App, Deed},
    caller::{Binder, Caller, Viewer},
    extract::{Json, Query},
    problem::{Answered, Code, Document, Problem},
    schema,
};

/// Bytes of a name or path, at most.
pub(super) const NAME: usize = 1_000;

/// What is bound: exactly one of them.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub(super) struct Key {
    /// A source address or range.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// The user id that owns the client's socket.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u64>, maximum = 4_294_967_295_u64)]
    uid: Option<u32>,
    /// The cgroup path of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    cgroup: Option<String>,
}

impl Key {
    fn read(self) -> Answered<BindingKey> {
        let invalid = |detail: String| Problem::new(Code::Invalid, detail);
        match (self.address, self.uid, self.cgroup) {
            (Some(text), None, None) => {
                let whole = text
                    .parse::<std::net::IpAddr>()
                    .map(|ip| IpNet::from(ip.to_canonical()));
                let net = whole.or_else(|_| text.parse::<IpNet>()).map_err(|_| {
                    invalid(format!(
                        "address: {text:?} is neither an address nor a range like 10.0.0.0/24"
                    ))
                })?;
                whole_range("address", &net)?;
                Ok(BindingKey::Address(net).canonical())
            }
            (None, Some(uid), None) => Ok(BindingKey::Uid(uid)),
            (None, None, Some(path)) if path.starts_with('/') && path.len() <= NAME => {
                Ok(BindingKey::Cgroup(path))
            }
            (None, None, Some(_)) => Err(invalid(format!(
                "cgroup: a path from the root, at most {NAME} bytes"
            ))),
            _ => Err(invalid(
                "give exactly one of address, uid and cgroup".to_owned(),
            )),
        }
    }
}

impl From<&BindingKey> for Key {
    fn from(key: &BindingKey) -> Self {
        let mut shown = Self {
            address: None,
            uid: None,
            cgroup: None,
        };
        match key {
            BindingKey::Address(net) => shown.address = Some(net.to_string()),
            BindingKey::Uid(uid) => shown.uid = Some(*uid),
            BindingKey::Cgroup(path) => shown.cgroup = Some(path.clone()),
        }
        shown
    }
}

/// A binding to make or refresh.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewBinding {
    /// A source address or range; or `uid`, or `cgroup`.
    #[serde(default)]
    address: Option<String>,
    /// The user id that owns the client's socket.
    #[serde(default)]
    #[schema(value_type = Option<u64>, maximum = 4_294_967_295_u64)]
    uid: Option<u32>,
    /// The cgroup path of the client.
    #[serde(default)]
    cgroup: Option<String>,
    /// To whom: `[ISSUER#]ID`; or `workload`.
    #[serde(default)]
    user: Option<String>,
    /// To what: `[ISSUER#]ID`.
    #[serde(default)]
    workload: Option<String>,
    /// For people to read.
    #[serde(default)]
    display: Option<String>,
    /// Groups of the subject.
    #[serde(default)]
    groups: Vec<String>,
    /// When it ends; never if left out.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<WallInstant>,
}

impl NewBinding {
    fn read(self, now: WallInstant) -> Answered<Binding> {
        let invalid = |detail: &str| Problem::new(Code::Invalid, detail);
        let (kind, name) = match (self.user, self.workload) {
            (Some(name), None) => (Kind::User, name),
            (None, Some(name)) => (Kind::Workload, name),
            _ => return Err(invalid("give exactly one of user and workload")),
        };
        let texts = [Some(&name), self.display.as_ref()];
        if texts.into_iter().flatten().any(|text| !is_name(text)) {
            return Err(invalid("names: 1 to 1000 bytes without control characters"));
        }
        if self.until.is_some_and(|until| until <= now) {
            return Err(invalid("until: it is past"));
        }
        let (issuer, id) = Issuer::of_name(&name);
        if !is_name(id) || !is_name(&issuer.0) {
            return Err(invalid("names are written ID or ISSUER#ID"));
        }
        let (address, uid, cgroup) = (self.address, self.uid, self.cgroup);
        Ok(Binding {
            key: Key {
                address,
                uid,
                cgroup,
            }
            .read()?,
            identity: Identity {
                proof: Proof::Bound,
                kind,
                issuer,
                id: id.to_owned(),
                display: self.display,
            },
            groups: groups(self.groups)?,
            until: self.until,
            refreshed_at: Some(now),
        })
    }
}

/// With host bits a range says less than it means: it is probably one address of it.
pub(super) fn whole_range(what: &str, net: &IpNet) -> Answered<()> {
    let range = net.trunc();
    if *net == range {
        return Ok(());
    }
    let detail = format!(
        "{what}: {net} has host bits set: write {range} for the range, or {} for the address",
        net.addr()
    );
    Err(Problem::new(Code::Invalid, detail))
}

pub(super) fn is_name(text: &str) -> bool {
    (1..=NAME).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// Where a binding is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kept {
    /// In `curfew.yaml`: only read here.
    Config,
    /// In the state: set and removed here.
    State,
}

/// One binding. Both sources may bind the same.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Binding)]
pub(super) struct Shown {
    #[serde(flatten)]
    key: Key,
    /// Where it is kept: one of `config` is changed in `curfew.yaml`, and taken anew on SIGHUP.
    source: Kept,
    #[schema(value_type = schema::Identity)]
    identity: Identity,
    groups: Vec<String>,
    /// When it ends; never if none.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<WallInstant>,
    /// When its source last confirmed it.
    #[schema(value_type = Option<String>, format = DateTime)]
    refreshed_at: Option<WallInstant>,
}

impl From<(&Binding, Kept)> for Shown {
    fn from((binding, source): (&Binding, Kept)) -> Self {
        Self {
            key: Key::from(&binding.key),
            source,
            identity: binding.identity.clone(),
            groups: binding.groups.clone(),
            until: binding.until,
            refreshed_at: binding.refreshed_at,
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

/// One page of bindings.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct Bindings {
    bindings: Vec<Shown>,
    /// The `after` of the next page; none on the last.
    next: Option<String>,
}

/// Where a page goes on among the bindings of one source, behind a place in the list of both.
fn behind(
    after: Option<&(BindingKey, Kept)>,
    kept: Kept,
) -> (Bound<&BindingKey>, Bound<&BindingKey>) {
    let start = match after {
        None => Bound::Unbounded,
        Some((key, last)) if kept > *last => Bound::Included(key),
        Some((key, _)) => Bound::Excluded(key),
    };
    (start, Bound::Unbounded)
}

/// Lists bindings, those of `curfew.yaml` too.
#[utoipa::path(get, path = "/v1/bindings", tag = "bindings", params(Listing), responses((status = 200, body = Bindings)))]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    _: Viewer,
    Query(listing): Query<Listing>,
) -> Answered<Json<Bindings>> {
    let limit = page(listing.limit)?;
    let after: Option<(BindingKey, Kept)> = super::cursor(listing.after.as_deref())?;
    let (state, configured) = (app.parts.store.read(), app.parts.fleet.configured());
    let after = after.as_ref();
    let first = configured.range(behind(after, Kept::Config));
    let first = first.map(|(_, binding)| (binding, Kept::Config));
    let then = state
        .bindings
        .range::<_, BindingKey>(behind(after, Kept::State));
    let then = then.map(|(_, binding)| (binding, Kept::State));
    let mut found: Vec<_> = first.take(limit + 1).chain(then.take(limit + 1)).collect();
    found.sort_by(|(a, one), (b, other)| (&a.key, one).cmp(&(&b.key, other)));
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found
        .last()
        .filter(|_| more)
        .map(|(last, kept)| super::as_cursor(&(&last.key, kept)));
    let bindings = found.into_iter().map(Shown::from).collect();
    Ok(Json(Bindings { bindings, next }))
}

/// Makes a binding, or refreshes it: its subject has proved itself now.
#[utoipa::path(put, path = "/v1/bindings", tag = "bindings", request_body = NewBinding, params(Wait),
    responses((status = 200, body = Changed), (status = 403, body = Document, content_type = "application/problem+json")))]
pub(super) async fn bind(
    State(app): State<Arc<App>>,
    Binder(by): Binder,
    Query(wait): Query<Wait>,
    Json(new): Json<NewBinding>,
) -> Answered<Json<Changed>> {
    let wait = wait.read()?;
    let binding = new.read(app.wall())?;
    let key = binding.key.clone();
    let cause = format!("{key} is bound to {}", binding.identity);
    let contrary = contrary(&app, &binding);
    let unseen = match key {
        BindingKey::Cgroup(_) => app.look(cgroups_unseen).await?,
        _ => None,
    };
    let Json(mut changed) = change(app, by, key, Change::Bind(binding), cause, wait).await?;
    changed.warnings.extend(unseen.into_iter().chain(contrary));
    Ok(Json(changed))
}

/// Says that `curfew.yaml` binds the same to somebody else, so that it is nobody's.
fn contrary(app: &App, binding: &Binding) -> Option<String> {
    let configured = app.parts.fleet.configured();
    let (new, kept) = (&binding.identity, &configured.get(&binding.key)?.identity);
    let is_same = (&new.issuer, &new.id) == (&kept.issuer, &kept.id);
    (new.kind == kept.kind && !is_same).then(|| {
        format!(
            "{} is bound to {kept} in curfew.yaml: with two of them its sessions are nobody's, and end as unattributed; \
             remove one",
            binding.key
        )
    })
}

/// Says that no door that is known sees cgroups. May block.
fn cgroups_unseen(app: &App) -> Option<String> {
    let sees = |known: &Enforcer| known.doors.contains(&Door::Kernel);
    let unseen = "no door that is known sees cgroups: the binding does nothing until one does";
    (!app.parts.fleet.enforcers().iter().any(sees)).then(|| unseen.to_owned())
}

/// The binding to remove.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct Removal {
    /// A source address or range; or `uid`, or `cgroup`.
    address: Option<String>,
    /// The user id that owns the client's socket.
    #[param(value_type = Option<u64>, maximum = 4_294_967_295_u64)]
    uid: Option<u32>,
    /// The cgroup path of the client.
    cgroup: Option<String>,
    /// How long the answer waits for enforcers, like `5s`; at most 60s.
    wait: Option<String>,
}

/// Removes a binding; its sessions end now. One of `curfew.yaml` is a 409.
#[utoipa::path(delete, path = "/v1/bindings", tag = "bindings", params(Removal),
    responses((status = 200, body = Changed), (status = 404, body = Document, content_type = "application/problem+json"),
        (status = 409, body = Document, content_type = "application/problem+json")))]
pub(super) async fn unbind(
    State(app): State<Arc<App>>,
    Binder(by): Binder,
    Query(removal): Query<Removal>,
) -> Answered<Json<Changed>> {
    let Removal {
        address,
        uid,
        cgroup,
        wait,
    } = removal;
    let wait = Wait { wait }.read()?;
    let key = Key {
        address,
        uid,
        cgroup,
    }
    .read()?;
    let cause = format!("{key} is bound no more");
    let (unbind, fleet) = (Change::Unbind(key.clone()), Arc::clone(&app.parts.fleet));
    let removed = change(app, by, key.clone(), unbind, cause, wait).await;
    removed.map_err(|problem| {
        let unknown = problem.code() == Code::NotFound;
        if !unknown || !fleet.configured().contains_key(&key.clone().canonical()) {
            return problem;
        }
        let detail = format!(
            "the binding of {key} is kept in curfew.yaml: take it out there, and send the server SIGHUP"
        );
        Problem::new(Code::Conflict, detail)
    })
}

async fn change(
    app: Arc<App>,
    by: Caller,
    key: BindingKey,
    change: Change,
    cause: String,
    wait: std::time::Duration,
) -> Answered<Json<Changed>> {
    if !by.may_bind(&key) {
        let detail = format!(
            "{key} is not within the networks of the token {:?}",
            by.name
        );
        return Err(Problem::new(Code::Forbidden, detail));
    }
    let working = Arc::clone(&app);
    app.finish(async move {
        let event = EventKind::BindingChanged;
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
