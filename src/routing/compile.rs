//! Configuration and the table before → the next table and its problems.
//!
//! Pure and total: no I/O, no clock, and no input makes it fail. It works in two steps. *Settling* looks at each object alone: a bad
//! one becomes a problem, and its last good version stays. *Linking* joins the settled objects into a table. Both hand on what did not
//! change from the table before, so a small change costs little however large the table is.

use std::sync::{Arc, LazyLock};

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::server::ProducesTickets;

use super::link::link;
use super::settle::settle;
use super::sticky::StickyKey;
use super::table::RoutingTable;
use crate::config::Snapshot;
use crate::metrics::Meter;

/// What compiling needs beside the configuration. Made once.
pub struct Context {
    /// Where handles of metrics come from.
    pub meter: Meter,
    /// Keys of sticky cookies; the first one signs, all are accepted.
    pub sticky_keys: Vec<StickyKey>,
    /// Cryptography of TLS.
    pub crypto: Arc<CryptoProvider>,
    /// Session tickets. One for all tables, so that sessions are resumed across swaps.
    pub ticketer: Arc<dyn ProducesTickets>,
    /// The system's roots, read when an upstream first needs them.
    pub system_roots: LazyLock<Arc<RootCertStore>>,
}

/// Compiles `snapshot` into the table that follows `previous`.
#[must_use]
pub fn compile(snapshot: &Snapshot, previous: &RoutingTable, context: &Context) -> RoutingTable {
    let generation = previous.generation + 1;
    let (settled, problems) = settle(snapshot, &previous.settled, generation, context);
    link(settled, previous, generation, context, problems)
}
