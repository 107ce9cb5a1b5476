//! The demo itself, without any screen: clients, orders, and what is seen of both. Front ends draw its rows and lines.

use std::{collections::BTreeMap, error::Error, sync::Arc, time::Duration};

use curfew_model::{BootInstant, Clock, Deadline, EndReason, EventKind, SessionId};

use super::{
    cast::{self, PARTS},
    operator::{Operator, OrderError},
    record::Reader,
    row::{Row, Standing},
    script::{Act, LENGTH, STORY, Step},
    site::Site,
    wire::Wire,
};

/// Who is revoked.
const LEAVER: &str = "alice";
/// Lines that are kept; older ones are dropped.
const LINES: usize = 500;

/// What an operator can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Revokes alice.
    Revoke,
    /// Tightens the policy.
    Tighten,
    /// Cancels the session of this row.
    Cancel(usize),
    /// Explains the session of this row.
    Explain(usize),
    /// Stops the control plane.
    Kill,
}

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    /// The story goes on.
    Story,
    /// An operator acted.
    Order,
    /// A session was admitted.
    Opened,
    /// A session ended.
    Ended,
    /// A session was refused.
    Refused,
    /// Something did not work.
    Trouble,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// Since the start.
    pub at: Duration,
    pub tone: Tone,
    pub text: String,
}

/// One client's connections, and what is known of its session so far.
#[derive(Default)]
pub(super) struct Client {
    pub(super) direct: Option<Wire>,
    pub(super) through: Option<Wire>,
    pub(super) session: Option<SessionId>,
    pub(super) deadline: Option<Deadline>,
    /// The log's word on the end or refusal, and how late the door was.
    pub(super) verdict: Option<(EventKind, EndReason, Option<Duration>)>,
    /// When the end or refusal was seen.
    pub(super) settled: Option<BootInstant>,
    /// What the direct connection had read when Curfew first ended the other half.
    pub(super) outlived: Option<u64>,
}

/// What was measured at the clients.
#[derive(Debug, Default)]
pub struct Tally {
    /// From each order until a client saw its session end.
    pub orders: Vec<Duration>,
    /// From each deadline until a client saw its session end.
    pub deadlines: Vec<Duration>,
    /// Both by reason, with the log's word where no client knows the deadline.
    pub reasons: BTreeMap<EndReason, Vec<Duration>>,
    /// Direct connections whose other half was ended by Curfew.
    pub direct: usize,
    /// Of these, still reading.
    pub still_reading: usize,
    /// What they read since, in bytes.
    pub read_since: u64,
}

/// The running demo.
pub struct Show {
    pub site: Site,
    pub rows: Vec<Row>,
    pub(super) clients: Vec<Client>,
    lines: Vec<Line>,
    operator: Operator,
    pub(super) reader: Reader,
    pub(super) orders: BTreeMap<EndReason, BootInstant>,
    pub(super) tally: Tally,
    pub(super) clock: Arc<dyn Clock>,
    started: BootInstant,
    unit: Duration,
    next_step: usize,
    killed: bool,
}

impl Show {
    /// Starts it; the whole story takes `length`.
    ///
    /// # Errors
    /// What could not be started.
    pub fn start(length: Duration, clock: Arc<dyn Clock>) -> Result<Self, Box<dyn Error>> {
        let unit = length / LENGTH;
        let site = Site::start(unit, Arc::clone(&clock))?;
        let control = site
            .through("control")
            .ok_or("the control plane does not listen")?;
        let operator = Operator::new(control, site.token())?;
        let reader = Reader::new(site.log());
        Ok(Self {
            site,
            rows: PARTS.iter().map(|part| Row::new(*part)).collect(),
            clients: PARTS.iter().map(|_| Client::default()).collect(),
            lines: Vec::new(),
            operator,
            reader,
            orders: BTreeMap::new(),
            tally: Tally::default(),
            started: clock.now().boot,
            clock,
            unit,
            next_step: 0,
            killed: false,
        })
    }

    /// How long it has been running.
    pub fn age(&self) -> Duration {
        self.clock.now().boot.since(self.started)
    }

    /// Whether the control plane was killed.
    pub fn killed(&self) -> bool {
        self.killed
    }

    /// Where the API is, or was.
    pub fn server(&self) -> &str {
        self.operator.server()
    }

    /// The lines since the last time.
    pub fn take_lines(&mut self) -> Vec<Line> {
        std::mem::take(&mut self.lines)
    }

    /// Carries out what the story has due now; false when it is over.
    pub fn play(&mut self) -> bool {
        while let Some((at, step)) = STORY.get(self.next_step) {
            if self.age() < self.unit * *at {
                break;
            }
            self.next_step += 1;
            match *step {
                Step::Say(text) => self.say(Tone::Story, text.to_owned()),
                Step::Arrive(users) => self.arrive(users),
                Step::Retry(user, place) => self.with(user, place, Self::connect),
                Step::Act(Act::Plain(action)) => self.act(action),
                Step::Act(Act::Cancel(user, place)) => {
                    self.with(user, place, |show, row| show.act(Action::Cancel(row)));
                }
                Step::Act(Act::Explain(user, place)) => {
                    self.with(user, place, |show, row| show.act(Action::Explain(row)));
                }
            }
        }
        self.age() < self.unit * LENGTH
    }

