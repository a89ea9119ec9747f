//! What is true now: the routing table and what it is made of. No I/O, no clock, no runtime.

pub mod sticky;
