//! What the client sent and the server has not answered, in order, as PostgreSQL's main loop takes it (protocol 3,
//! "Message Flow"). Where that cannot be told any more, it says so, and nothing is guessed: frames may not live here.

use std::collections::VecDeque;

use super::Copy;

/// Messages without an answer that are followed, at most. There are as many as the peers' sockets hold.
const FOLLOWED: usize = 1 << 20;

/// A message of the client that is answered, or decides how others are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sent {
    /// Query or FunctionCall: answered by something, and then ReadyForQuery.
    Query,
    /// Answered by ReadyForQuery, after an error at most.
    Sync,
    /// A Sync that COPY took and ignored, or that came after it failed.
    MaybeSync,
    /// A message of the extended protocol: answered by one of the server, or by an error, after which all before the next
    /// Sync is skipped.
    Extended,
    /// CopyDone or CopyFail: ends a COPY, and is ignored outside one.
    CopyEnd,
}

/// What is owed.
#[derive(Debug, Default)]
pub(super) struct Owed {
    sent: VecDeque<Sent>,
    /// How many of them are queries, and how many are Syncs for certain.
    queries: usize,
    syncs: usize,
    /// How many of them are of the extended protocol; of these, how many are behind the last that ReadyForQuery answers,
    /// and how many of those a Flush is behind.
    extended: usize,
    tail: usize,
    flushed: usize,
    /// How many of them end a COPY.
    ends: usize,
    /// ReadyForQuery came so often for a Sync that may have been swallowed: if it was, for a certain one behind it.
    ghosts: usize,
    /// The server takes no message before the next Sync.
    skipping: bool,
    /// The COPY of the first of them.
    copy: Option<Copy>,
    /// It cannot be told any more what is owed.
    lost: bool,
}

impl Owed {
    /// The server is at work by all that is known: it owes an answer, and waits for nothing.
    pub(super) fn is_certain(&self) -> bool {
        let owes = self.queries > 0 || self.syncs > self.ghosts || self.flushed > 0;
        owes && !self.takes_data()
    }

    /// The server may be at work.
    pub(super) fn is_possible(&self) -> bool {
        self.lost || self.copy.is_some() || self.sent.len() > self.ends
    }

    /// The client sent a message of this type, with a payload of so many bytes.
    pub(super) fn client(&mut self, kind: u8, length: u32) {
        match kind {
            b'S' if self.takes_data() => self.push(Sent::MaybeSync),
            b'S' => {
                self.skipping = false;
                self.push(Sent::Sync);
            }
            b'H' if length == 0 && self.takes_data() => {}
            // Without a payload it cannot fail.
            b'H' if length == 0 => self.flushed = self.tail,
            b'c' | b'f' if !self.sent.is_empty() => self.push(Sent::CopyEnd),
            b'Q' | b'F' | b'P' | b'B' | b'D' | b'E' | b'C' | b'H' if self.takes_data() => {
                // COPY fails by it, or has failed before, and it is carried out.
                self.lose();
            }
            b'Q' | b'F' if !self.skipping => self.push(Sent::Query),
            b'P' | b'B' | b'D' | b'E' | b'C' | b'H' if !self.skipping => self.push(Sent::Extended),
            _ => {}
        }
    }

    /// The server sent a message of this type, other than ReadyForQuery, after its login.
    pub(super) fn server(&mut self, kind: u8) {
        match kind {
            b'E' => self.failed(),
            b'G' => self.copies_in(),
            b'H' | b'W' => {
                let copy = if kind == b'H' { Copy::Out } else { Copy::Both };
                self.copy = self.answering().map(|_| copy);
            }
            b'1' | b'2' | b'3' | b'C' | b'I' | b'T' | b'V' | b'n' | b's' => self.answered(kind),
            _ => {}
        }
    }

    /// The server sent ReadyForQuery.
    pub(super) fn ready(&mut self) {
        self.copy = None;
        match self.first() {
            Some(Sent::Query | Sent::Sync) => drop(self.pop()),
            Some(Sent::MaybeSync) => {
                self.pop();
                self.ghosts += 1;
            }
            _ => self.lose(),
        }
        if self.sent.is_empty() {
            self.ghosts = 0;
        }
    }

