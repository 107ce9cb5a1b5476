//! The story that plays when nobody touches anything: what happens at which of its sixty units.

use super::show::Action;

/// One step of the story.
#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// Says what the next steps are about.
    Say(&'static str),
    /// Every client of these users connects, directly and through Curfew.
    Arrive(&'static [&'static str]),
    /// A client whose session ended tries again.
    Retry(&'static str, &'static str),
    /// An operator acts.
    Act(Act),
}

/// What the operator does, by names instead of places on the screen.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Without a client.
    Plain(Action),
    /// Ends one session.
    Cancel(&'static str, &'static str),
    /// Explains one session.
    Explain(&'static str, &'static str),
}

/// The length of the story in units.
pub const LENGTH: u32 = 60;

/// The steps, each with the unit at which it is due.
pub const STORY: &[(u32, Step)] = &[
    (
        0,
        Step::Say("each client connects twice: directly, and through Curfew"),
    ),
    (0, Step::Arrive(&["alice", "bob", "carol"])),
    (3, Step::Say("dave is in no group that may reach orders-db")),
    (3, Step::Arrive(&["dave"])),
    (6, Step::Act(Act::Explain("carol", "payments-db"))),
    (
        9,
        Step::Say("bob's client into orders-db sends nothing: its idle limit comes"),
    ),
    (15, Step::Say("alice leaves the company: r revokes her")),
    (15, Step::Act(Act::Plain(Action::Revoke))),
    (18, Step::Say("alice tries again")),
    (18, Step::Retry("alice", "payments-db")),
    (
        23,
        Step::Say("carol's session into payments-db reaches its maximum lifetime"),
    ),
    (
        27,
        Step::Say("carol's client reconnects at once: `reconnect` makes it wait"),
    ),
    (27, Step::Retry("carol", "payments-db")),
    (31, Step::Say("t tightens the policy of every high segment")),
    (31, Step::Act(Act::Plain(Action::Tighten))),
    (36, Step::Say("c cancels one session")),
    (36, Step::Act(Act::Cancel("bob", "wiki"))),
    (39, Step::Arrive(&["erin"])),
    (
        42,
        Step::Say("k kills the control plane: API and watch stop"),
    ),
    (42, Step::Act(Act::Plain(Action::Kill))),
    (
        44,
        Step::Say("leases still end on time, and a critical segment does not run on blindly"),
    ),
    (56, Step::Retry("erin", "payments-db")),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_story_is_in_order_and_within_its_length() {
        let times: Vec<u32> = STORY.iter().map(|(at, _)| *at).collect();
        assert!(times.is_sorted());
        assert!(times.last().unwrap() < &LENGTH);
    }
}
