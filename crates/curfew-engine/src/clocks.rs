//! The two clocks: what they show, and by which wall time admissions are judged (rule 10). Reading them may not live here.

use curfew_model::{Now, WallInstant};

use crate::{Engine, Report};

impl Engine {
    /// The wall time that admissions are judged by: what the clock shows, or a later one while it is behind the record.
    #[must_use]
    pub fn wall(&self) -> WallInstant {
        self.now.wall
    }

    /// Takes in what the clocks show. The wall time that is judged by never falls (rule 10): while the clock is behind it,
    /// it goes on at half its speed, so that what is to end ends all the same, and the clock catches up.
    pub(crate) fn see(&mut self, now: Now) {
        let boot = self.now.boot.max(now.boot);
        let half = (boot.0 - self.highest.boot.0) / 2_000_000;
        let least = self.highest.wall.0.saturating_add_unsigned(half);
        if now.wall.0 >= least {
            self.highest = Now {
                boot,
                wall: now.wall,
            };
        }
        self.shown = now.wall;
        self.now = Now {
            boot,
            wall: WallInstant(now.wall.0.max(least)),
        };
    }

    /// Judges by what the wall clock shows again: it was wrong before.
    pub(crate) fn accept_clock(&mut self) -> Report {
        self.now.wall = self.shown;
        self.highest = self.now;
        self.end_bindings_anew()
    }

    /// Both clocks as they are: what is told is told by them, and only what is judged may be judged by a later time.
    pub(crate) fn clocks(&self) -> Now {
        Now {
            wall: self.shown,
            ..self.now
        }
    }
}
