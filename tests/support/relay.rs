//! A TCP relay that can be cut or stalled: between a provider and a store that goes on living.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

/// Forwards connections to one address until it is dropped.
pub struct Relay {
    address: SocketAddr,
    state: watch::Sender<State>,
    _stop: DropGuard,
}

/// What a relay does with connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Open,
    Cut,
    Stalled,
}

impl Relay {
    /// A relay to `target`, open.
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let (state, gate) = watch::channel(State::Open);
        let stop = CancellationToken::new();
        let tasks = TaskTracker::new();
        tasks.spawn(stop.clone().run_until_cancelled_owned(accept(listener, target, gate, tasks.clone(), stop.clone())));
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

    /// Forwards new connections again.
    pub fn mend(&self) {
        self.state.send_replace(State::Open);
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, gate: watch::Receiver<State>, tasks: TaskTracker, stop: CancellationToken) {
    while let Ok((client, _)) = listener.accept().await {
        if *gate.borrow() != State::Cut {
            tasks.spawn(stop.clone().run_until_cancelled_owned(forward(client, target, gate.clone())));
        }
    }
}

async fn forward(mut client: TcpStream, target: SocketAddr, mut gate: watch::Receiver<State>) {
    let Ok(mut server) = TcpStream::connect(target).await else {
        return;
    };
    // So that the relay adds no delay of its own to what is measured through it.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    tokio::select! {
        biased;
        _ = gate.wait_for(|state| *state != State::Open) => {}
        _ = tokio::io::copy_bidirectional(&mut client, &mut server) => return,
    }
    // Who has stopped relaying, or has never begun, waits for the next change.
    let _ = gate.wait_for(|state| *state != State::Stalled).await;
}
