//! What the writer does when the disk refuses.

use super::*;

#[test]
fn a_revision_is_given_once_even_if_the_disk_refuses_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state.db");
    // Nothing can be written before it has its tables.
    let database = Database::bare(&path);
    let shared = Shared {
        published: Mutex::new(Published {
            state: Arc::default(),
            commits: VecDeque::new(),
            since: Revision(0),
            closed: false,
        }),
        changed: Condvar::new(),
    };
    let (requests, incoming) = sync_channel(QUEUE);
    let (tell, told) = sync_channel(QUEUE);
    let hand_in = move |number| {
        let (answer, answered) = sync_channel(1);
        let tell = tell.clone();
        let request = Request {
            key: None,
            expected: Expected::Nothing,
            changes: vec![Change::Revoke(crate::conformance::order(number))],
            accepted: Box::new(move |commit| tell.send(commit.revision.0).unwrap()),
            answer,
        };
        requests.send(request).unwrap();
        answered
    };
    // Both wait before the writer starts, so they are one batch.
    let refused = [hand_in(1), hand_in(2)];
    std::thread::scope(|scope| {
        let shared = &shared;
        scope.spawn(move || write(shared, database, &incoming));
        assert!(refused.iter().all(|order| order.recv().unwrap().is_err()));
        Database::open(&path).unwrap();
        let taken = hand_in(3).recv().unwrap().unwrap();
        assert_eq!(taken.revision, Revision(3));
        drop(hand_in);
    });
    assert_eq!(told.try_iter().collect::<Vec<_>>(), [1, 2, 3]);
    let after = |from| find(&shared.published.lock(), Revision(from)).unwrap();
    let next = [0, 1, 2, 3].map(|from| after(from).map(|commit| commit.revision.0));
    assert_eq!(next, [Some(3), Some(3), Some(3), None]);
}
