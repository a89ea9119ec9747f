//! A server: bind → run → drain. The binary is a thin shell around it, and so can any program be.
//!
//! A server owns its threads and touches nothing global: no signal handler, no logger, no recorder of metrics. Several may run in one
//! process.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::Recorder;
use tokio::sync::{oneshot, watch};

use crate::access::{self, AccessLog, AccessLogWriter};
use crate::config::{AdminHost, Protection};
use crate::control::status::Status;
use crate::control::{self, Control};
use crate::discovery::keep::write_private;
use crate::discovery::{NameServers, Provider, Resolver, Supervisor};
use crate::metrics::{self as names, Meter, Registry};
use crate::names::Name;
use crate::proxy::bind::PassedSockets;
use crate::proxy::warnings::Warnings;
use crate::proxy::worker::{Command, WorkerContext, WorkerThread};
use crate::routing::RoutingTable;
use crate::routing::compile::Context;
use crate::routing::sticky::StickyKey;

/// How a server is set up. Every setting has a default; see each.
pub struct ServerBuilder {
    workers: usize,
    drain_timeout: Duration,
    data_dir: Option<PathBuf>,
    protection: Protection,
    sticky_keys: Vec<StickyKey>,
    access_log: Option<(access::Sink, access::Format)>,
    recorder: Option<Arc<dyn Recorder + Send + Sync>>,
    admin: Option<SocketAddr>,
    admin_hosts: Vec<AdminHost>,
    providers: Vec<Box<dyn Provider>>,
    name_servers: NameServers,
    passed: PassedSockets,
}

/// Why a server cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A thread or runtime cannot be made.
    #[error("cannot start {what}: {source}")]
    Thread {
        /// Which one.
        what: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The access log cannot be opened.
    #[error("cannot open the access log {sink}: {source}")]
    AccessLog {
        /// Where it is.
        sink: access::Sink,
        /// Why.
        source: io::Error,
    },
    /// The key of sticky cookies cannot be read or made.
    #[error("cannot use the key of sticky cookies in {path}: {reason}")]
    StickyKey {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The admin API cannot listen.
    #[error("cannot listen on {address} for the admin API: {source}")]
    Admin {
        /// Its address.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
}

/// A running server. Dropping it ends the server at once; [`shutdown`](Self::shutdown) lets it finish what is in flight.
pub struct Server {
    status: Arc<Status>,
    registry: Option<Arc<Registry>>,
    workers: Arc<[WorkerThread]>,
    admin: Option<SocketAddr>,
    drain_timeout: Duration,
    stop_control: watch::Sender<bool>,
    control: Option<std::thread::JoinHandle<()>>,
    access_log: Option<AccessLogWriter>,
    warnings: Arc<Warnings>,
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(1, usize::from),
            drain_timeout: Duration::from_secs(30),
            data_dir: None,
            protection: Protection::default(),
            sticky_keys: Vec::new(),
            access_log: None,
            recorder: None,
            admin: None,
            admin_hosts: Vec::new(),
            providers: Vec::new(),
            name_servers: NameServers::System,
            passed: PassedSockets::default(),
        }
    }
}

impl ServerBuilder {
    /// Threads that serve traffic, each with its own connections. Default: one per core. At least one.
    #[must_use]
    pub fn workers(self, workers: usize) -> Self {
        Self { workers: workers.max(1), ..self }
    }

    /// How long [`Server::shutdown`] waits for what is in flight. Default 30 s.
    #[must_use]
    pub fn drain_timeout(self, drain_timeout: Duration) -> Self {
        Self { drain_timeout, ..self }
    }

    /// Where files are kept that must survive a restart: the key of sticky cookies, and what providers of remote sources published last,
    /// sealed, which serves when a source cannot be read at the next start. Default: none are kept.
    #[must_use]
    pub fn data_dir(self, data_dir: impl Into<PathBuf>) -> Self {
        Self { data_dir: Some(data_dir.into()), ..self }
    }

    /// What protects the table from sources that lose their mind. Default: see [`Protection`].
    #[must_use]
    pub fn protection(self, protection: Protection) -> Self {
        Self { protection, ..self }
    }

