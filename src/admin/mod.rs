//! The admin API: what a running server knows of itself, over HTTP, to be read by people, probes and programs.
//!
//! It answers `GET`, and changes nothing but for [`release`]. It has no authentication: it belongs on loopback, or into a network of its own.
//!
//! | file | path |
//! |---|---|
//! | [`readiness`] | `/livez`: the process runs; `/readyz`: traffic may be sent to it |
//! | `prometheus` | `/metrics`: counters and gauges as Prometheus text |
//! | [`table`] | `/api/v1/table`: generation, providers, listeners, problems |
//! | [`routes`] | `/api/v1/routes`: where requests and connections go |
//! | [`release`] | `POST /api/v1/providers/NAME/release`: lets go of what is held of an update |
//! | [`upstreams`] | `/api/v1/upstreams`: endpoints and how they are |
//!
//! `connection` is one connection, `host` says whose requests are answered, `answer` makes responses. The types of the answers can be
//! read as well as written: the command line does.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::AdminHost;
use crate::control::status::Status;
use crate::metrics::Registry;

mod answer;
mod connection;
mod host;
mod prometheus;
pub mod readiness;
pub mod release;
pub mod routes;
pub mod table;
pub mod upstreams;

use connection::converse;

/// Connections at once. Further ones wait to be accepted.
pub const CONNECTIONS_MAX: usize = 64;

/// How long answers that are under way may go on when the server ends.
const GOODBYE: Duration = Duration::from_secs(1);

/// What answers are made of.
#[derive(Clone)]
struct Source {
    /// Names by which it may be asked for.
    hosts: Arc<[AdminHost]>,
    status: Arc<Status>,
    /// None: metrics go to a recorder of the program that embeds us.
    registry: Option<Arc<Registry>>,
}

/// Answers on `socket` until `stop` is true. `hosts` are the names by which it may be asked for.
pub async fn serve(
    socket: std::net::TcpListener,
    hosts: Vec<AdminHost>,
    status: Arc<Status>,
    registry: Option<Arc<Registry>>,
    mut stop: watch::Receiver<bool>,
) {
    let listener = match TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!("admin API: cannot register its socket: {error}"),
    };
    let source = Source { hosts: hosts.into(), status, registry };
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let (tasks, end) = (TaskTracker::new(), CancellationToken::new());
    loop {
        tokio::select! {
            // An error says that nobody is left who could stop us: the server is gone.
            _ = stop.wait_for(|stop| *stop) => break,
            (stream, slot) = accept(&listener, &slots) => {
                let conversation = converse(stream, source.clone());
                tasks.spawn(end.clone().run_until_cancelled_owned(async move {
                    conversation.await;
                    drop(slot);
                }));
            }
        }
    }
    tasks.close();
    if tokio::time::timeout(GOODBYE, tasks.wait()).await.is_err() {
        end.cancel();
        tasks.wait().await;
    }
}

/// The next connection, once there is room for it.
async fn accept(listener: &TcpListener, slots: &Arc<Semaphore>) -> (TcpStream, OwnedSemaphorePermit) {
    let slot = slots.clone().acquire_owned().await.expect("the semaphore is never closed");
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return (stream, slot),
            Err(error) => accept_failed(&error).await,
        }
    }
}

/// Out of descriptors or memory: others may free some, so we wait a little rather than spin.
async fn accept_failed(error: &io::Error) {
    tracing::debug!("admin API: accept: {error}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}
