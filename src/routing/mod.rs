//! What is true now: the routing table and what it is made of. No I/O, no clock, no runtime.
//!
//! | file | concept |
//! |---|---|
//! | [`table`] | the immutable whole that a request is looked up in |
//! | [`mod@compile`] | configuration and the previous table → the next table and its problems; total. `settle` is its first step, `link` its second; `in_order` a walk they share |
//! | [`index`] | request → route, independent of the number of routes; `path_index` and `candidate` are parts of it |
//! | `conflict` | routes that ask for the same requests |
//! | [`route`] | a route with everything it refers to |
//! | [`udp_route`] | the same for datagrams, with the ring that keeps clients on their endpoints |
//! | [`upstream`] | endpoints and the choice among them |
//! | `transport` | how endpoints are reached |
//! | [`endpoint`] | one endpoint: health, requests in flight, leases |
//! | [`sticky`] | cookies that bring a client back to its endpoint |
//! | [`listener`] | a listener with its TLS |
//! | [`certificates`] | certificate chains and the choice by SNI |
//! | [`identity`] | who a peer is, by its certificate |

mod candidate;
pub mod certificates;
pub mod compile;
mod conflict;
pub mod endpoint;
pub mod identity;
mod in_order;
pub mod index;
mod link;
pub mod listener;
mod path_index;
pub mod route;
mod settle;
pub mod sticky;
pub mod table;
pub mod tcp_routes;
mod transport;
pub mod udp_route;
pub mod upstream;

pub use compile::compile;
pub use conflict::Conflict;
pub use endpoint::{EndpointState, Lease};
pub use index::Index;
pub use route::Route;
pub use table::RoutingTable;
pub use tcp_routes::TcpRoutes;
pub use upstream::Upstream;
