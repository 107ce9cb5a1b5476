//! What is said of names in a policy that nobody is given.
#![cfg(test)]

use curfew_model::{BindingKey, Revision};
use curfew_policy::{Given, PolicySet, Problem, compile, load};
use curfew_testkit::bound;

/// A set whose only policy admits these.
fn set(from: &str) -> PolicySet {
    let text = format!(
        "apiVersion: curfew.dev/v1alpha1
kind: Segment
metadata: {{name: db}}
spec: {{sensitivity: low, members: [{{service: db}}]}}
---
apiVersion: curfew.dev/v1alpha1
kind: SessionPolicy
metadata: {{name: p}}
spec:
  from:{from}
  to: {{segments: [db]}}
  when: \"'ops' in subject.groups\"
"
    );
    compile(load([("p.yaml", &*text)]).documents, Revision(1)).unwrap()
}

#[test]
fn whom_a_policy_names_and_nobody_is_yet_is_said_once_with_its_place() {
    let set = set("
    groups: [dba, dbas]
    users: ['local#alice', 'idp#alice']
    roles: [db/alice]
    except: {workloads: [alice], groups: [dbas]}");
    let mut given = Given::default();
    given.binding(&bound(BindingKey::Uid(7), "alice", &["dba"]));
    let said = set.unbound(&given);
    let said: Vec<String> = said.iter().map(ToString::to_string).collect();
    let expected = "p.yaml:11:19: warning: no binding gives group dbas yet
  11 |     groups: [dba, dbas]
     |                   ^
  = otherwise: until one does, it stands for nobody here
  = help: did you mean `dba`?
p.yaml:12:28: warning: no binding gives user idp#alice yet
  12 |     users: ['local#alice', 'idp#alice']
     |                            ^
  = otherwise: until one does, it stands for nobody here
  = help: bind it in `bindings` of curfew.yaml or by the API, or correct it
p.yaml:14:26: warning: no binding gives workload alice yet
  14 |     except: {workloads: [alice], groups: [dbas]}
     |                          ^
  = otherwise: until one does, it stands for nobody here
  = help: bind it in `bindings` of curfew.yaml or by the API, or correct it";
    assert_eq!(said.join("\n"), expected);
    given.groups(&["dbas".to_owned()]);
    assert_eq!(set.unbound(&given).len(), 2);
}

#[test]
fn of_many_names_that_nobody_has_the_last_are_counted() {
    let users: Vec<String> = (0..103).map(|n| format!("u{n}")).collect();
    let set = set(&format!(" {{users: [{}]}}", users.join(", ")));
    let said = set.unbound(&Given::default());
    assert_eq!(said.len(), 101);
    assert_eq!(said[100].message, "3 names more that no binding gives yet");
}

#[test]
fn among_very_many_names_near_ones_are_not_looked_for_without_end() {
    let name = |n: u32| format!("{n:05}{}", "x".repeat(64));
    let groups: Vec<String> = (0..100).map(|n| format!("'{}y'", name(n))).collect();
    let set = set(&format!(" {{groups: [{}]}}", groups.join(", ")));
    let mut given = Given::default();
    given.groups(&(0..15_000).map(name).collect::<Vec<_>>());
    let guessed = |said: &Problem| said.help.as_ref().is_some_and(|help| help.contains("mean"));
    // All names are said; of the first two there was time to look for one that is near.
    let said = set.unbound(&given);
    assert_eq!(said.len(), 100);
    assert_eq!(said.iter().filter(|said| guessed(said)).count(), 2);
}
