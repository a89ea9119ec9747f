//! The PROXY header that a connection begins with, on listeners that are set to it: read before TLS, from trusted proxies alone.
//!
//! It is looked at where it waits in the socket and taken from there when it is whole, not a byte more: what follows reads the socket as if
//! there had been none. How long that may take is bounded by the time for a request's head, how much by the length of a header.

use std::io;
use std::net::SocketAddr;

use rustix::net::{RecvFlags, recv};
use tokio::io::{AsyncReadExt, Interest};
use tokio::net::TcpStream;

use super::client::begin;
use super::forwarded::is_trusted;
use super::listener::ListenerHandle;
use super::origin::Origin;
use super::worker::Worker;
use crate::config::listener::ProxyProtocol;
use crate::proxy_protocol::{HEADER_BYTES_MAX, Header, Invalid, parse};
use crate::routing::listener::Listener;

/// Why there is no header.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it is not one of the `trusted_proxies`, and no other may connect")]
    Untrusted,
    #[error("{0}")]
    Invalid(#[from] Invalid),
    /// Also what many a check that a port is open does.
    #[error("the connection was closed before its first byte")]
    Closed,
    #[error("we drain, and none has come yet")]
    Draining,
    #[error("it ended after {0} bytes of it")]
    Truncated(usize),
    #[error("it was not there, or not whole, within {0:?}")]
    Slow(std::time::Duration),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads the header of a connection that is `direct` as far as the system knows. None: the connection is to be closed, and it was said why.
pub(crate) async fn read(
    worker: &Worker,
    handle: &ListenerHandle,
    listener: &Listener,
    stream: &mut TcpStream,
    direct: Origin,
) -> Option<Origin> {
    let settings = &listener.settings;
    let is_required = settings.proxy_protocol == ProxyProtocol::Required;
    let is_draining = || worker.is_draining() || handle.is_closed();
    let header = match is_trusted(direct.peer.ip(), &settings.trusted_proxies) {
        true => {
            let (alarm, limit) = (worker.alarms.alarm(), settings.timeouts.client_header);
            alarm.set(limit);
            let taken = begin(&alarm, is_draining, take(stream)).await;
            taken.unwrap_or_else(|| Err(if is_draining() { Refused::Draining } else { Refused::Slow(limit) }))
        }
        false if is_required => Err(Refused::Untrusted),
        false => return Some(direct),
    };
    match header {
        Ok(header) => Some(direct.told(header)),
        Err(Refused::Invalid(Invalid::Absent) | Refused::Closed) if !is_required => Some(direct),
        Err(refused) => {
            refused.say(worker, handle, direct.peer);
            None
        }
    }
}

/// Waits for a header, and takes it from the stream.
async fn take(stream: &mut TcpStream) -> Result<Header, Refused> {
    let mut seen = Vec::new();
    loop {
        look(stream, &mut seen).await?;
        if let Some((header, used)) = parse(&seen)? {
            seen.truncate(used);
            // It is all there.
            stream.read_exact(&mut seen).await?;
            return Ok(header);
        }
    }
}

/// Waits until more has come than was `seen`, and looks at it, without taking it.
async fn look(stream: &TcpStream, seen: &mut Vec<u8>) -> Result<(), Refused> {
    let before = seen.len();
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        // On the stack, not in the future.
        let looked = stream.try_io(Interest::READABLE, || {
            let mut bytes = [0; HEADER_BYTES_MAX];
            let (_, count) = recv(stream, &mut bytes, RecvFlags::PEEK)?;
            seen.clear();
            seen.extend_from_slice(bytes.get(..count).unwrap_or_default());
            // Nothing new: wait for the next time that the system says so.
            if count == before && count > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        match looked {
            Ok(0) => return Err(Refused::Closed),
            Ok(_) => return Ok(()),
            // No more will come.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => return Err(Refused::Truncated(before)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset && before == 0 => return Err(Refused::Closed),
            Err(error) => return Err(error.into()),
        }
    }
}

impl Refused {
    fn cause(&self) -> &'static str {
        match self {
            Self::Untrusted => "proxy_header_untrusted",
            Self::Invalid(Invalid::Absent) => "proxy_header_absent",
            Self::Invalid(_) => "proxy_header_invalid",
            Self::Slow(_) => "proxy_header_timeout",
            Self::Closed | Self::Draining | Self::Truncated(_) | Self::Io(_) => "proxy_header_truncated",
        }
    }

    fn say(&self, worker: &Worker, handle: &ListenerHandle, peer: SocketAddr) {
        let why = format_args!("closed a connection of {peer}: PROXY header: {self}");
        match self {
            Self::Closed | Self::Draining => tracing::debug!(listener = %handle.shared().name, "{why}"),
            _ => handle.refuse(worker, self.cause(), why),
        }
    }
}
