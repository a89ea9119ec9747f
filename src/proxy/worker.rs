//! A worker: one thread, one single-threaded runtime, and everything that its connections share.
//!
//! Nothing of a worker is seen by another one. The control plane reaches it by [`Command`]s, and by the one cell that holds the table.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use metrics::Counter;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::alarm::{Alarms, TICK};
use super::bind::ListenSocket;
use super::listener::{ListenerHandle, ListenerShared};
use super::pool::Pool;
use super::relay::Loans;
use super::tunnel::Tunnels;
use super::udp::UdpPorts;
use super::warnings::{Warning, Warnings};
use crate::access::AccessLog;
use crate::routing::RoutingTable;
use crate::routing::listener::Listener;

/// What the control plane tells a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket.
    Listen {
        /// What the workers share of the listener.
        shared: Arc<ListenerShared>,
        /// Its settings.
        settings: Arc<Listener>,
        /// This worker's sockets.
        sockets: Vec<ListenSocket>,
    },
    /// Stop accepting on the listener of this id, and end its connections as they become idle.
    Close(u64),
    /// The newest table has another name for listeners that are open.
    Rename,
    /// These endpoints are gone from the table: close what is idle to them.
    Retire(Arc<[u64]>),
    /// The drain time of these endpoints is over: cut what is left to them.
    Cut(Arc<[u64]>),
    /// Stop accepting on all listeners, finish what is in flight, then end the thread.
    Drain,
    /// End the thread now.
    Stop,
}

/// What all workers are started with.
#[derive(Clone)]
pub struct WorkerContext {
    /// The one cell that holds the table.
    pub table: Arc<ArcSwap<RoutingTable>>,
    /// Where requests are logged. None: nowhere.
    pub access_log: Option<AccessLog>,
    /// Requests answered before a route was found.
    pub unrouted: Counter,
    /// What is said of single requests and connections.
    pub warnings: Arc<Warnings>,
}

/// The state of one worker.
pub(crate) struct Worker {
    pub(crate) alarms: Rc<Alarms>,
    pub(crate) pool: Rc<Pool>,
    pub(crate) tunnels: Rc<Tunnels>,
    pub(crate) loans: Rc<Loans>,
    pub(crate) udp: Rc<UdpPorts>,
    pub(crate) access_log: Option<AccessLog>,
    pub(crate) unrouted: Counter,
    warnings: Arc<Warnings>,
    table: RefCell<arc_swap::Cache<Arc<ArcSwap<RoutingTable>>, Arc<RoutingTable>>>,
    random: Cell<u64>,
    is_draining: Cell<bool>,
    listeners: RefCell<Vec<Rc<ListenerHandle>>>,
    tasks: TaskTracker,
}

