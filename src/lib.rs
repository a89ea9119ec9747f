//! Nuncio: an L4/L7 load-balancing proxy.

pub mod access;
pub mod admin;
pub mod backoff;
pub mod balance;
pub mod config;
pub mod control;
pub mod discovery;
mod duration;
pub mod health;
pub mod metrics;
pub mod middleware;
pub mod names;
pub mod proxy;
pub mod routing;
pub mod rule;
pub mod server;

pub use config::RoutingConfig;
pub use names::Name;
pub use server::Server;
