//! Bytes both ways between a client and an endpoint: after an upgrade (WebSocket), and for TCP.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::alarm::Alarm;
use super::client::Client;
use super::exchange::Held;
use super::stream::{Direction, Prefixed, SharedStream, Watched};
use crate::routing::endpoint::Lease;

/// How long an upgraded connection may be silent both ways.
const UPGRADED_IDLE: Duration = Duration::from_secs(3600);

/// Buffer of one direction of a tunnel, in bytes.
const BUFFER_BYTES: usize = 16 << 10;

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
    let received = match held.lease() {
        Some(lease) => run(&client.worker.tunnels, lease, &client.alarm, UPGRADED_IDLE, near, far).await,
        None => Ok((0, 0)),
    };
    held.count(received.map_or(0, |(_, received)| usize::try_from(received).unwrap_or(usize::MAX)));
    held.complete(None);
}

/// Copies both ways until both sides have ended, one fails, nothing moves for `idle`, or the tunnel is cut.
///
/// When one side ends, the other one is told, and may go on sending (half-close). Gives the bytes sent to the endpoint, and received.
pub(crate) async fn run<A, B>(
    tunnels: &Rc<Tunnels>,
    lease: &Lease,
    alarm: &Alarm,
    idle: Duration,
    near: A,
    far: B,
) -> io::Result<(u64, u64)>
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let tunnel = tunnels.open(lease.endpoint().id);
    alarm.set(idle);
    let (mut near, mut far) = (
        Watched::new(near, |direction| {
            if direction != Direction::Blocked {
                alarm.set(idle)
            }
        }),
        far,
    );
    let mut copy = pin!(tokio::io::copy_bidirectional_with_sizes(&mut near, &mut far, BUFFER_BYTES, BUFFER_BYTES));
    let mut cut = pin!(tunnel.cut.notified());
    poll_fn(|cx| {
        if let Poll::Ready(end) = copy.as_mut().poll(cx) {
            return Poll::Ready(end);
        }
        if cut.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::Error::other("the endpoint is gone, and its drain time is over")));
        }
        if alarm.poll(cx) {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing moved for too long")));
        }
        Poll::Pending
    })
    .await
}
