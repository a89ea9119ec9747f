//! One client connection that speaks HTTP: a PROXY header and TLS if the listener wants them, then HTTP/1.1 or HTTP/2, until one side ends it.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::arrival;
use super::body::ResponseBody;
use super::client::{Client, Limit, Stream};
use super::deadline::Streams;
use super::exchange::answer;
use super::flood::{Budget, Metered, REQUEST_FORGIVES};
use super::handshake;
use super::listener::{ListenerHandle, local_address};
use super::origin::Origin;
use super::stream::{self, Prefixed, Watched};
use super::tunnel;
use super::worker::Worker;
use crate::config::listener::{ListenerLimits, ProxyProtocol};
use crate::routing::listener::Listener;

/// How an HTTP/2 connection begins (RFC 9113 section 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Serves a connection to its end.
pub(crate) async fn serve(worker: Rc<Worker>, handle: Rc<ListenerHandle>, mut stream: TcpStream, peer: SocketAddr) {
    let listener = worker.with_table(|table| handle.settings(table));
    let limits = listener.settings.limits;
    let mut origin = Origin::direct(peer, local_address(&stream));
    if listener.settings.proxy_protocol != ProxyProtocol::Off {
        // Boxed: most connections have no such header, and need no room for reading one.
        match Box::pin(arrival::read(&worker, &handle, &listener, &mut stream, origin)).await {
            Some(told) => origin = told,
            None => return,
        }
    }
    let Ok(_place) = handle.admit(&worker, &listener, origin.peer.ip()) else { return };
    let client = Client::new(worker, handle, origin, &listener);
    let Some(tls) = &listener.tls else { return serve_plain(client, stream, limits).await };
    // Boxed: what TLS and HTTP/2 need would otherwise be part of every connection's task, also of those that have neither, and what a
    // handshake needs part of every connection that has had one.
    let Some(stream) = Box::pin(decrypt(&client, &listener, tls, stream, peer)).await else { return };
    serve_encrypted(client, stream, limits).await;
}

/// Ends the client's TLS. None: it was closed, and it was said why.
async fn decrypt(client: &Client, listener: &Listener, tls: &Arc<ServerConfig>, stream: TcpStream, peer: SocketAddr) -> Option<Encrypted> {
    let ended = client.within_limit(TlsAcceptor::from(tls.clone()).accept(stream).into_fallible()).await;
    handshake::finish(&client.worker, &client.listener, listener, peer, ended).await
}

/// A client's side once its TLS is ended.
type Encrypted = Box<TlsStream<TcpStream>>;

fn serve_encrypted(client: Rc<Client>, stream: Encrypted, limits: ListenerLimits) -> Pin<Box<dyn Future<Output = ()>>> {
    let tls = stream.get_ref().1;
    client.encrypted(tls);
    if tls.alpn_protocol() == Some(b"h2") {
        Box::pin(serve_h2(client, Bytes::new(), stream, limits))
    } else {
        Box::pin(serve_h1(client, Bytes::new(), stream, limits))
    }
}

/// Without ALPN the first bytes tell the protocol.
async fn serve_plain(client: Rc<Client>, mut stream: TcpStream, limits: ListenerLimits) {
    let mut prefix = BytesMut::with_capacity(2048);
    loop {
        match client.within_limit(stream.read_buf(&mut prefix)).await {
            Some(Ok(read)) if read > 0 => {}
            _ => return,
        }
        let seen = prefix.len().min(H2_PREFACE.len());
        if prefix.get(..seen) != H2_PREFACE.get(..seen) {
            return serve_h1(client, prefix.freeze(), stream, limits).await;
        }
        if seen == H2_PREFACE.len() {
            return Box::pin(serve_h2(client, prefix.freeze(), stream, limits)).await;
        }
    }
}

/// Between requests that are far apart there is no HTTP on the connection, only a socket that waits.
async fn serve_h1<S: AsyncRead + AsyncWrite + Unpin + 'static>(client: Rc<Client>, prefix: Bytes, stream: S, limits: ListenerLimits) {
    let mut came = Some((stream, prefix));
    while let Some((stream, bytes)) = came.take() {
        // Boxed, so that nothing of it is kept meanwhile.
        let Some((mut stream, ahead)) = Box::pin(speak_h1(&client, bytes, stream, limits)).await else { return };
        // Of a request that has begun, HTTP waits for the rest: that limit counts from here, and it is not parked again.
        if !ahead.is_empty() {
            came = Some((stream, ahead));
            continue;
        }
        // Empty, it still holds on to the whole buffer that it was read into.
        drop(ahead);
        came = client.woken(&mut stream).await.map(|bytes| (stream, bytes));
    }
}

