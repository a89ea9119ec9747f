//! What is wanted: plain, parsed data. One set of types for files, key-value stores and programs.
//!
//! | file | concept |
//! |---|---|
//! | [`listener`], [`route`], [`udp_route`], [`upstream`], [`certificate`] | the objects, each with its fields and defaults |
//! | [`address`] | where an endpoint listens: IP address or name |
//! | [`snapshot`] | what a provider publishes: objects with their origin, or the problem that stands in an object's place |
//! | [`problem`] | what is wrong with an object, where, and how to mend it |
//! | [`decode`] | TOML and JSON text → objects and problems |
//! | [`files`], [`check`] | a file or directory as it was last read well; what is wrong with it |
//! | [`server`], [`admin_host`], [`providers`] | the settings of the process that live in the same file |
//!
//! Below [`decode`]: `node` (a parsed text in which every value knows its bytes), `deserialize` (nodes as a serde format),
//! `token` (strings and their escapes), `source` (lines, columns, snippets), `secret` and `secrets` (what is never shown).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::duration;
use crate::middleware::Middleware;
use crate::names::Name;

pub mod address;
pub mod admin_host;
pub mod certificate;
pub mod changes;
pub mod check;
mod cookie;
pub mod decode;
mod deserialize;
pub mod files;
pub mod listen_address;
pub mod listener;
mod name_server;
mod node;
pub mod problem;
pub mod protection;
pub mod providers;
pub mod route;
mod secret;
mod secrets;
pub mod server;
pub mod snapshot;
mod source;
pub mod tcp_route;
mod token;
pub mod udp_route;
pub mod upstream;

pub use crate::duration::{DURATION_MAX, parse as parse_duration};
pub use address::Address;
pub use admin_host::AdminHost;
pub use certificate::{Certificate, Pem};
pub use listener::Listener;
pub use name_server::NameServer;
pub use problem::Problem;
pub use protection::Protection;
pub use providers::ProviderConfig;
pub use route::{MiddlewareRef, Route};
pub use secret::Secret;
pub use server::ServerConfig;
pub use snapshot::{Entry, Origin, Snapshot};
pub use tcp_route::TcpRoute;
pub use udp_route::UdpRoute;
pub use upstream::{Endpoint, Upstream};

/// A whole routing configuration, as a program writes it. Providers publish [`Snapshot`]s, which one converts into.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RoutingConfig {
    /// The addresses we accept on.
    pub listeners: BTreeMap<Name, Listener>,
    /// Which HTTP requests go where.
    pub routes: BTreeMap<Name, Route>,
    /// Which TCP connections go where.
    pub tcp_routes: BTreeMap<Name, TcpRoute>,
    /// Which UDP datagrams go where.
    pub udp_routes: BTreeMap<Name, UdpRoute>,
    /// The groups of endpoints.
    pub upstreams: BTreeMap<Name, Upstream>,
    /// Middlewares that several routes share.
    pub middlewares: BTreeMap<Name, Middleware>,
    /// Certificates, chosen by SNI.
    pub certificates: BTreeMap<Name, Certificate>,
}