    /// A COPY waits for the client's data, of which no end was sent.
    fn takes_data(&self) -> bool {
        self.copy == Some(Copy::In) && self.ends == 0
    }

    fn push(&mut self, sent: Sent) {
        if self.lost || self.sent.len() >= FOLLOWED {
            return self.lose();
        }
        self.sent.push_back(sent);
        match sent {
            Sent::Extended => {
                self.extended += 1;
                self.tail += 1;
                return;
            }
            Sent::CopyEnd => self.ends += 1,
            Sent::Query => self.queries += 1,
            Sent::Sync => self.syncs += 1,
            Sent::MaybeSync => {}
        }
        if sent != Sent::CopyEnd {
            (self.tail, self.flushed) = (0, 0);
        }
    }

    fn pop(&mut self) -> Option<Sent> {
        let sent = self.sent.pop_front()?;
        match sent {
            Sent::Query => self.queries -= 1,
            Sent::Sync => self.syncs -= 1,
            Sent::MaybeSync => {}
            Sent::CopyEnd => self.ends -= 1,
            Sent::Extended => {
                if self.extended == self.tail {
                    self.tail -= 1;
                    self.flushed = self.flushed.saturating_sub(1);
                }
                self.extended -= 1;
            }
        }
        Some(sent)
    }

    fn lose(&mut self) {
        *self = Self {
            lost: true,
            ..Self::default()
        };
    }

    /// The first that is answered; what ends a COPY that there is not is ignored.
    fn first(&mut self) -> Option<Sent> {
        while self.sent.front() == Some(&Sent::CopyEnd) {
            self.pop();
        }
        self.sent.front().copied()
    }

    /// What the server answers with something that answers no Sync: all Syncs before it are done with.
    fn answering(&mut self) -> Option<Sent> {
        loop {
            match self.first() {
                Some(Sent::MaybeSync) => drop(self.pop()),
                Some(Sent::Sync) if self.ghosts > 0 => {
                    self.pop();
                    self.ghosts -= 1;
                }
                Some(sent @ (Sent::Query | Sent::Extended)) => {
                    self.ghosts = 0;
                    return Some(sent);
                }
                _ => {
                    self.lose();
                    return None;
                }
            }
        }
    }

    fn answered(&mut self, kind: u8) {
        let copied = self.copy.take_if(|_| kind == b'C') == Some(Copy::In);
        let query = self.answering();
        if copied || query == Some(Sent::Extended) {
            self.pop();
        }
        if copied {
            // It took everything up to its end.
            while let Some(Sent::MaybeSync) = self.sent.front() {
                self.pop();
            }
            if self.sent.front() == Some(&Sent::CopyEnd) {
                self.pop();
            }
            // A query goes on behind its COPY.
            if query == Some(Sent::Query) {
                self.sent.push_front(Sent::Query);
                self.queries += 1;
            }
        }
    }

    fn failed(&mut self) {
        self.copy = None;
        match self.first() {
            Some(Sent::Extended) => {
                self.ghosts = 0;
                while !matches!(self.first(), None | Some(Sent::Sync | Sent::MaybeSync)) {
                    self.pop();
                }
                self.skipping = self.sent.is_empty();
            }
            // Of this one, or of what is behind it.
            Some(Sent::MaybeSync) => self.lose(),
            Some(Sent::Sync) if self.ghosts > 0 => self.lose(),
            Some(Sent::Query) => self.ghosts = 0,
            Some(Sent::Sync | Sent::CopyEnd) | None => {}
        }
    }

    /// The first begins to take data. It ignores the Syncs that were sent ahead of its end, unless it fails before. What
    /// was flushed is answered by that.
    fn copies_in(&mut self) {
        self.copy = self.answering().map(|_| Copy::In);
        self.flushed = 0;
        let ahead = self.sent.iter_mut().skip(1);
        for sent in ahead.take_while(|sent| **sent != Sent::CopyEnd) {
            match sent {
                Sent::Sync => {
                    *sent = Sent::MaybeSync;
                    self.syncs -= 1;
                }
                Sent::MaybeSync => {}
                // It fails by this, or has failed before.
                Sent::Query | Sent::Extended | Sent::CopyEnd => return self.lose(),
            }
        }
    }
}
