//! What systemd and we tell each other: sockets that it has opened (sd_listen_fds(3)), and when we are ready (sd_notify(3)).

use listenfd::ListenFd;
use nuncio::Name;
use nuncio::proxy::bind::{ListenSocket, PassedSockets};
use sd_notify::NotifyState;

use super::Failure;

/// The names of the sockets, in their order, between colons.
const NAMES: &str = "LISTEN_FDNAMES";

/// What a socket without a name is called.
const UNNAMED: &str = "unknown";

/// The sockets that were passed on to this process. None, if nobody did.
pub(super) fn passed_sockets() -> Result<PassedSockets, Failure> {
    let mut passed = PassedSockets::default();
    let mut sockets = ListenFd::from_env();
    let names = std::env::var(NAMES).unwrap_or_default();
    let mut names = names.split(':').filter(|name| !name.is_empty());
    for index in 0..sockets.len() {
        let name = names.next().unwrap_or(UNNAMED);
        let failure = |why: String| Failure::Message(format!("systemd passed on a socket `{name}`: {why}"));
        let name: Name = name.parse().map_err(|error| failure(format!("{error}. Set FileDescriptorName= in its unit")))?;
        let socket = take(&mut sockets, index).ok_or_else(|| failure("only ListenStream= and ListenDatagram= can be served".into()))?;
        tracing::debug!(socket = %name, "passed on by systemd");
        passed.add(name, socket);
    }
    Ok(passed)
}

fn take(sockets: &mut ListenFd, index: usize) -> Option<ListenSocket> {
    if let Ok(Some(socket)) = sockets.take_tcp_listener(index) {
        return Some(ListenSocket::Tcp(socket));
    }
    if let Ok(Some(socket)) = sockets.take_unix_listener(index) {
        return Some(ListenSocket::Unix(socket));
    }
    sockets.take_udp_socket(index).ok().flatten().map(ListenSocket::Udp)
}

/// Says that traffic may come.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// Says that we are about to end.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

/// Nobody listens where we are not a unit of systemd.
fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!("systemd is not told: {error}");
    }
}
