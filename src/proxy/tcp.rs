//! One client connection of a TCP listener: an endpoint is chosen, connected to, and bytes are copied both ways.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::connect::connect;
use super::listener::ListenerHandle;
use super::stream::UpstreamStream;
use super::tunnel;
use super::warnings::Warning;
use super::worker::Worker;
use crate::config::listener::ListenerTimeouts;
use crate::routing::endpoint::Lease;
use crate::routing::route::{Target, TcpRoute};
use crate::routing::upstream::{PickRequest, Upstream};

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, handle: Rc<ListenerHandle>, stream: TcpStream, peer: SocketAddr) {
    let (listener, route) = worker.with_table(|table| {
        let listener = handle.settings(table);
        let route = table.tcp_routes.get(&listener.name).cloned();
        (listener, route)
    });
    let Some(route) = route else {
        return tracing::debug!(listener = %listener.name, %peer, "closed: no TCP route has this listener");
    };
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let Some(tls) = &listener.tls else { return forward(&worker, &route, stream, peer).await };
    let limit: ListenerTimeouts = listener.settings.timeouts;
    match tokio::time::timeout(limit.client_header, TlsAcceptor::from(tls.clone()).accept(stream)).await {
        Ok(Ok(stream)) => forward(&worker, &route, stream, peer).await,
        Ok(Err(error)) => tracing::debug!(listener = %listener.name, %peer, "TLS handshake: {error}"),
        Err(_) => tracing::debug!(listener = %listener.name, %peer, "TLS handshake: timed out"),
    }
}

async fn forward<S: AsyncRead + AsyncWrite + Unpin>(worker: &Rc<Worker>, route: &Arc<TcpRoute>, near: S, peer: SocketAddr) {
    let counted = Counted::begin(route);
    let upstream = match &route.target {
        Target::Upstream(upstream) => upstream,
        Target::Closed(reason) => {
            let text = format!("closed a connection of {peer}: {reason}");
            return worker.warn(Warning { route: Some(route.name.clone()), upstream: None, status: None, cause: "route_closed", text });
        }
        Target::Answered => return,
    };
    let Some((lease, far)) = connect_to_any(worker, upstream, peer).await else { return };
    let alarm = worker.alarms.alarm();
    let end = tunnel::run(&worker.tunnels, &lease, &alarm, route.idle_timeout, near, far).await;
    counted.end(end.is_ok());
    match end {
        Ok((sent, received)) => tracing::debug!(route = %route.name, %peer, sent, received, "ended"),
        Err(error) => tracing::debug!(route = %route.name, %peer, "ended: {error}"),
    }
}

/// A connection in the metrics of its route: a clean end counts as 200, a broken one as 502.
struct Counted<'a> {
    route: &'a TcpRoute,
    started: Instant,
    status: StatusCode,
}

impl<'a> Counted<'a> {
    fn begin(route: &'a TcpRoute) -> Self {
        route.metrics.begin();
        Self { route, started: Instant::now(), status: StatusCode::BAD_GATEWAY }
    }

    fn end(mut self, is_clean: bool) {
        if is_clean {
            self.status = StatusCode::OK;
        }
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.route.metrics.end(Some(self.status), self.started.elapsed());
    }
}

async fn connect_to_any(worker: &Worker, upstream: &Arc<Upstream>, peer: SocketAddr) -> Option<(Lease, UpstreamStream)> {
    let warn = |cause, text| worker.warn(Warning { route: None, upstream: Some(upstream.name.clone()), status: None, cause, text });
    let mut tried = Vec::new();
    while tried.len() <= usize::from(upstream.settings.retries) {
        let request = PickRequest { tried: &tried, ..PickRequest::new(peer.ip(), worker.random()) };
        let Some(picked) = upstream.pick(&request) else { break };
        match connect(picked.lease.endpoint(), &upstream.transport, upstream.settings.timeouts.connect).await {
            Ok(stream) => {
                upstream.metrics.connections.increment(1);
                return Some((picked.lease, stream));
            }
            Err(error) => {
                upstream.metrics.retry(error.cause());
                warn(error.cause(), format!("endpoint {}: {error}", picked.lease.address()));
                tried.push(picked.lease.endpoint().id);
            }
        }
    }
    upstream.metrics.error("no_endpoint");
    warn("no_endpoint", format!("closed a connection of {peer}: none of {} endpoints tried could be reached", tried.len()));
    None
}
