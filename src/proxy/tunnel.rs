//! Bytes both ways between a client and an endpoint: after an upgrade (WebSocket), and for TCP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use metrics::Counter;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::alarm::Alarm;
use super::client::Client;
use super::exchange::Held;
use super::relay::{Relay, Side};
use super::stream::{Prefixed, SharedStream};
use crate::routing::endpoint::Lease;

/// How long an upgraded connection may be silent both ways.
const UPGRADED_IDLE: Duration = Duration::from_secs(3600);

/// The tunnels of one worker, by endpoint: to cut when its drain time is over.
#[derive(Default)]
pub(crate) struct Tunnels {
    open: RefCell<Slab<(u64, Rc<Notify>)>>,
}

impl Tunnels {
    fn open(self: &Rc<Self>, endpoint: u64) -> Tunnel {
        let cut: Rc<Notify> = Rc::default();
        let key = self.open.borrow_mut().insert((endpoint, cut.clone()));
        Tunnel { tunnels: self.clone(), key, cut }
    }

    /// Ends the tunnels to `endpoint`.
    pub(crate) fn cut(&self, endpoint: u64) {
        for (_, (_, cut)) in self.open.borrow().iter().filter(|(_, (of, _))| *of == endpoint) {
            cut.notify_one();
        }
    }
}

/// The entry of an open tunnel. Gone when the tunnel is.
struct Tunnel {
    tunnels: Rc<Tunnels>,
    key: usize,
    cut: Rc<Notify>,
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        if let Ok(mut open) = self.tunnels.open.try_borrow_mut() {
            open.try_remove(self.key);
        }
    }
}

/// An exchange that ended with `101 Switching Protocols`: the endpoint's side, and the lease that counts it until the tunnel ends.
pub(crate) struct Upgrade {
    pub(crate) endpoint: SharedStream,
    /// What was read of the endpoint beyond its response.
    pub(crate) read_ahead: Bytes,
    pub(crate) held: Held,
}

/// Runs the tunnel that takes the place of an HTTP/1.1 connection.
pub(crate) async fn upgraded<S: AsyncRead + AsyncWrite + Unpin>(client: &Rc<Client>, upgrade: Upgrade, stream: S, read_ahead: Bytes) {
    let Upgrade { endpoint, read_ahead: endpoint_ahead, mut held } = upgrade;
    client.alarm.clear();
    let (near, far) = (Prefixed::new(read_ahead, stream), Prefixed::new(endpoint_ahead, endpoint));
    let mut relay = Relay::new(near, far, &[], [Counter::noop(), Counter::noop()], client.worker.loans.clone());
    if let Some(lease) = held.lease() {
        let limits = Limits { alarm: &client.alarm, idle: UPGRADED_IDLE, lifetime: None };
        if let Err(error) = run(&client.worker.tunnels, lease, limits, &mut relay).await {
            tracing::debug!(peer = %client.origin.peer, "upgraded connection ended: {error}");
        }
    }
    let (_, received) = relay.moved();
    held.count(usize::try_from(received).unwrap_or(usize::MAX));
    held.complete(None);
}

/// How long a tunnel may be.
pub(crate) struct Limits<'a> {
    /// Fires when nothing has moved either way for `idle`.
    pub(crate) alarm: &'a Alarm,
    pub(crate) idle: Duration,
    /// Fires when it is as old as it may be.
    pub(crate) lifetime: Option<Alarm>,
}

/// Runs `relay` until both sides have ended, one fails, a limit is over, or the tunnel is cut.
///
/// When one side ends, the other one is told, and may go on sending (half-close).
pub(crate) async fn run<N: Side, F: Side>(
    tunnels: &Rc<Tunnels>,
    lease: &Lease,
    limits: Limits<'_>,
    relay: &mut Relay<N, F>,
) -> io::Result<()> {
    let Limits { alarm, idle, lifetime } = limits;
    let tunnel = tunnels.open(lease.endpoint().id);
    let mut cut = pin!(tunnel.cut.notified());
    alarm.set(idle);
    poll_fn(|cx| {
        let polled = relay.poll(cx, || alarm.set(idle));
        if polled.is_ready() {
            return polled;
        }
        let over = |kind, why| Poll::Ready(Err(io::Error::new(kind, why)));
        if cut.as_mut().poll(cx).is_ready() {
            return over(io::ErrorKind::Other, "the endpoint is gone, and its drain time is over");
        }
        if alarm.poll(cx) {
            return over(io::ErrorKind::TimedOut, "nothing moved for too long");
        }
        if lifetime.as_ref().is_some_and(|lifetime| lifetime.poll(cx)) {
            return over(io::ErrorKind::TimedOut, "it is as old as it may be");
        }
        Poll::Pending
    })
    .await
}