    /// Keys of sticky cookies: the first signs, all are accepted. Instances that share them keep each other's sessions. Default: one
    /// that is made once and kept in the data dir, or, without one, lives as long as the server.
    #[must_use]
    pub fn sticky_keys(self, sticky_keys: Vec<StickyKey>) -> Self {
        Self { sticky_keys, ..self }
    }

    /// Where requests are logged. Default: nowhere.
    #[must_use]
    pub fn access_log(self, sink: access::Sink, format: access::Format) -> Self {
        Self { access_log: Some((sink, format)), ..self }
    }

    /// Where metrics go. Default: into a registry of the server's own, which [`Server::metrics`] and the admin API show.
    #[must_use]
    pub fn recorder(self, recorder: Arc<dyn Recorder + Send + Sync>) -> Self {
        Self { recorder: Some(recorder), ..self }
    }

    /// Where the admin API listens. It has no authentication: keep it on loopback. Default: nowhere.
    #[must_use]
    pub fn admin(self, address: SocketAddr) -> Self {
        Self { admin: Some(address), ..self }
    }

    /// Names by which the admin API may be asked for, beside IP addresses and `localhost`. Default: none.
    #[must_use]
    pub fn admin_hosts(self, names: Vec<AdminHost>) -> Self {
        Self { admin_hosts: names, ..self }
    }

    /// Who is asked for the names of endpoints. Default: the name servers of `/etc/resolv.conf`. `/etc/hosts` comes first in any case.
    #[must_use]
    pub fn name_servers(self, name_servers: NameServers) -> Self {
        Self { name_servers, ..self }
    }

    /// Sockets that whoever started the process has opened, for listeners whose address is `systemd:NAME`. Default: none.
    #[must_use]
    pub fn passed_sockets(self, passed: PassedSockets) -> Self {
        Self { passed, ..self }
    }

    /// Adds a source of routing configuration. Of objects with one name in several sources, that of the first one counts.
    #[must_use]
    pub fn provider(mut self, provider: impl Provider) -> Self {
        self.providers.push(Box::new(provider));
        self
    }

    /// Starts workers, providers and the control loop. Listeners open when every provider has given its first snapshot:
    /// [`Server::ready`] waits for that.
    ///
    /// # Errors
    /// [`StartError`] when the system refuses a thread, a file or the admin API's address.
    pub fn start(self) -> Result<Server, StartError> {
        let registry = self.recorder.is_none().then(|| Arc::new(Registry::default()));
        let recorder = self.recorder.clone().or_else(|| registry.clone().map(|registry| registry as _));
        let meter = Meter::new(recorder.unwrap_or_else(|| Arc::new(metrics::NoopRecorder)));
        let context = control::context(&meter, self.keys()?);
        let context = context.map_err(|source| StartError::Thread { what: "TLS session tickets", source })?;
        let (access_log, writer) = start_access_log(self.access_log.as_ref(), &meter)?;
        let admin_socket = self.admin.map(bind_admin).transpose()?;
        let admin = admin_socket.as_ref().and_then(|socket| socket.local_addr().ok());
        let table = Arc::new(ArcSwap::from_pointee(RoutingTable::default()));
        let unrouted = meter.counter(names::REQUESTS_UNROUTED, &[]);
        let warnings = Arc::<Warnings>::default();
        let shared = WorkerContext { table: table.clone(), access_log, unrouted, warnings: warnings.clone() };
        let workers = start_workers(self.workers, &shared)?;
        let (stop_control, stop) = watch::channel(false);
        let admin_api = admin_socket.map(|socket| (socket, self.admin_hosts));
        let parts = ControlParts {
            providers: self.providers,
            name_servers: self.name_servers,
            data_dir: self.data_dir,
            protection: self.protection,
            context,
            workers: workers.clone(),
            table,
            admin_api,
            registry: registry.clone(),
            passed: self.passed,
        };
        let (status, control) = parts.start(stop)?;
        let drain_timeout = self.drain_timeout;
        Ok(Server { status, registry, workers, admin, drain_timeout, stop_control, control: Some(control), access_log: writer, warnings })
    }

