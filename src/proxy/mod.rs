//! The data plane: one single-threaded runtime per core, and on it everything that a request needs.
//!
//! | file | concept |
//! |---|---|
//! | [`worker`] | a thread with its runtime, its connections and its pool; takes [`worker::Command`]s from the control plane |
//! | [`bind`] | sockets that are listened on, one or more for each worker |
//! | [`listener`] | a listener as a worker has it: accepts, is drained and closed on removal |
//! | `arrival`, `origin` | the PROXY header that a connection begins with; whose connection it is, and how endpoints are told |
//! | [`clients`] | how many connections each client has |
//! | `http` | one client connection that speaks HTTP: TLS, protocol, the loop over its requests |
//! | `handshake` | what becomes of TLS handshakes that fail |
//! | `head` | is there exactly one way to read this request? |
//! | `exchange` | one request and its response, start to end |
//! | `forward`, `outgoing` | a request on its way to an upstream: attempts, and the head that endpoints get |
//! | [`forwarded`] | who the client is, and what endpoints are told of it |
//! | `flood` | HTTP/2 frames that cost us and bring nothing |
//! | `body` | bodies, streamed through |
//! | `pool`, `connect`, `stream` | connections to endpoints |
//! | [`h1`] | HTTP/1.1 towards endpoints |
//! | `tunnel`, `relay` | bytes both ways: after an upgrade, and for TCP; between two sockets at the least cost |
//! | `tcp`, `client_hello` | one client connection of a TCP listener, and what it says before anything is encrypted |
//! | `udp` | the datagrams of a UDP listener: to an endpoint, and its replies back |
//! | `sessions`, `session` | which client of a UDP listener is at which endpoint: the table; one of them with its socket |
//! | [`datagram`] | UDP sockets: many datagrams with one call |
//! | `alarm`, `deadline` | time limits |
//! | `error` | whose fault it was |
//! | [`warnings`] | what the log says of requests that fail, however many do |
//!
//! Nothing here waits for the control plane, and nothing looks up a name.

mod alarm;
mod arrival;
pub mod bind;
mod body;
mod client;
pub mod client_hello;
pub mod clients;
mod connect;
pub mod datagram;
mod deadline;
mod error;
mod exchange;
mod flood;
mod forward;
pub mod forwarded;
pub mod h1;
mod handshake;
mod head;
mod http;
pub mod listener;
mod origin;
mod outgoing;
mod pool;
mod relay;
mod session;
mod sessions;
mod stream;
mod tcp;
mod tunnel;
mod udp;
pub mod warnings;
pub mod worker;
