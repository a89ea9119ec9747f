//! What is true now: the routing table and what it is made of. No I/O, no clock, no runtime.

pub mod sticky;
mod candidate;
mod conflict;
pub mod index;
mod path_index;

pub use conflict::Conflict;
pub use index::Index;