/// Answers requests. Gives the stream back when none has come for a while, with what was read of one that has begun.
async fn speak_h1<S: AsyncRead + AsyncWrite + Unpin + 'static>(
    client: &Rc<Client>,
    prefix: Bytes,
    stream: S,
    limits: ListenerLimits,
) -> Option<(S, Bytes)> {
    let service = service_fn(|request: Request<Incoming>| {
        let client = client.clone();
        async move {
            client.begin_exchange(!request.body().is_end_stream());
            let alarm = client.alarm.clone();
            Ok::<Response<ResponseBody>, Infallible>(answer(client, alarm, None, request).await)
        }
    });
    let io = TokioIo::new(Watched::new(Prefixed::new(prefix, stream), |direction| client.progress(direction)));
    let mut builder = http1::Builder::new();
    builder.max_headers(usize::from(limits.headers)).max_header_size(limits.header_bytes as usize);
    let mut connection = builder.serve_connection(io, service);
    let mut is_draining = false;
    let end = poll_fn(|cx| {
        let mut polled = Pin::new(&mut connection).poll(cx);
        // Only then: hyper would close a connection whose first request it has not seen yet.
        if polled.is_pending() && !is_draining && client.is_draining() {
            is_draining = true;
            Pin::new(&mut connection).graceful_shutdown();
            polled = Pin::new(&mut connection).poll(cx);
        }
        match polled {
            Poll::Ready(end) => Poll::Ready(Ok(end)),
            Poll::Pending => match client.limit(cx) {
                Limit::Within => Poll::Pending,
                limit => Poll::Ready(Err(limit)),
            },
        }
    })
    .await;
    match end {
        Err(Limit::Park) => {
            let parts = connection.into_parts();
            return Some((parts.io.into_inner().into_inner().into_inner(), parts.read_buf));
        }
        Err(_) => tracing::debug!(peer = %client.origin.peer, "closed: nothing came, or went, for too long, or a request took too long"),
        Ok(Err(error)) => tracing::debug!(peer = %client.origin.peer, "closed: {error}"),
        Ok(Ok(())) => {
            let upgrade = client.upgrade.borrow_mut().take();
            if let Some(upgrade) = upgrade {
                let parts = connection.into_parts();
                tunnel::upgraded(client, upgrade, parts.io.into_inner().into_inner(), parts.read_buf).await;
            } else if client.has_unread_body() {
                stream::linger(connection.into_parts().io.into_inner()).await;
            }
        }
    }
    None
}

async fn serve_h2<S: AsyncRead + AsyncWrite + Unpin + 'static>(client: Rc<Client>, prefix: Bytes, stream: S, limits: ListenerLimits) {
    client.multiplex();
    let budget = Rc::new(Budget::new(limits.h2_anomalies, Instant::now()));
    let stream = Metered::new(Prefixed::new(prefix, stream), budget.clone());
    let service = service_fn(|request: Request<Incoming>| {
        let stream = Stream::open(&client);
        let (client, budget) = (client.clone(), budget.clone());
        // Boxed: hyper moves it several times on its way into a task of its own.
        Box::pin(async move {
            let alarm = Rc::new(client.worker.alarms.alarm());
            let response = answer(client, alarm, Some(stream), request).await;
            budget.forgive(REQUEST_FORGIVES);
            Ok::<Response<ResponseBody>, Infallible>(response)
        })
    });
    let io = TokioIo::new(Watched::new(stream, |direction| client.progress(direction)));
    let mut builder = http2::Builder::new(Streams(client.clone()));
    builder
        .max_concurrent_streams(limits.h2_streams)
        .max_header_list_size(limits.header_bytes)
        .max_pending_accept_reset_streams(20)
        .max_local_error_reset_streams(100)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(2 << 20)
        .max_send_buf_size(256 << 10);
    let mut connection = builder.serve_connection(io, service);
    let mut is_draining = false;
    let end = poll_fn(|cx| {
        if !is_draining && client.is_draining() {
            is_draining = true;
            Pin::new(&mut connection).graceful_shutdown();
        }
        match Pin::new(&mut connection).poll(cx) {
            Poll::Ready(end) => Poll::Ready(Some(end)),
            Poll::Pending if client.alarm.poll(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await;
    match end {
        None => tracing::debug!(peer = %client.origin.peer, "closed: idle for too long"),
        Some(Err(error)) => tracing::debug!(peer = %client.origin.peer, "closed: {error}"),
        Some(Ok(())) => {}
    }
}
