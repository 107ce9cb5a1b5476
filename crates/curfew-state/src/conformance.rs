//! What every `Store` and every `Bus` has to do, written against the traits: each engine runs it in its tests.
//!
//! A check returns what is wrong instead of panicking, so that this can be an ordinary module.

use std::{
    num::NonZeroUsize,
    sync::{Arc, mpsc::sync_channel},
    time::Duration,
};

use curfew_model::{
    Binding, BindingKey, Block, EnforcerId, Event, EventKind, Identity, Issuer, Kind, Proof,
    Revision, Revocation, RevocationId, Scope, SegmentName, WallInstant,
};

use crate::{
    ApiToken, Bus, Change, Commit, CommitError, EndKey, EnforcerEvent, Expected, Hash, Message,
    Owner, Received, Role, State, Store, Subject, SubjectKey, WatchError, Whose,
};

const SOON: Duration = Duration::from_secs(20);

/// Opens the store of the test, empty at first; opened again after a drop it holds what was committed.
pub type Open<'a> = &'a dyn Fn() -> Result<Box<dyn Store>, String>;

/// One check: what is wrong, if anything.
pub type Check = fn(Open<'_>) -> Result<(), String>;

fn ensure(holds: bool, text: impl FnOnce() -> String) -> Result<(), String> {
    if holds { Ok(()) } else { Err(text()) }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}

fn subject(id: &str) -> SubjectKey {
    SubjectKey {
        kind: Kind::User,
        issuer: Issuer::local(),
        id: id.to_owned(),
    }
}

/// An order against a user, for tests of stores.
#[must_use]
pub fn order(number: u128) -> Revocation {
    Revocation {
        id: RevocationId(uuid::Uuid::from_u128(number)),
        scope: Scope::Subject {
            kind: Kind::User,
            issuer: None,
            id: "alice".to_owned(),
        },
        block: Block::UntilLifted,
        reason: "left the company".to_owned(),
        source: "admin".to_owned(),
        created_at: WallInstant(1),
        revision: Revision(0),
        lifted_at: None,
    }
}

fn token(name: &str, role: Role) -> Change {
    Change::PutToken(ApiToken {
        name: name.to_owned(),
        hash: Hash::of(name.as_bytes()),
        role,
        networks: Vec::new(),
        created_at: WallInstant(1),
    })
}

fn policy(content: &str) -> Change {
    Change::ApplyPolicy {
        owner: Owner::Api,
        content: content.into(),
        at: WallInstant(5),
        by: "ci".to_owned(),
    }
}

/// A change that every state takes and that leaves it as it is.
fn harmless(number: i64) -> Change {
    Change::ForgetEnds {
        before: WallInstant(number),
    }
}

/// One change of every kind that adds something.
fn everything() -> Result<Vec<Change>, String> {
    let identity = Identity {
        proof: Proof::Bound,
        kind: Kind::User,
        issuer: Issuer::local(),
        id: "alice".to_owned(),
        display: None,
    };
    Ok(vec![
        policy("one"),
        Change::Revoke(order(1)),
        Change::Bind(Binding {
            key: BindingKey::Uid(1000),
            identity,
            groups: vec!["dba".to_owned()],
            until: Some(WallInstant(99)),
            refreshed_at: None,
        }),
        Change::PutSubject(Subject {
            key: subject("alice"),
            groups: vec!["staff".to_owned()],
            attributes: [("subject.risk".to_owned(), "low".to_owned())].into(),
        }),
        token("ci", Role::Operator),
        Change::Ended {
            key: EndKey {
                subject: Whose::Subject(subject("alice")),
                segment: "payments-db".parse().map_err(text)?,
            },
            at: WallInstant(50),
        },
    ])
}

/// Every check of a store, each on a store of its own.
pub const STORE: &[(&str, Check)] = &[
    ("commits are numbered, conditional and atomic", commits),
    ("everything survives reopening", survives),
    ("orders are idempotent and lifts keep them", orders),
    ("tokens have names of their own, and an admin stays", tokens),
    ("of two ends the later one is kept", the_later_end),
    ("idempotency keys", keys),
    ("changes are told before they are answered", accepted),
    ("watching", watching),
    ("policy history", history),
    ("many writers", many_writers),
];

fn commits(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    ensure(*store.read() == State::default(), || {
        "a new store is not empty".to_owned()
    })?;
    let seen = |at| [harmless(at)];
    let first = store
        .commit(Expected::State(Revision(0)), &seen(1))
        .map_err(text)?;
    let second = store.commit(Expected::Nothing, &seen(2)).map_err(text)?;
    ensure((first, second) == (Revision(1), Revision(2)), || {
        format!("{first}, {second}")
    })?;
    let conflict = store.commit(Expected::State(first), &seen(3));
    let expected = CommitError::Conflict {
        expected: first,
        actual: second,
    };
    ensure(conflict == Err(expected), || format!("{conflict:?}"))?;
    // A commit can rest on the policy sets alone.
    let sets = store.commit(Expected::Policies(first), &[policy("a")]);
    let sets = sets.map_err(text)?;
    store.commit(Expected::Nothing, &seen(4)).map_err(text)?;
    let other = store.commit(Expected::Policies(second), &[policy("b")]);
    let expected = CommitError::Conflict {
        expected: second,
        actual: sets,
    };
    ensure(other == Err(expected), || format!("{other:?}"))?;
    store
        .commit(Expected::Policies(sets), &[policy("b")])
        .map_err(text)?;
    ensure(
        store.commit(Expected::Nothing, &[]) == Err(CommitError::Empty),
        || "empty".to_owned(),
    )?;
    let before = store.read();
    let half = [
        Change::Revoke(order(7)),
        Change::RemoveToken("nobody".to_owned()),
    ];
    let failed = store.commit(Expected::Nothing, &half);
    ensure(matches!(failed, Err(CommitError::Unknown { .. })), || {
        format!("{failed:?}")
    })?;
    ensure(store.read() == before, || {
        "half a commit is visible".to_owned()
    })
}

fn survives(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    store
        .commit(Expected::Nothing, &everything()?)
        .map_err(text)?;
    let before = store.read();
    drop(store);
    let store = open()?;
    ensure(store.read() == before, || {
        format!("{:?} became {:?}", before, store.read())
    })?;
    let order = store
        .read()
        .revocations
        .values()
        .next()
        .map(|order| order.revision);
    ensure(order == Some(Revision(1)), || {
        format!("the order has revision {order:?}")
    })?;
    let removed = [
        Change::ForgetRevocation(RevocationId(uuid::Uuid::from_u128(1))),
        Change::Unbind(BindingKey::Uid(1000)),
        Change::ForgetSubject(subject("alice")),
        Change::RemoveToken("ci".to_owned()),
        Change::ForgetEnds {
            before: WallInstant(51),
        },
    ];
    store.commit(Expected::Nothing, &removed).map_err(text)?;
    drop(store);
    let state = open()?.read();
    let left = (
        state.revocations.len(),
        state.bindings.len(),
        state.subjects.len(),
    );
    let more = (state.tokens.len(), state.last_ends.len());
    ensure((left, more) == ((0, 0, 0), (0, 0)), || {
        format!("{left:?} {more:?} are left")
    })
}

fn orders(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    store
        .commit(Expected::Nothing, &[Change::Revoke(order(1))])
        .map_err(text)?;
    let id = order(1).id;
    store
        .commit(
            Expected::Nothing,
            &[Change::Lift {
                id,
                at: WallInstant(9),
            }],
        )
        .map_err(text)?;
    store
        .commit(Expected::Nothing, &[Change::Revoke(order(1))])
        .map_err(text)?;
    let state = store.read();
    let known = state
        .revocations
        .get(&id)
        .map(|order| (order.revision, order.lifted_at));
    let expected = Some((Revision(1), Some(WallInstant(9))));
    ensure(known == expected, || {
        format!("the repeated order is {known:?}")
    })?;
    let other = Revocation {
        reason: "another".to_owned(),
        ..order(1)
    };
    let refused = store.commit(Expected::Nothing, &[Change::Revoke(other)]);
    ensure(refused == Err(CommitError::OtherRevocation(id)), || {
        format!("{refused:?}")
    })
}

fn tokens(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    let remove = |name: &str| Change::RemoveToken(name.to_owned());
    let steps = [
        (token("a", Role::Admin), None),
        (
            token("a", Role::Viewer),
            Some(CommitError::TokenExists("a".to_owned())),
        ),
        (token("ci", Role::Operator), None),
        (remove("a"), Some(CommitError::LastAdmin)),
        (token("b", Role::Admin), None),
        (remove("a"), None),
        (remove("ci"), None),
    ];
    for (change, expected) in steps {
        let got = store.commit(Expected::Nothing, &[change]).err();
        ensure(got == expected, || format!("{got:?}, not {expected:?}"))?;
    }
    Ok(())
}

fn the_later_end(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    let address = "2001:db8::1".parse().map_err(text)?;
    let keys = [Whose::Subject(subject("bob")), Whose::Address { address }];
    let segment: SegmentName = "a".parse().map_err(text)?;
    let keys = keys.map(|subject| EndKey {
        subject,
        segment: segment.clone(),
    });
    for at in [5, 9, 3].map(WallInstant) {
        let ended = keys.clone().map(|key| Change::Ended { key, at });
        store.commit(Expected::Nothing, &ended).map_err(text)?;
    }
    drop(store);
    let found = &open()?.read().last_ends;
    let last = keys.map(|key| (key, WallInstant(9)));
    ensure(*found == last.into_iter().collect(), || {
        format!("{found:?}")
    })
}

fn keys(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    let once = |store: &dyn Store, expected, changes: &[Change]| {
        store.commit_with(Some("k"), expected, changes, Box::new(|_| ()))
    };
    let changes = [Change::Revoke(order(1))];
    let first = once(&*store, Expected::Nothing, &changes).map_err(text)?;
    store
        .commit(Expected::Nothing, &[harmless(1)])
        .map_err(text)?;
    drop(store);
    let store = open()?;
    // A repetition is no conflict, whatever it expected.
    let again = once(&*store, Expected::State(Revision(0)), &changes).map_err(text)?;
    let same = !first.repeated && again.repeated && first.revision == again.revision;
    ensure(same, || format!("{first:?}, {again:?}"))?;
    ensure(store.read().revision == Revision(2), || {
        "a repetition made a revision".to_owned()
    })?;
    let other = once(&*store, Expected::Nothing, &[harmless(2)]);
    ensure(other == Err(CommitError::KeyReused("k".to_owned())), || {
        format!("{other:?}")
    })
}

fn accepted(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    let (tell, told) = sync_channel(9);
    let commit = |key, expected, changes: &[Change]| {
        let tell = tell.clone();
        let accepted = Box::new(move |commit: &Arc<Commit>| drop(tell.send(Arc::clone(commit))));
        store.commit_with(key, expected, changes, accepted)
    };
    let changes = [Change::Revoke(order(1))];
    let first = commit(Some("k"), Expected::Nothing, &changes).map_err(text)?;
    let seen = told.try_recv().map_err(text)?;
    let right = seen.revision == first.revision && seen.changes == changes;
    ensure(right, || format!("told of {seen:?}, answered {first:?}"))?;
    commit(Some("k"), Expected::Nothing, &changes).map_err(text)?;
    let refused = commit(None, Expected::State(Revision(0)), &changes);
    ensure(refused.is_err(), || format!("{refused:?}"))?;
    let more = told.try_recv();
    ensure(more.is_err(), || {
        format!("told of {more:?}, which was repeated or refused")
    })?;
    let known = (store.revision_of("k"), store.revision_of("other"));
    ensure(known == (Ok(Some(first.revision)), Ok(None)), || {
        format!("the key is known as {known:?}")
    })
}

fn watching(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    let mut watch = store.watch(Revision(0)).map_err(text)?;
    let none = watch.next(Duration::ZERO).map_err(text)?;
    ensure(none.is_none(), || format!("{none:?} before any commit"))?;
    for at in 1..=3 {
        store
            .commit(Expected::Nothing, &[harmless(at)])
            .map_err(text)?;
    }
    let mut late = store.watch(Revision(2)).map_err(text)?;
    for (watch, revisions) in [(&mut watch, 1..=3), (&mut late, 3..=3)] {
        for revision in revisions {
            let commit = watch.next(SOON).map_err(text)?.ok_or("no commit came")?;
            let at = i64::try_from(revision).map_err(text)?;
            let right = commit.revision == Revision(revision) && commit.changes == [harmless(at)];
            ensure(right, || {
                format!("{commit:?} where revision {revision} belongs")
            })?;
        }
    }
    let ahead = store.watch(Revision(9)).err();
    let expected = Some(WatchError::Ahead {
        from: Revision(9),
        actual: Revision(3),
    });
    ensure(ahead == expected, || format!("{ahead:?}"))?;
    drop(store);
    let closed = watch.next(SOON);
    ensure(closed == Err(WatchError::Closed), || {
        format!("{closed:?} after closing")
    })
}

fn history(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    for content in ["one", "two", "one"] {
        store
            .commit(Expected::Nothing, &[policy(content)])
            .map_err(text)?;
    }
    drop(store);
    let store = open()?;
    let state = store.read();
    let found: Vec<(u64, Hash)> = state
        .policy_history
        .iter()
        .map(|pointer| (pointer.revision.0, pointer.hash))
        .collect();
    let (one, two) = (Hash::of(b"one"), Hash::of(b"two"));
    ensure(found == [(1, one), (2, two), (3, one)], || {
        format!("{found:?}")
    })?;
    let content = store.policy(two).map_err(text)?;
    ensure(content.as_deref() == Some("two"), || format!("{content:?}"))?;
    let none = store.policy(Hash::of(b"three")).map_err(text)?;
    ensure(none.is_none(), || format!("{none:?}"))?;
    let current = state
        .policies
        .get(&Owner::Api)
        .map(|(_, content)| &**content);
    ensure(current == Some("one"), || {
        format!("{current:?} is in force")
    })
}

fn many_writers(open: Open<'_>) -> Result<(), String> {
    let store = open()?;
    let mut revisions = std::thread::scope(|scope| {
        let writers: Vec<_> = (0..8_u128)
            .map(|writer| {
                let store = &store;
                scope.spawn(move || {
                    (0..25)
                        .map(|n| {
                            store.commit(
                                Expected::Nothing,
                                &[Change::Revoke(order(writer * 100 + n))],
                            )
                        })
                        .collect::<Result<Vec<_>, _>>()
                })
            })
            .collect();
        let mut all = Vec::new();
        for writer in writers {
            let made = writer.join().map_err(|_| "a writer panicked".to_owned())?;
            all.extend(made.map_err(text)?);
        }
        Ok::<_, String>(all)
    })?;
    revisions.sort();
    ensure(
        revisions.iter().copied().eq((1..=200).map(Revision)),
        || format!("{revisions:?}"),
    )?;
    drop(store);
    let count = open()?.read().revocations.len();
    ensure(count == 200, || format!("{count} of 200 orders are there"))
}

/// Every listener gets every message in order; what does not fit is counted where it is missing.
///
/// # Errors
/// What is wrong.
pub fn bus(bus: &dyn Bus) -> Result<(), String> {
    let enforcer = EnforcerId::new("gw-1").map_err(text)?;
    let message = |seq| {
        let event = Event::new(EventKind::EnforcerStarted, WallInstant(1), Revision(0));
        Message::Event(EnforcerEvent {
            enforcer: enforcer.clone(),
            seq,
            event,
        })
    };
    bus.publish(message(0));
    let mut narrow = bus.subscribe(NonZeroUsize::MIN.saturating_add(1));
    let mut wide = bus.subscribe(NonZeroUsize::MIN.saturating_add(99));
    for seq in 1..=5 {
        bus.publish(message(seq));
    }
    let sent = |seq| Some(Received::Message(Arc::new(message(seq))));
    for expected in [sent(1), sent(2), Some(Received::Lost(3))] {
        let got = narrow.next(SOON);
        ensure(got == expected, || {
            format!("{got:?} instead of {expected:?}")
        })?;
    }
    bus.publish(message(6));
    let got = narrow.next(SOON);
    ensure(got == sent(6), || format!("{got:?} after a loss"))?;
    for seq in 1..=6 {
        let got = wide.next(SOON);
        ensure(got == sent(seq), || format!("{got:?} instead of {seq}"))?;
    }
    let none = wide.next(Duration::ZERO);
    ensure(none.is_none(), || format!("{none:?} came from nowhere"))
}
