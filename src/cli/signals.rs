//! What signals mean: SIGTERM and SIGINT end the process, gracefully the first time and at once the second; SIGHUP means nothing.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// The signals that are listened to.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    /// Catches them from now on.
    pub(super) fn catch() -> io::Result<Self> {
        let [terminate, interrupt, hang_up] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()].map(signal);
        Ok(Self { terminate: terminate?, interrupt: interrupt?, hang_up: hang_up? })
    }

    /// Waits until the process is asked to end. Gives the name of the signal that did.
    pub(super) async fn end(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hang_up.recv() => tracing::info!("SIGHUP: files are watched, the access log too; nothing to reload"),
            }
        }
    }
}