    fn keys(&self) -> Result<Vec<StickyKey>, StartError> {
        if !self.sticky_keys.is_empty() {
            return Ok(self.sticky_keys.clone());
        }
        let error = |path: &Path, reason: String| StartError::StickyKey { path: path.to_path_buf(), reason };
        match &self.data_dir {
            Some(dir) => {
                let path = dir.join("sticky.key");
                kept_key(&path).map(|key| vec![key]).map_err(|reason| error(&path, reason))
            }
            None => StickyKey::generate().map(|key| vec![key]).map_err(|reason| error(Path::new(""), reason.to_string())),
        }
    }
}

/// The key in this file, which is made if it is not there.
fn kept_key(path: &Path) -> Result<StickyKey, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => {
            let damaged = |error: crate::routing::sticky::StickyError| format!("{error}; delete it, and another is made");
            text.trim().parse().map_err(damaged)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let key = StickyKey::generate().map_err(|error| error.to_string())?;
            write_private(path, &[key.to_base64().as_bytes()]).map_err(|error| error.to_string())?;
            Ok(key)
        }
        Err(error) => Err(error.to_string()),
    }
}

type StartedLog = (Option<AccessLog>, Option<AccessLogWriter>);

fn start_access_log(wanted: Option<&(access::Sink, access::Format)>, meter: &Meter) -> Result<StartedLog, StartError> {
    let Some((sink, format)) = wanted else { return Ok((None, None)) };
    let lost = meter.counter(names::ACCESS_LOG_LOST, &[]);
    let (log, writer) = AccessLog::start(sink, *format, lost).map_err(|source| StartError::AccessLog { sink: sink.clone(), source })?;
    Ok((Some(log), Some(writer)))
}

