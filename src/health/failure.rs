//! Why a probe failed, and whose fault it is.

use std::error::Error;
use std::fmt::Write as _;
use std::io;

use rustix::io::Errno;

/// A probe that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    /// What we were doing, and why it failed: `connect: refused`.
    pub(super) reason: String,
    /// Whose fault it is.
    pub(super) fault: Fault,
}

/// Whose fault it is that a probe failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The endpoint's, or of the way to it: it counts against the endpoint.
    Endpoint,
    /// Ours: it says nothing about the endpoint. Running out of sockets must not take every endpoint down.
    Us,
}

impl Failure {
    /// A failure of the endpoint.
    pub(super) fn endpoint(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fault: Fault::Endpoint }
    }

    /// A failure of our own.
    pub(super) fn ours(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), fault: Fault::Us }
    }

    /// The same failure, with what we were doing before it.
    pub(super) fn during(self, step: &str) -> Self {
        Self { reason: format!("{step}: {}", self.reason), ..self }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if is_ours(&error) {
            return Self::ours(error.to_string());
        }
        Self::endpoint(match error.kind() {
            io::ErrorKind::ConnectionRefused => "refused".into(),
            io::ErrorKind::ConnectionReset => "reset".into(),
            io::ErrorKind::UnexpectedEof => "closed".into(),
            _ => crate::tls_error::told(&error),
        })
    }
}

impl From<hyper::Error> for Failure {
    fn from(error: hyper::Error) -> Self {
        Self::endpoint(with_sources(&error))
    }
}

/// Whether we, not the endpoint, ran out of something.
fn is_ours(error: &io::Error) -> bool {
    let ours = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::NOBUFS];
    Errno::from_io_error(error).is_some_and(|errno| ours.contains(&errno))
}

fn with_sources(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let _ = write!(text, ": {error}");
        source = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_whose_fault_it_is() {
        let check = |errno: Errno| Failure::from(io::Error::from(errno)).during("connect");
        assert_eq!(check(Errno::CONNREFUSED), Failure::endpoint("connect: refused"));
        assert_eq!(check(Errno::HOSTUNREACH), Failure::endpoint("connect: No route to host (os error 113)"));
        assert_eq!(check(Errno::MFILE), Failure::ours("connect: Too many open files (os error 24)"));
    }
}
