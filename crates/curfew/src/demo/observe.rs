//! What the demo sees: sessions of the node, records of its log, and what clients noticed, brought together by client.
//! Orders are not given here.

use std::{collections::BTreeMap, time::Duration};

use curfew_audit::{Entry, RecordKind};
use curfew_enforcer::{SessionView, State};
use curfew_model::{BootInstant, Deadline, Detail, EndReason, EventKind};

use super::{
    row::{Measured, Standing, time},
    show::{Client, Show, Tally, Tone},
    wire::Wire,
};

/// Without payload for so long, a session counts down to its idle limit.
const QUIET: Duration = Duration::from_millis(500);

/// What ends so long after an order of ours was not ended by it.
const OURS: Duration = Duration::from_secs(5);

impl Show {
    /// Looks at everything once: sessions, log, clients.
    pub fn observe(&mut self) {
        self.site.node.tend();
        let now = self.clock.now().boot;
        for view in self.site.node.live() {
            let is = |client: &Client| {
                let through = client.through.as_ref();
                through.is_some_and(|wire| wire.local() == view.facts.client)
            };
            let Some(index) = self.clients.iter().position(is) else {
                continue;
            };
            let (Some(row), Some(client)) = (self.rows.get_mut(index), self.clients.get_mut(index))
            else {
                continue;
            };
            if client.settled.is_some() || view.state != State::Open {
                continue;
            }
            client.deadline = view.lease.deadline(view.last_activity);
            let left = shown(&view, now).map(|next| (next.at.since(now), next.reason));
            client.session = Some(view.id);
            if std::mem::replace(&mut row.standing, Standing::Open(left)) == Standing::Arriving {
                let lease = left.map_or("no limit".to_owned(), |(left, _)| {
                    format!("{} left", time(left))
                });
                let text = format!("{} ({}): {lease}", row.name(), row.sensitivity());
                self.say(Tone::Opened, text);
            }
        }
        match self.reader.news() {
            Ok(news) => news.into_iter().for_each(|entry| self.hear(&entry)),
            Err(error) => {
                let text = crate::cli::chain(&error);
                self.say(Tone::Trouble, text);
            }
        }
        for index in 0..self.rows.len() {
            self.settle(index);
        }
    }

    /// Takes a record to the client that it is about.
    fn hear(&mut self, entry: &Entry) {
        let RecordKind::Event(event @ (EventKind::SessionEnded | EventKind::SessionRefused)) =
            entry.event
        else {
            return;
        };
        let (Some(reason), Some(subject)) = (entry.reason, &entry.subject) else {
            return;
        };
        let mut both = self.rows.iter().zip(&mut self.clients);
        let found = both.find(|(row, client)| {
            let known = client.session.is_some() && client.session == entry.session;
            let fits = client.session.is_none()
                && client.verdict.is_none()
                && row.standing == Standing::Arriving
                && row.part.user == subject.id
                && entry
                    .segments
                    .iter()
                    .any(|name| name.as_str() == row.part.place);
            known || fits
        });
        if let Some((_, client)) = found {
            let late = entry.detail.get("late_us");
            let late = late.and_then(Detail::as_number);
            client.verdict = Some((event, reason, late.map(Duration::from_micros)));
        }
    }

    /// Takes over what a client saw, and its end once client and log both have it.
    fn settle(&mut self, index: usize) {
        let (Some(row), Some(client)) = (self.rows.get_mut(index), self.clients.get_mut(index))
        else {
            return;
        };
        if let Some(direct) = client.direct.as_ref().map(Wire::seen) {
            row.direct = Some(direct.bytes);
            row.direct_gone = direct.gone_at.is_some();
        }
        let Some(through) = client.through.as_ref().map(Wire::seen) else {
            return;
        };
        row.bytes = through.bytes;
        let (Some((event, reason, late)), Some(gone), None) =
            (client.verdict, through.gone_at, client.settled)
        else {
            return;
        };
        client.settled = Some(gone);
        let line = if event == EventKind::SessionRefused {
            row.standing = Standing::Refused(reason);
            let text = format!("{}: {reason}: {}", row.name(), reason.text());
            (Tone::Refused, text)
        } else {
            client.outlived.get_or_insert(row.direct.unwrap_or(0));
            let measured = measure(&self.orders, &mut self.tally, client, (gone, reason, late));
            row.standing = Standing::Ended(reason, measured);
            let how = measured.map_or(String::new(), |measured| format!("; {}", measured.text()));
            let direct = if row.direct_gone {
                ""
            } else {
                "; direct: reads on"
            };
            let text = format!("{}: {reason}{how}{direct}", row.name());
            (Tone::Ended, text)
        };
        self.say(line.0, line.1);
    }
}

/// The deadline that people want to see: the idle one only while nothing flows, since payload moves it.
fn shown(view: &SessionView, now: BootInstant) -> Option<Deadline> {
    let fixed = view.lease.fixed_deadline();
    if fixed.is_some() && now.since(view.last_activity) < QUIET {
        fixed
    } else {
        view.lease.deadline(view.last_activity)
    }
}

/// How long an end took, which is also added to the tally.
fn measure(
    orders: &BTreeMap<EndReason, BootInstant>,
    tally: &mut Tally,
    client: &Client,
    (gone, reason, late): (BootInstant, EndReason, Option<Duration>),
) -> Option<Measured> {
    let ordered = orders.get(&reason).map(|at| gone.since(*at));
    let own = client
        .deadline
        .filter(|deadline| deadline.reason == reason && deadline.at <= gone);
    // An order of somebody else, long after ours, is not measured.
    let (measured, took) = if let Some(took) = ordered.filter(|took| *took < OURS) {
        tally.orders.push(took);
        (Measured::AfterOrder(took), took)
    } else if let Some(deadline) = own {
        let took = gone.since(deadline.at);
        tally.deadlines.push(took);
        (Measured::AfterDeadline(took), took)
    } else {
        let took = late?;
        (Measured::AtDoor(took), took)
    };
    tally.reasons.entry(reason).or_default().push(took);
    Some(measured)
}