    /// Has clients come, and come back some time after their session ended: for when somebody plays with the keys.
    pub fn keep_busy(&mut self) {
        let now = self.clock.now().boot;
        let pause = self.unit * 8;
        let coming: Vec<usize> = (0..self.rows.len())
            .filter(|row| {
                let away = self.rows.get(*row).map(|row| &row.standing) == Some(&Standing::Away);
                let settled = self.clients.get(*row).and_then(|client| client.settled);
                away || settled.is_some_and(|at| now.since(at) >= pause)
            })
            .collect();
        for row in coming {
            self.connect(row);
        }
    }

    fn arrive(&mut self, users: &[&str]) {
        for row in 0..self.rows.len() {
            let part = self.rows.get(row).map(|row| row.part);
            if part.is_some_and(|part| users.contains(&part.user)) {
                self.connect(row);
            }
        }
    }

    fn with(&mut self, user: &str, place: &str, run: impl FnOnce(&mut Self, usize)) {
        let is = |row: &Row| row.part.user == user && row.part.place == place;
        if let Some(row) = self.rows.iter().position(is) {
            run(self, row);
        }
    }

    /// Connects a client through Curfew, and directly unless it is already.
    fn connect(&mut self, index: usize) {
        let (Some(row), Some(client)) = (self.rows.get_mut(index), self.clients.get_mut(index))
        else {
            return;
        };
        let part = row.part;
        let from = cast::address_of(part.user);
        let wire = |to: Option<_>| {
            let to = to.ok_or_else(|| std::io::Error::from(std::io::ErrorKind::NotFound))?;
            Wire::connect(from, to, part.wish, Arc::clone(&self.clock))
        };
        let connected = (|| {
            if client.direct.is_none() {
                client.direct = Some(wire(self.site.direct(part.place))?);
            }
            wire(self.site.through(part.place))
        })();
        match connected {
            Ok(through) => {
                *client = Client {
                    direct: client.direct.take(),
                    through: Some(through),
                    outlived: client.outlived,
                    ..Client::default()
                };
                row.standing = Standing::Arriving;
            }
            Err(error) => {
                client.settled = Some(self.clock.now().boot);
                let text = format!("{}: cannot connect: {error}", row.name());
                self.say(Tone::Trouble, text);
            }
        }
    }

    /// Does what an operator asks for, and says what came of it.
    pub fn act(&mut self, action: Action) {
        let at = self.clock.now().boot;
        let said = match action {
            Action::Revoke => {
                self.orders.insert(EndReason::SubjectRevoked, at);
                self.operator
                    .revoke(LEAVER)
                    .map(|done| vec![format!("revoke {LEAVER}: {done}")])
            }
            Action::Tighten => {
                self.orders.insert(EndReason::PolicyChanged, at);
                let document = cast::ceiling(self.unit);
                self.operator
                    .apply(&document)
                    .map(|done| vec![format!("tighten the policy: {done}")])
            }
            Action::Cancel(row) => self.on_session(row, |operator, name, id| {
                let done = operator.cancel(id)?;
                Ok(vec![format!("cancel {name}: {done}")])
            }),
            Action::Explain(row) => self.on_session(row, |operator, name, id| {
                let mut why = operator.explain(id)?;
                let folder = format!("{}/", self.site.folder().display());
                for (line, text) in why.iter_mut().enumerate() {
                    *text = text.replace(&folder, "");
                    let before = if line == 0 {
                        &format!("explain {name}: ")
                    } else {
                        "  "
                    };
                    text.insert_str(0, before);
                }
                Ok(why)
            }),
            Action::Kill if self.killed => Ok(vec!["the control plane is dead already".to_owned()]),
            Action::Kill => {
                self.site.node.stop_control();
                self.killed = true;
                Ok(vec![format!(
                    "the control plane at {} is dead: no order can be given, no change is heard",
                    self.operator.server()
                )])
            }
        };
        if matches!(action, Action::Cancel(_)) {
            self.orders.insert(EndReason::SessionCancelled, at);
        }
        match said {
            Ok(lines) => lines
                .into_iter()
                .for_each(|text| self.say(Tone::Order, text)),
            Err(_) if self.killed => {
                let text = "no order reaches a dead control plane; leases still end on time";
                self.say(Tone::Trouble, text.to_owned());
            }
            Err(error) => {
                let text = crate::cli::chain(&error);
                self.say(Tone::Trouble, text);
            }
        }
    }

    fn on_session(
        &self,
        row: usize,
        order: impl FnOnce(&Operator, String, SessionId) -> Result<Vec<String>, OrderError>,
    ) -> Result<Vec<String>, OrderError> {
        let open = self
            .rows
            .get(row)
            .filter(|row| matches!(row.standing, Standing::Open(_)));
        let session = self.clients.get(row).and_then(|client| client.session);
        match (open, session) {
            (Some(row), Some(session)) => order(&self.operator, row.name(), session),
            _ => Ok(vec!["this client has no open session".to_owned()]),
        }
    }

    pub(super) fn say(&mut self, tone: Tone, text: String) {
        if self.lines.len() >= LINES {
            self.lines.remove(0);
        }
        let at = self.age();
        self.lines.push(Line { at, tone, text });
    }

    /// Stops everything, and gives what was measured with the folder that still holds the log.
    pub fn stop(mut self) -> (Tally, tempfile::TempDir) {
        self.observe();
        for (row, client) in self.rows.iter().zip(&self.clients) {
            let Some(before) = client.outlived else {
                continue;
            };
            self.tally.direct += 1;
            self.tally.still_reading += usize::from(!row.direct_gone);
            self.tally.read_since += row.direct.unwrap_or(0).saturating_sub(before);
        }
        (self.tally, self.site.stop())
    }
}
