//! The control plane is not heard: what each segment's rule does (rule 15), and what snapshots of the door correct.

use std::{collections::BTreeSet, time::Duration};

use curfew_model::{BootInstant, EndReason, LiveOnLoss, LossRule, NewOnLoss, SessionId};

use crate::{Action, Engine, Open, Report, class::Class, open::Entry, record::List};

impl Engine {
    /// When the next loss rule acts on live sessions.
    pub(crate) fn next_loss(&self) -> Option<BootInstant> {
        let undone =
            |&&(after, _): &&(Duration, u32)| self.loss_done.is_none_or(|done| after > done);
        let (after, _) = self.closers.iter().find(undone)?;
        Some(self.contact.after(*after))
    }

    /// Ends what the loss ends by now; what was due before that ends first, for its own reason.
    pub(crate) fn act_on_loss(&mut self) {
        while let Some(at) = self.next_loss().filter(|at| *at <= self.now.boot) {
            self.fire_until(at);
            let silence = at.since(self.contact);
            let undone = |after| self.loss_done.is_none_or(|done| after > done);
            let due = self.closers.iter().copied();
            let due = due.filter(|&(after, _)| after <= silence && undone(after));
            let classes = due.map(|(_, class)| class).collect();
            for slot in self.of_groups(List::Class, classes) {
                let (reason, cause) = (
                    EndReason::ControlPlaneLost,
                    "the control plane was not heard",
                );
                let acts = self.class(slot).and_then(Class::closes_on_loss);
                if acts.is_some_and(|after| after <= silence) {
                    self.end(slot, reason, cause.to_owned(), Some(at));
                } else {
                    self.tell_once(slot, reason, cause.to_owned());
                }
            }
            self.loss_done = Some(silence);
        }
    }

    /// Whether a segment's rule refuses new sessions now.
    pub(crate) fn refuses_by_loss(&self, rule: LossRule) -> bool {
        self.now.boot.since(self.contact) >= rule.after
            && (rule.new == NewOnLoss::Refuse || rule.live == LiveOnLoss::Close)
    }

    /// Makes the table what the sockets are (I5): adopts the unknown, ends the missing, closes again what lingers.
    pub(crate) fn reconcile(&mut self, taken_at: BootInstant, mut sockets: Vec<Open>) -> Report {
        let mut report = Report::default();
        let seen: BTreeSet<SessionId> = sockets.iter().map(|socket| socket.id).collect();
        let slots: Vec<u32> = self.table.slots().collect();
        for slot in slots {
            let Some(record) = self.table.get(slot) else {
                continue;
            };
            report.visited += 1;
            let (id, closing) = (record.id, record.closing);
            match (seen.contains(&id), closing) {
                (true, Some(reason)) => {
                    self.out.push_back(Action::Close {
                        id,
                        reason,
                        deadline: None,
                    });
                }
                (false, Some(_)) => self.forget(slot),
                (false, None) if record.opened_at < taken_at.0 => {
                    report.matched += 1;
                    let cause = Some("no socket in the door's snapshot".to_owned());
                    self.record_end(self.revision, slot, EndReason::NetworkError, cause);
                    self.forget(slot);
                }
                _ => {}
            }
        }
        // Of too many, the newest are refused.
        sockets.sort_unstable_by_key(|socket| (socket.facts.opened_at, socket.id));
        for socket in sockets {
            if self.table.find(socket.id).is_none() {
                report.matched += 1;
                report.closed += u64::from(self.admit(socket, Entry::Found).is_err());
            }
        }
        report
    }
}