fn bind_admin(address: SocketAddr) -> Result<std::net::TcpListener, StartError> {
    let bind = || {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    bind().map_err(|source| StartError::Admin { address, source })
}

fn start_workers(count: usize, context: &WorkerContext) -> Result<Arc<[WorkerThread]>, StartError> {
    let mut seeds = vec![0; count * 8];
    let random = aws_lc_rs::rand::fill(&mut seeds);
    random.map_err(|_| StartError::Thread { what: "random numbers", source: io::Error::other("the system gives none") })?;
    let (seeds, _) = seeds.as_chunks();
    let start = |(index, seed): (usize, &[u8; 8])| WorkerThread::start(index, context.clone(), u64::from_ne_bytes(*seed));
    let workers: io::Result<Vec<_>> = seeds.iter().enumerate().map(start).collect();
    Ok(workers.map_err(|source| StartError::Thread { what: "a worker", source })?.into())
}

/// What the control thread is made of.
struct ControlParts {
    providers: Vec<Box<dyn Provider>>,
    name_servers: NameServers,
    data_dir: Option<PathBuf>,
    protection: Protection,
    context: Context,
    workers: Arc<[WorkerThread]>,
    table: Arc<ArcSwap<RoutingTable>>,
    /// Its socket, and the names by which it may be asked for.
    admin_api: Option<(std::net::TcpListener, Vec<AdminHost>)>,
    registry: Option<Arc<Registry>>,
    passed: PassedSockets,
}

impl ControlParts {
    /// Starts the control plane on a runtime and threads of its own.
    fn start(self, stop: watch::Receiver<bool>) -> Result<(Arc<Status>, std::thread::JoinHandle<()>), StartError> {
        let error = |source| StartError::Thread { what: "the control plane", source };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("control").enable_all().build().map_err(error)?;
        let (started, has_started) = std::sync::mpsc::channel();
        let run = move || {
            runtime.block_on(self.run(stop, started));
            runtime.shutdown_timeout(Duration::from_secs(1));
        };
        let thread = std::thread::Builder::new().name("control".into()).spawn(run).map_err(error)?;
        let status = has_started.recv().map_err(|_| error(io::Error::other("it ended at once")))?;
        Ok((status, thread))
    }

    async fn run(self, stop: watch::Receiver<bool>, started: std::sync::mpsc::Sender<Arc<Status>>) {
        let supervisor = Supervisor::start_keeping(self.providers, self.protection, self.data_dir.as_deref());
        let status = Arc::new(Status::new(self.table.clone(), supervisor.feeds().to_vec()));
        let resolver = Resolver::start(self.name_servers);
        let control = Control::new(supervisor, resolver, self.context, self.workers, self.table, status.clone(), self.passed);
        let _ = started.send(status.clone());
        let admin = async {
            if let Some((socket, hosts)) = self.admin_api {
                crate::admin::serve(socket, hosts, status, self.registry, stop.clone()).await;
            }
        };
        tokio::join!(control.run(stop.clone()), admin);
    }
}

impl Server {
    /// A builder with all settings at their defaults.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The table in force. Hold it no longer than needed: it keeps what it refers to alive.
    #[must_use]
    pub fn table(&self) -> Arc<RoutingTable> {
        self.status.table()
    }

    /// What is known of the server.
    #[must_use]
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// All metrics as Prometheus text. Empty with a recorder of your own.
    #[must_use]
    pub fn metrics(&self) -> String {
        self.registry.as_ref().map_or_else(String::new, |registry| registry.render())
    }

    /// The IP address that a listener accepts on, the first of several. None while it is not open, and for a unix socket.
    #[must_use]
    pub fn local_addr(&self, listener: &Name) -> Option<SocketAddr> {
        self.status.listeners().get(listener)?.bound.as_ref()?.sockets().first().copied()
    }

    /// The address of the admin API.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin
    }

    /// Waits until the table of this generation, or a later one, is in force and its listeners are open. Works on any runtime.
    pub async fn published(&self, generation: u64) {
        let mut generations = self.status.generations();
        // The sender lives in the status that we hold.
        let _ = generations.wait_for(|now| *now >= generation).await;
    }

    /// Waits for the first table: from then on the server accepts.
    pub async fn ready(&self) {
        self.published(1).await;
    }

    /// Stops accepting, finishes what is in flight, and ends. Clients learn of it by `Connection: close` and GOAWAY. True when
    /// everything was finished within the drain timeout; what was not is cut. Works on any runtime.
    pub async fn shutdown(mut self) -> bool {
        self.status.drain();
        self.tell(|| Command::Drain);
        let (done, is_done) = oneshot::channel();
        let (workers, deadline) = (self.workers.clone(), Instant::now() + self.drain_timeout);
        let wait = std::thread::Builder::new().name("drain".into()).spawn(move || {
            let _ = done.send(wait_for(&workers, deadline));
        });
        let is_clean = wait.is_ok() && is_done.await.unwrap_or(false);
        if !is_clean {
            self.report_cut();
        }
        self.end();
        is_clean
    }

    /// Says what is about to be cut, by upstream.
    fn report_cut(&self) {
        tracing::warn!("the drain timeout of {:?} is over: what is left is cut", self.drain_timeout);
        for upstream in self.table().upstreams.values() {
            let in_flight: u32 = upstream.endpoints.iter().map(|endpoint| endpoint.state.in_flight()).sum();
            if in_flight > 0 {
                tracing::warn!(upstream = %upstream.name, in_flight, "cut");
            }
        }
    }

    fn tell(&self, command: impl Fn() -> Command) {
        self.workers.iter().for_each(|worker| worker.tell(command()));
    }

    fn end(&mut self) {
        self.tell(|| Command::Stop);
        self.stop_control.send_replace(true);
        if let Some(control) = self.control.take() {
            let _ = control.join();
        }
        wait_for(&self.workers, Instant::now() + Duration::from_secs(2));
        self.warnings.tell_all();
        if let Some(writer) = self.access_log.take() {
            writer.join();
        }
    }
}

/// Waits for the end of all workers. False when `deadline` came first.
fn wait_for(workers: &[WorkerThread], deadline: Instant) -> bool {
    workers.iter().all(|worker| worker.wait(deadline))
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.control.is_some() {
            self.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_kept_and_a_damaged_one_says_what_to_do() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("sticky.key");
        let key = kept_key(&path).unwrap().to_base64();
        assert_eq!(kept_key(&path).unwrap().to_base64(), key);
        std::fs::write(&path, "damaged").unwrap();
        assert!(kept_key(&path).unwrap_err().ends_with("delete it, and another is made"));
    }
}
