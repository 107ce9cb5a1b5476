//! What is accepted while the disk does not answer, and what becomes of it when it refuses.

use std::sync::mpsc::{Receiver, SyncSender};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

type Answered = Receiver<Result<Committed, CommitError>>;

/// Has an order accepted, with a key if there is one, without waiting for the disk.
fn hand_in(shared: &Shared, tell: &SyncSender<u64>, number: u128, key: Option<&str>) -> Answered {
    let (answer, answered) = sync_channel(1);
    let tell = tell.clone();
    let request = Request {
        key: key.map(str::to_owned),
        expected: Expected::Nothing,
        changes: vec![Change::Revoke(crate::conformance::order(number))],
        accepted: Box::new(move |commit| tell.send(commit.revision.0).unwrap()),
        answer,
    };
    shared.pending.lock().accept(request, |_| Ok(None));
    shared.accepted.notify_all();
    answered
}

#[test]
fn a_revision_is_given_once_even_if_the_disk_refuses_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    // Nothing can be written before it has its tables.
    let database = Database::bare(&path);
    let shared = Shared::new(State::default());
    let (tell, told) = sync_channel(9);
    // All wait before the writer starts, so they are one batch; the last one repeats.
    let refused = [(1, None), (2, Some("k")), (2, Some("k"))];
    let refused = refused.map(|(number, key)| hand_in(&shared, &tell, number, key));
    std::thread::scope(|scope| {
        scope.spawn(|| write(&shared, database));
        for order in refused {
            let answer = order.recv_timeout(PATIENCE).unwrap();
            assert!(matches!(answer, Err(CommitError::Storage(_))), "{answer:?}");
        }
        Database::open(&path).unwrap();
        let again = hand_in(&shared, &tell, 2, Some("k"));
        let taken = again.recv_timeout(PATIENCE).unwrap().unwrap();
        let fresh = Committed {
            revision: Revision(3),
            repeated: false,
        };
        assert_eq!(taken, fresh);
        shared.pending.lock().closing = true;
        shared.accepted.notify_all();
    });
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    let after = |from| find(&shared.published.lock(), Revision(from)).unwrap();
    let next = [0, 1, 2, 3].map(|from| after(from).map(|commit| commit.revision.0));
    assert_eq!(next, [Some(3), Some(3), Some(3), None]);
}

#[test]
fn what_comes_while_the_disk_is_busy_is_accepted_and_falls_with_what_it_leans_on() {
    for refuses in [false, true] {
        let shared = Shared::new(State::default());
        let (tell, told) = sync_channel(9);
        let first = hand_in(&shared, &tell, 1, Some("k"));
        let busy_with = shared.next().unwrap();
        let leaning = [(2, None), (1, Some("k"))];
        let leaning = leaning.map(|(number, key)| hand_in(&shared, &tell, number, key));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2]);
        assert!(first.try_recv().is_err(), "nothing is on disk");
        if refuses {
            let full = StoreError::Corrupt {
                path: "state.db".into(),
                detail: "for this test".to_owned(),
            };
            shared.refused(busy_with, &full);
        } else {
            shared.written(busy_with);
            assert_eq!(shared.published.lock().state.revision, Revision(1));
            shared.written(shared.next().unwrap());
        }
        let [second, repeated] = leaning;
        let answers = [first, second, repeated].map(|order| order.try_recv().unwrap());
        let revisions = answers.map(|answer| answer.ok().map(|done| done.revision.0));
        let (expected, on_disk) = match refuses {
            false => ([Some(1), Some(2), Some(1)], 2),
            true => ([None; 3], 0),
        };
        assert_eq!(revisions, expected);
        assert_eq!(shared.published.lock().state.revision, Revision(on_disk));
        // What fell is as if it had never been, but for its revision.
        let _again = hand_in(&shared, &tell, 2, Some("k"));
        assert_eq!(told.try_iter().collect::<Vec<_>>(), [3]);
    }
}
