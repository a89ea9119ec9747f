//! A relay of TCP connections between a provider and a store that goes on living: it can be cut or stalled, and what the store answers can be slowed
//! down, cut short or replaced. Open, it loses and changes no byte.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Bytes that are read at once, at most.
const CHUNK: usize = 16 * 1024;
/// Slow answers go on this often.
const TICK: Duration = Duration::from_millis(20);

/// Forwards connections to one address until it is dropped.
pub struct Relay {
    address: SocketAddr,
    state: watch::Sender<State>,
    _stop: DropGuard,
}

/// Where a relay forwards to.
#[derive(Debug, Clone)]
pub enum Target {
    /// A port.
    Tcp(SocketAddr),
    /// A socket in the file system.
    Unix(PathBuf),
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

/// What a relay does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Cut,
    Stalled,
    Slow(usize),
    Short(usize),
    Wrong(&'static [u8]),
}

impl State {
    fn does_forward(self) -> bool {
        !matches!(self, State::Cut | State::Stalled)
    }
}

impl Relay {
    /// A relay to `target`, open.
    pub async fn to(target: impl Into<Target>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (state, gate) = watch::channel(State::Open);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept(listener, target.into(), gate, tasks.clone(), stop.clone())));
        Self { address, state, _stop: stop.drop_guard() }
    }

    /// Where to connect.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections, and every new one as soon as it is made.
    pub fn cut(&self) {
        self.state.send_replace(State::Cut);
    }

    /// Keeps all connections, and new ones too, but nothing gets through any more, not even their end. They are closed with the next change.
    pub fn stall(&self) {
        self.state.send_replace(State::Stalled);
    }

    /// Lets answers through at so many bytes per second and connection.
    pub fn slow(&self, bytes_per_second: usize) {
        self.state.send_replace(State::Slow(bytes_per_second));
    }

    /// Lets so many more bytes of answers through on each connection, and closes it then.
    pub fn truncate(&self, bytes: usize) {
        self.state.send_replace(State::Short(bytes));
    }

    /// Whatever the store would say next on a connection, this is said instead, and the connection is closed.
    pub fn answer_instead(&self, answer: &'static [u8]) {
        self.state.send_replace(State::Wrong(answer));
    }

    /// Forwards all connections that are left, and new ones.
    pub fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

async fn accept(listener: TcpListener, target: Target, gate: watch::Receiver<State>, tasks: TaskTracker, stop: CancellationToken) {
    while let Ok((client, _)) = listener.accept().await {
        if *gate.borrow() != State::Cut {
            tasks.spawn(stop.clone().run_until_cancelled_owned(connect(client, target.clone(), gate.clone())));
        }
    }
}

async fn connect(client: TcpStream, target: Target, gate: watch::Receiver<State>) {
    // So that the relay adds no delay of its own to what is measured through it.
    let _ = client.set_nodelay(true);
    // Of a server that is not there, the client sees a connection that ends at once.
    match target {
        Target::Tcp(address) => {
            if let Ok(server) = TcpStream::connect(address).await {
                let _ = server.set_nodelay(true);
                forward(client, server, gate).await;
            }
        }
        Target::Unix(path) => {
            if let Ok(server) = UnixStream::connect(path).await {
                forward(client, server, gate).await;
            }
        }
    }
}

async fn forward(mut client: TcpStream, server: impl AsyncRead + AsyncWrite, mut gate: watch::Receiver<State>) {
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = tokio::io::split(server);
    let answers = gate.clone();
    let both = async {
        // An answer that was cut short or replaced closes both ways.
        tokio::try_join!(forward_requests(from_client, to_server), forward_answers(from_server, to_client, answers))
    };
    tokio::select! {
        biased;
        _ = gate.wait_for(|state| !state.does_forward()) => {}
        _ = both => return,
    }
    // Who has stopped relaying, or has never begun, waits for the next change.
    let _ = gate.wait_for(|state| *state != State::Stalled).await;
}

async fn forward_requests(mut client: impl AsyncRead + Unpin, mut server: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut client, &mut server).await?;
    server.shutdown().await
}

/// Until the store ends its side. An error when the relay does so in its place.
async fn forward_answers(
    mut server: impl AsyncRead + Unpin,
    mut client: impl AsyncWrite + Unpin,
    mut gate: watch::Receiver<State>,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut left = None;
    loop {
        let state = *gate.borrow_and_update();
        let limit = match state {
            State::Slow(bytes_per_second) => (bytes_per_second / 50).clamp(1, CHUNK),
            _ => CHUNK,
        };
        let read = tokio::select! {
            biased;
            changed = gate.changed() => {
                changed.map_err(io::Error::other)?;
                // Budgets are those of one state.
                left = None;
                continue;
            }
            read = server.read(&mut buffer[..limit]) => read?,
        };
        let said = &buffer[..read];
        if read == 0 {
            return client.shutdown().await;
        }
        match state {
            State::Open | State::Cut | State::Stalled => client.write_all(said).await?,
            State::Slow(_) => {
                client.write_all(said).await?;
                tokio::time::sleep(TICK).await;
            }
            State::Short(bytes) => {
                let budget = left.get_or_insert(bytes);
                client.write_all(&said[..read.min(*budget)]).await?;
                *budget = budget.saturating_sub(read);
                if *budget == 0 {
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
            }
            State::Wrong(answer) => {
                client.write_all(answer).await?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
    }
}
