//! Dev only: what the tests of several crates share. Nothing here is linked into the product.

mod binding;
mod clock;
mod lifetime;
mod limited;
mod postgres;

pub use binding::bound;
pub use clock::BootClock;
pub use lifetime::{Lifetime, alice};
pub use limited::{DENIED, Limited};
pub use postgres::Postgres;
