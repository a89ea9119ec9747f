//! Nuncio: an L4/L7 load-balancing proxy.

pub mod access;
pub mod backoff;
pub mod balance;
pub mod config;
pub mod discovery;
mod duration;
pub mod metrics;
pub mod middleware;
pub mod names;
pub mod proxy;
pub mod routing;
pub mod rule;
