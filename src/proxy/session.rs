//! One session of a UDP listener: a client's endpoint, and the socket that speaks to it alone.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;

use rustix::io::Errno;

use super::datagram;
use super::listener::OpenConnection;
use crate::config::UdpRoute;
use crate::routing::endpoint::Lease;

/// After this many replies a session is taken for a stream of them: they are then received many at a time, which costs more for one alone.
const STREAM_REPLIES: u32 = 16;

/// A client at its endpoint. Ends when dropped, and its lease with it.
pub(super) struct Session {
    lease: Lease,
    endpoint: SocketAddr,
    socket: OwnedFd,
    /// The version of the route by which its endpoint was last found to be right.
    pub(super) route_version: u64,
    /// Replies that are still to come, if their number is known.
    owed: u32,
    replies: u32,
    _open: OpenConnection,
}

impl Session {
    /// A session at the endpoint of `lease`, which sees it come from `source` if that is not None.
    pub(super) fn new(lease: Lease, source: Option<IpAddr>, route_version: u64, open: OpenConnection) -> Result<Self, (Errno, Lease)> {
        let connected =
            lease.address().ip().ok_or(Errno::AFNOSUPPORT).and_then(|endpoint| Ok((endpoint, datagram::connect(endpoint, source)?)));
        match connected {
            Ok((endpoint, socket)) => Ok(Self { lease, endpoint, socket, route_version, owed: 0, replies: 0, _open: open }),
            Err(errno) => Err((errno, lease)),
        }
    }

    pub(super) fn lease(&self) -> &Lease {
        &self.lease
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn endpoint(&self) -> SocketAddr {
        self.endpoint
    }

    /// Notes datagrams that the endpoint was sent.
    pub(super) fn asked(&mut self, datagrams: usize, route: &UdpRoute) {
        let replies = route.responses.map_or(0, |responses| u32::from(responses.get()));
        let datagrams = u32::try_from(datagrams).unwrap_or(u32::MAX);
        self.owed = self.owed.saturating_add(datagrams.saturating_mul(replies));
    }

    /// Notes replies. Whether they were the last ones.
    pub(super) fn answered(&mut self, replies: usize, route: &UdpRoute) -> bool {
        let count = u32::try_from(replies).unwrap_or(u32::MAX);
        let was_stream = self.is_stream();
        self.replies = self.replies.saturating_add(count);
        if self.is_stream() && !was_stream {
            datagram::coalesce(&self.socket);
        }
        let was_owed = self.owed;
        self.owed = self.owed.saturating_sub(count);
        route.responses.is_some() && was_owed > 0 && self.owed == 0
    }

    /// Whether so many replies come that they are received many at a time.
    pub(super) fn is_stream(&self) -> bool {
        self.replies >= STREAM_REPLIES
    }
}

/// Whether an error says that the endpoint, or the way to it, is not there; others are of the datagram, or ours.
pub(super) fn is_unreachable(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::CONNREFUSED | Errno::HOSTUNREACH | Errno::NETUNREACH | Errno::HOSTDOWN | Errno::NETDOWN | Errno::PERM | Errno::ACCESS
    )
}

/// Whether an error says that we ran out of descriptors, memory or ports.
pub(super) fn is_exhausted(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::AGAIN | Errno::ADDRNOTAVAIL)
}
