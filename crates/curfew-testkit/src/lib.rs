//! Dev only: what the tests of several crates share. Nothing here is linked into the product.

mod clock;
mod lifetime;
mod postgres;

pub use clock::BootClock;
pub use lifetime::{Lifetime, alice};
pub use postgres::Postgres;
