//! Nuncio is an L4/L7 load-balancing proxy. It learns where to send traffic by watching discovery systems, compiles what it learned into
//! one immutable routing table, swaps that table under live traffic without losing a request, and forwards HTTP, TCP and UDP.
//!
//! The `nuncio` binary is a thin shell around this library; a [`Server`] runs as well inside another program. It owns its threads and
//! touches nothing global.
//!
//! # Data flows one way
//!
//! ```text
//!  CONTROL PLANE: rare, may be slow, may fail            |  DATA PLANE: per request, never waits for the control plane
//!  etcd ────┐                                            |            client
//!  file ────┤  Snapshot per provider                     |              │ bytes
//!  your app ┘  (complete, with origin of each object)    |     listener → PROXY header → TLS (certificate by SNI)
//!   │ supervised:         │                              |        ┌─────┴──────┐
//!   │ retry, last good    ▼                              |       TCP          HTTP (hyper)
//!   └──────────► control: merge                          |        └─────┬──────┘
//!                         │                              |              │ one lookup: Arc<Route>
//!                      compile: pure, total              |     middlewares → sticky → balancer → Lease
//!                         │ RoutingTable                 |              │
//!                         └────── the one ArcSwap ──────►|     connect / pooled connection, forward ──► endpoint
//!                                                        |              ▲
//!                 health: start/stop checks ──► EndpointState (atomics, shared by all generations: the only way back)
//! ```
//!
//! | area | what it is |
//! |---|---|
//! | [`config`] | what is wanted: plain data, from TOML, JSON or code |
//! | [`rule`], [`balance`], [`middleware`] | the parts of it that have behaviour of their own, pure |
//! | [`discovery`] | where it comes from: [`Provider`](discovery::Provider)s under a supervisor |
//! | [`control`] | the loop from snapshots to a published table, and what follows from it |
//! | [`routing`] | what is true now: the [`RoutingTable`](routing::RoutingTable), no I/O, no clock |
//! | [`health`] | active checks |
//! | [`proxy`] | the data plane: one single-threaded runtime per core |
//! | [`register`] | the other direction: containers → a store that others read |
//! | [`socket`] | where stream sockets are, of TCP and of this machine, and connections to them |
//! | [`proxy_protocol`] | the header in which proxies tell each other of clients, as bytes |
//! | [`admin`] | probes, metrics and the table over HTTP |
//! | [`server`] | bind → run → drain |
//!
//! # What holds
//!
//! * **One cell, one load.** There is one `ArcSwap` of routing data. A table is published whole, in order, by one task; a request looks
//!   it up once and keeps its route to the end. No request sees parts of two generations.
//! * **Error is not empty.** A provider that fails, or an object that cannot be read, leaves the last good version in force.
//! * **Fail closed.** A route whose upstream or middleware is missing keeps its place and answers 503; without it, its requests would
//!   fall through to a route that lacks its middlewares.
//! * **State survives a swap.** What an update does not touch is the same object before and after it: health, requests in flight,
//!   connections, rate limits, counters.
//! * **Counts are leases.** The requests in flight to an endpoint are the living [`Lease`](routing::Lease)s, also after a panic.
//! * **Trust nobody by default.** Forwarded headers from peers outside `trusted_proxies` are dropped, and PROXY headers believed from nobody else.
//! * **Everything is bounded**, by a named limit with a default.
//!
//! # Inside another program
//!
//! Publish a [`RoutingConfig`] from code:
//!
//! ```
//! use nuncio::config::{Listener, Route, Upstream};
//! use nuncio::discovery::ProgramProvider;
//! use nuncio::{Name, RoutingConfig, Server};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let web = Name::new("web")?;
//! let mut config = RoutingConfig::default();
//! config.listeners.insert(web.clone(), Listener::http("127.0.0.1:0".parse()?));
//! config.upstreams.insert(web.clone(), Upstream::of(["127.0.0.1:3000".parse()?, "127.0.0.1:3001".parse()?]));
//! config.routes.insert(web.clone(), Route::to(r#"Host("a.test") && PathPrefix("/")"#.parse()?, web.clone()));
//!
//! let (provider, program) = ProgramProvider::new(Name::new("program")?);
//! program.publish(config.clone());
//! let server = Server::builder().workers(1).provider(provider).start()?;
//! server.ready().await;
//! println!("listening on {:?}", server.local_addr(&web));
//!
//! // Later: the next table, live without a restart.
//! config.upstreams.insert(web.clone(), Upstream::of(["127.0.0.1:3002".parse()?]));
//! program.publish(config);
//! server.published(2).await;
//!
//! // Stop accepting, finish what is in flight, end the threads.
//! assert!(server.shutdown().await);
//! # Ok(()) })
//! # }
//! ```
//!
//! Ask the table for an endpoint: balancing on the client's side, without the hop. The lease counts the request as in flight.
//!
//! ```
//! # use nuncio::config::Upstream;
//! # use nuncio::discovery::ProgramProvider;
//! # use nuncio::{Name, RoutingConfig, Server};
//! use nuncio::routing::upstream::PickRequest;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! # let web = Name::new("web")?;
//! # let mut config = RoutingConfig::default();
//! # config.upstreams.insert(web.clone(), Upstream::of(["127.0.0.1:3000".parse()?]));
//! # let (provider, program) = ProgramProvider::new(Name::new("program")?);
//! # program.publish(config);
//! # let server = Server::builder().workers(1).provider(provider).start()?;
//! # server.ready().await;
//! let table = server.table();
//! let upstream = table.upstreams.get(&web).ok_or("no such upstream")?;
//! let random = 4; // from your generator
//! let picked = upstream.pick(&PickRequest::new("192.0.2.1".parse()?, random)).ok_or("no endpoint is eligible")?;
//! assert_eq!(picked.lease.address().ip(), Some("127.0.0.1:3000".parse()?));
//! assert_eq!(picked.lease.endpoint().in_flight(), 1);
//! # Ok(()) })
//! # }
//! ```
//!
//! Learn from a system of your own: implement a [`Provider`](discovery::Provider). It publishes complete snapshots and returns its
//! errors; the supervisor calls it again after a while.
//!
//! ```
//! use std::pin::Pin;
//! use std::time::{Duration, Instant};
//!
//! use nuncio::config::{Snapshot, Upstream};
//! use nuncio::discovery::{Provider, ProviderError, Publisher};
//! use nuncio::{Name, RoutingConfig, Server};
//!
//! /// Registers one endpoint, and would look for others.
//! struct Inventory(Name);
//!
//! impl Provider for Inventory {
//!     fn name(&self) -> &Name {
//!         &self.0
//!     }
//!
//!     fn watch<'a>(&'a mut self, publisher: &'a dyn Publisher) -> Pin<Box<dyn Future<Output = Result<(), ProviderError>> + Send + 'a>> {
//!         Box::pin(async move {
//!             let mut config = RoutingConfig::default();
//!             config.upstreams.insert(Name::literal("shop"), Upstream::of([([127, 0, 0, 1], 3000).into()]));
//!             publisher.publish(Snapshot::of_program(config, &self.0, Instant::now()));
//!             loop {
//!                 tokio::time::sleep(Duration::from_secs(60)).await;
//!                 publisher.contact();
//!             }
//!         })
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
//! let server = Server::builder().workers(1).provider(Inventory(Name::literal("inventory"))).start()?;
//! server.ready().await;
//! assert!(server.table().upstreams.contains_key("shop"));
//! # Ok(()) })
//! # }
//! ```
//!
//! # Why hyper, and one thread per core
//!
//! Of the time a small request takes, most is the kernel's. What is left to a proxy is to spend little beside it: each worker has its own
//! single-threaded runtime, sockets, connection pool and timers, so that a request takes no lock and wakes no other core. hyper's own
//! connection types cost about as much as nginx and HAProxy do; pingora's proxy engine and hyper-util's pooling client cost 25 to 60%
//! more. Towards HTTP/1.1 endpoints even hyper's client is a task, two channels and two wake-ups per request too many: [`proxy::h1`] is a
//! client of our own, a quarter fewer instructions for the whole request. pingora's parts are used where they fit best: [`balance`]'s hash ring is held to `pingora-ketama` by a property test.
//! `make bench` measures against nginx and HAProxy.

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
mod network;
pub mod proxy;
pub mod proxy_protocol;
pub mod register;
pub mod routing;
pub mod rule;
pub mod server;
pub mod socket;
mod suggest;
mod tls_error;

pub use config::RoutingConfig;
pub use names::Name;
pub use server::Server;
