//! TLS handshakes that fail: what is said of them, and that the peer hears why.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;

use rustls::{AlertDescription, CertificateError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::server::TlsStream;

use super::listener::ListenerHandle;
use super::stream;
use super::worker::Worker;
use crate::routing::listener::Listener;
use crate::tls_error;

/// How a client's handshake ended. None: it took too long.
type Ended<S> = Option<Result<TlsStream<S>, (io::Error, S)>>;

/// What comes of a client's handshake. None: it was closed, and it was said why. Boxed, because a future keeps a place for each time that
/// it hands on what it has.
pub(crate) async fn finish<S: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    handle: &ListenerHandle,
    listener: &Listener,
    peer: SocketAddr,
    ended: Ended<S>,
) -> Option<Box<TlsStream<S>>> {
    match ended {
        Some(Ok(stream)) => return Some(Box::new(stream)),
        Some(Err((error, stream))) => failed(worker, handle, listener, peer, error, stream).await,
        None => unfinished(handle, peer, "timed out"),
    }
    None
}

/// A client did not get through its handshake. On a listener that asks for certificates that is worth a warning, and the alert must reach
/// the client.
async fn failed<S: AsyncRead + AsyncWrite + Unpin>(
    worker: &Worker,
    handle: &ListenerHandle,
    listener: &Listener,
    peer: SocketAddr,
    error: io::Error,
    stream: S,
) {
    if listener.settings.tls.as_ref().is_none_or(|tls| tls.client_auth.is_none()) {
        return unfinished(handle, peer, &error);
    }
    let why = format_args!("refused {peer}: TLS handshake: {}{}", tls_error::told(&error), explain(&error));
    handle.refuse(worker, "client_refused", why);
    stream::linger(stream).await;
}

/// A client did not get through its handshake, of which it is no use to say more: scanners do not all day.
fn unfinished(handle: &ListenerHandle, peer: SocketAddr, why: impl Display) {
    let shared = handle.shared();
    shared.metrics.refused("tls_handshake");
    tracing::debug!(listener = %shared.name, %peer, "TLS handshake: {why}");
}

/// What an error means to who set up the certificates.
fn explain(error: &io::Error) -> &'static str {
    match tls_error(error) {
        Some(rustls::Error::NoCertificatesPresented) => ": it has not joined, or shows its certificate to others only",
        Some(rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature)) => {
            ": another CA signed it, or one that was rotated out"
        }
        _ => "",
    }
}

/// Whether an endpoint has refused the certificate that we showed, or that we showed none. With TLS 1.3 that is heard after the handshake.
pub(crate) fn is_refusal(error: &io::Error) -> bool {
    use AlertDescription as Alert;
    let Some(rustls::Error::AlertReceived(alert)) = tls_error(error) else { return false };
    let certificate = [Alert::BadCertificate, Alert::UnsupportedCertificate, Alert::CertificateRevoked, Alert::CertificateExpired];
    // The last one: a CA of the same name as one that is trusted.
    let issuer = [Alert::CertificateUnknown, Alert::UnknownCA, Alert::CertificateRequired, Alert::AccessDenied, Alert::DecryptError];
    certificate.contains(alert) || issuer.contains(alert)
}

fn tls_error(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}
