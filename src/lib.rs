//! Nuncio: an L4/L7 load-balancing proxy.

pub mod balance;
pub mod config;
pub mod discovery;
pub mod middleware;
pub mod names;
pub mod routing;
pub mod rule;
