//! The PostgreSQL wire protocol, version 3, as pure state machines: bytes in, facts and bytes out.
//! No socket, clock or task may live here.

pub mod cancel;
pub mod frames;
pub mod message;
pub mod preamble;

/// Reads a big-endian number of four bytes at `at`, if the bytes reach that far.
fn be32(bytes: &[u8], at: usize) -> Option<u32> {
    let field = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_be_bytes(field.try_into().ok()?))
}
