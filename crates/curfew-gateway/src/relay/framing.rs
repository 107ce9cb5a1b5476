//! What the relay has to know of a protocol to keep its messages whole. Protocols themselves may not live here.

use super::Finish;

/// Where a chunk of bytes left one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Bytes of the chunk up to the end of the last message that it completes; 0 if it completes none.
    pub complete: usize,
    /// Bytes of the message begun that are still to come; while its header is cut, those of the header.
    pub remaining: usize,
}

/// The peer broke the protocol: the client is told where that is possible, and the flow finishes
/// [`Finish::ProtocolError`](super::Finish::ProtocolError).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the bytes are no message of this protocol; the flow is reset")]
pub struct Broken;

/// Follows one flow's messages. Called on an event loop's thread: must not block.
pub trait Framing: Send {
    /// Walks the next bytes from the client.
    ///
    /// # Errors
    /// [`Broken`].
    fn inbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken>;

    /// Walks the next bytes from the upstream.
    ///
    /// # Errors
    /// [`Broken`].
    fn outbound(&mut self, bytes: &[u8]) -> Result<Cut, Broken>;

    /// Whether the upstream owes an answer: its silence is work then, and counts as activity.
    fn working(&self) -> bool;

    /// Whether the client can take a notice at the next boundary.
    fn takes_notices(&self) -> bool;

    /// Whether the client took its leave in the protocol, so that the upstream may finish in peace.
    fn took_leave(&self) -> bool;

    /// What the client is told when a peer broke the protocol; nothing if empty.
    fn last_words(&self) -> Vec<u8>;

    /// The flow moves no byte any more. Called once.
    fn over(&mut self, how: Finish);
}
