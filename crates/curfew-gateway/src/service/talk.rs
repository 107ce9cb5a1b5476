//! One PostgreSQL session as the relay sees it: where its messages end, whether its server is at work, and that its
//! query is cancelled when it is over. Reading the protocol is the `postgres` module's.

use std::sync::Arc;

use curfew_model::{EndReason, SessionId, UpstreamAddress};
use parking_lot::Mutex;

use super::cancels::Cancel;
use super::desk::Desk;
use crate::postgres::cancel::{CancelRegistry, Holder, RegisterError};
use crate::postgres::frames::{Conversation, FrameError, Scan};
use crate::postgres::message;
use crate::relay::{Broken, Cut, Finish, Framing};

/// The cancel keys of one service.
pub(super) type Keys = Mutex<CancelRegistry>;

/// One session.
pub(super) struct Talk {
    conversation: Conversation,
    session: SessionId,
    upstream: UpstreamAddress,
    keys: Arc<Keys>,
    desk: Arc<Desk>,
    busy_is_active: bool,
    registered: bool,
}

impl Talk {
    pub(super) fn new(
        session: SessionId,
        upstream: UpstreamAddress,
        keys: Arc<Keys>,
        desk: Arc<Desk>,
        busy_is_active: bool,
    ) -> Self {
        Self {
            conversation: Conversation::default(),
            session,
            upstream,
            keys,
            desk,
            busy_is_active,
            registered: false,
        }
    }

    fn register(&mut self) {
        let Some(key) = self.conversation.key() else {
            return;
        };
        let holder = Holder {
            session: self.session,
            upstream: self.upstream.clone(),
        };
        // A key that is another's cannot be told from it: that client's cancels are not forwarded, no more.
        let registered = self.keys.lock().register(key.clone(), holder);
        // Where there is no room, sessions that have just ended make some within milliseconds.
        self.registered = !matches!(registered, Err(RegisterError::Full(_)));
    }
}

impl Framing for Talk {
    fn inbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken> {
        cut(self.conversation.scan_client(bytes))
    }

    fn outbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken> {
        let cut = cut(self.conversation.scan_server(bytes))?;
        if !self.registered {
            self.register();
        }
        Ok(cut)
    }

    fn working(&self) -> bool {
        self.busy_is_active && self.conversation.busy()
    }

    fn takes_notices(&self) -> bool {
        // Before that, clients expect the server's answer to the login and nothing else. One that said Terminate may be
        // gone: bytes of ours would be answered by a reset, and end what only rows that reach nobody should end.
        self.conversation.transaction().is_some() && !self.conversation.terminated()
    }

    fn took_leave(&self) -> bool {
        self.conversation.terminated()
    }

    fn last_words(&self) -> Vec<u8> {
        message::goodbye(EndReason::ProtocolError, self.session)
    }

    fn over(&mut self, how: Finish) {
        let Some(key) = self.conversation.key() else {
            return;
        };
        self.keys.lock().forget(key, self.session);
        if how != Finish::ClosedByServer && self.conversation.may_run() {
            let cancel = Cancel::new(self.upstream.clone(), key.request());
            self.desk.cancel(cancel);
        }
    }
}

fn cut(scan: Result<Scan, FrameError>) -> Result<Cut, Broken> {
    let scan = scan.map_err(|_| Broken)?;
    Ok(Cut {
        complete: scan.complete,
        remaining: usize::try_from(scan.remaining).unwrap_or(usize::MAX),
    })
}