impl Worker {
    fn new(context: WorkerContext, seed: u64) -> Rc<Self> {
        Rc::new(Self {
            alarms: Alarms::new(Instant::now()),
            pool: Rc::default(),
            tunnels: Rc::default(),
            loans: Rc::default(),
            udp: Rc::default(),
            access_log: context.access_log,
            unrouted: context.unrouted,
            warnings: context.warnings,
            table: RefCell::new(arc_swap::Cache::new(context.table)),
            random: Cell::new(seed),
            is_draining: Cell::new(false),
            listeners: RefCell::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// Looks at the newest table. What is needed beyond the call is cloned out of it.
    pub(crate) fn with_table<T>(&self, look: impl FnOnce(&RoutingTable) -> T) -> T {
        let mut cache = self.table.borrow_mut();
        look(cache.load())
    }

    /// A random number (SplitMix64, Steele, Lea and Flood 2014): good enough to spread load, and worthless for secrets.
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9E37_79B9_7F4A_7C15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Warns of one request or connection, without flooding the log.
    pub(crate) fn warn(&self, warning: Warning) {
        self.warnings.warn(warning, self.alarms.now());
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.get()
    }

    /// Runs a task on this worker, which waits for it when it drains.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        self.tasks.spawn_local(task);
    }

    async fn run(self: Rc<Self>, mut commands: mpsc::UnboundedReceiver<Command>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let is_over = self.is_draining.get() && self.tasks.is_empty();
            if is_over {
                return;
            }
            tokio::select! {
                command = commands.recv() => match command {
                    Some(Command::Stop) | None => return,
                    Some(command) => self.obey(command),
                },
                _ = tick.tick() => self.tick(Instant::now()),
                () = self.tasks.wait(), if self.is_draining.get() => {}
            }
        }
    }

    fn tick(&self, now: Instant) {
        self.alarms.tick(now);
        self.pool.sweep(now);
        self.udp.tick(self, now);
        self.warnings.tell(now);
    }

    fn obey(self: &Rc<Self>, command: Command) {
        match command {
            Command::Listen { shared, settings, sockets } => {
                let handle = ListenerHandle::new(shared, settings);
                self.listeners.borrow_mut().push(handle.clone());
                sockets.into_iter().for_each(|socket| self.spawn(handle.clone().serve(self.clone(), socket)));
            }
            Command::Close(id) => {
                self.listeners.borrow_mut().retain(|listener| {
                    let is_other = listener.id() != id;
                    if !is_other {
                        listener.close();
                    }
                    is_other
                });
                self.alarms.wake_all();
            }
            // They would notice with their next request or connection; until then metrics would show the old name.
            Command::Rename => self.with_table(|table| self.listeners.borrow().iter().for_each(|listener| drop(listener.settings(table)))),
            Command::Retire(endpoints) => endpoints.iter().for_each(|endpoint| self.pool.retire(*endpoint)),
            Command::Cut(endpoints) => endpoints.iter().for_each(|endpoint| {
                self.pool.cut(*endpoint);
                self.tunnels.cut(*endpoint);
                self.udp.cut(*endpoint);
            }),
            Command::Drain => {
                self.is_draining.set(true);
                self.listeners.borrow_mut().drain(..).for_each(|listener| listener.close());
                self.tasks.close();
                self.pool.close_idle();
                self.alarms.wake_all();
            }
            Command::Stop => {}
        }
    }
}

/// Spawns onto the runtime of the worker it is called on. For hyper.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for LocalExecutor {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A running worker, as the control plane holds it.
#[derive(Debug)]
pub struct WorkerThread {
    commands: mpsc::UnboundedSender<Command>,
    ended: Mutex<Receiver<()>>,
}

impl WorkerThread {
    /// Starts worker number `index`.
    ///
    /// # Errors
    /// The system's, when there can be no further thread or runtime.
    pub fn start(index: usize, context: WorkerContext, seed: u64) -> std::io::Result<Self> {
        let (commands, receiver) = mpsc::unbounded_channel();
        let (started, has_started) = std::sync::mpsc::channel();
        let (lives, ended) = std::sync::mpsc::channel::<()>();
        std::thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let _lives = lives;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(tokio::runtime::LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return drop(started.send(Err(error))),
            };
            let _ = started.send(Ok(()));
            runtime.block_on(async move { Worker::new(context, seed).run(receiver).await });
            runtime.shutdown_timeout(Duration::from_millis(100));
        })?;
        has_started.recv().unwrap_or_else(|_| Err(std::io::Error::other("the worker ended at once")))?;
        Ok(Self { commands, ended: Mutex::new(ended) })
    }

    /// Tells the worker. A worker that has ended needs no telling.
    pub fn tell(&self, command: Command) {
        let _ = self.commands.send(command);
    }

    /// Waits for the end of its thread. False when `deadline` came first.
    #[must_use]
    pub fn wait(&self, deadline: Instant) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // Nothing is ever sent: the thread holds the sender, and its end is what is heard.
        ended.recv_timeout(deadline.saturating_duration_since(Instant::now())) != Err(RecvTimeoutError::Timeout)
    }
}
