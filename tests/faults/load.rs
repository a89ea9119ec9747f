//! Clients that send requests without pause, to endpoints that live all the time.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::task::JoinSet;

use crate::support::http1::{AfterResponse, Connection, Endpoint};

/// As many endpoints live. The first is always registered.
pub const LIVING: usize = 6;

/// So many failures are told.
const TOLD_MAX: usize = 10;

const GET: &str = "GET /x HTTP/1.1\r\nHost: app.test\r\n\r\n";

/// Endpoints that never fail.
pub async fn endpoints() -> Vec<Endpoint> {
    let mut endpoints = Vec::new();
    for id in 0..LIVING {
        endpoints.push(Endpoint::start(id, AfterResponse::Keep).await);
    }
    endpoints
}

/// Clients on connections that are kept, and on fresh ones.
pub struct Load {
    clients: JoinSet<()>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    is_over: AtomicBool,
    answered: AtomicUsize,
    failures: Mutex<Vec<(Instant, String)>>,
}

impl Load {
    /// Requests for `app.test` at `address`.
    pub fn to(address: SocketAddr) -> Self {
        let mut load = Self { clients: JoinSet::new(), shared: Arc::default() };
        for is_kept in [true, true, false] {
            load.clients.spawn(client(address, is_kept, load.shared.clone()));
        }
        load
    }

    /// How many were answered well.
    pub fn answered(&self) -> usize {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// What failed, each with the time since `start`.
    pub fn failures(&self, start: Instant) -> Vec<String> {
        let failures = self.shared.failures.lock().unwrap();
        failures.iter().map(|(at, what)| format!("{:.3} s: {what}", at.duration_since(start).as_secs_f64())).collect()
    }

    /// Waits for the last answers.
    pub async fn end(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        while self.clients.join_next().await.is_some() {}
    }
}

async fn client(address: SocketAddr, is_kept: bool, shared: Arc<Shared>) {
    let mut kept = None;
    while !shared.is_over.load(Ordering::Relaxed) {
        match request(address, kept.take()).await {
            Ok(connection) => {
                shared.answered.fetch_add(1, Ordering::Relaxed);
                kept = Some(connection).filter(|_| is_kept);
            }
            Err(what) => {
                let mut failures = shared.failures.lock().unwrap();
                if failures.len() < TOLD_MAX {
                    failures.push((Instant::now(), what));
                }
            }
        }
    }
}

/// One request, on a connection that is there or a new one, answered by an endpoint that lives.
async fn request(
    address: SocketAddr,
    kept: Option<Connection<tokio::net::TcpStream>>,
) -> Result<Connection<tokio::net::TcpStream>, String> {
    let mut connection = match kept {
        Some(connection) => connection,
        None => Connection::open(address).await.map_err(|error| format!("connect: {error}"))?,
    };
    let answer = connection.exchange(GET).await.map_err(|error| format!("no answer: {error}"))?;
    let by: Option<usize> = answer.body.split(' ').next().and_then(|id| id.parse().ok());
    match (answer.status(), by) {
        (200, Some(id)) if id < LIVING => Ok(connection),
        _ => Err(format!("{} {}", answer.head.lines().next().unwrap_or_default(), answer.body)),
    }
}
