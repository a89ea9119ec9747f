//! One connection to the admin API: one request, one answer.
//!
//! No connection is kept for another request. Whoever asks does so every few seconds at most, and a connection that ends with its
//! answer can be bounded by one time limit.

use std::convert::Infallible;
use std::time::Duration;

use http::{Method, Request, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;

use super::answer::{self, Answer};
use super::{Source, host, prometheus, readiness, release, routes, table, upstreams};

/// For the head of the request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// For the whole: a large answer to a slow reader.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes of a request head.
const HEADER_BYTES_MAX: usize = 16 << 10;

/// What is asked for, and how it is answered.
type Page = (&'static str, fn(&Source) -> Answer);

/// What there is, by path.
const PATHS: [Page; 6] = [
    ("/livez", |_| readiness::live()),
    ("/readyz", |source| readiness::ready(&source.status)),
    ("/metrics", |source| prometheus::metrics(source.registry.as_deref())),
    ("/api/v1/table", |source| answer::json(StatusCode::OK, &table::TableView::of(&source.status))),
    ("/api/v1/routes", |source| answer::json(StatusCode::OK, &routes::RoutesView::of(&source.status.table()))),
    ("/api/v1/upstreams", |source| answer::json(StatusCode::OK, &upstreams::UpstreamsView::of(&source.status.table()))),
];

/// Answers the one request of this connection.
pub(super) async fn converse(stream: TcpStream, source: Source) {
    let service = service_fn(|request| {
        let answer = answer(&request, &source);
        async { Ok::<_, Infallible>(answer) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(HEADER_BYTES_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!("admin API: {error}"),
        Err(_) => tracing::debug!("admin API: closed a connection after {CONNECTION_TIMEOUT:?}"),
    }
}

fn answer<B>(request: &Request<B>, source: &Source) -> Answer {
    if let Err(host) = host::check(request, &source.hosts) {
        return answer::error(StatusCode::FORBIDDEN, &host::refusal(&host));
    }
    let path = request.uri().path();
    if let Some(provider) = release::provider_of(path) {
        return release::answer(request, provider, &source.status);
    }
    let Some((_, make)) = PATHS.iter().find(|(known, _)| *known == path) else {
        let known = PATHS.map(|(path, _)| path).into_iter().chain([release::PATH]).collect::<Vec<_>>().join(", ");
        return answer::error(StatusCode::NOT_FOUND, &format!("there is nothing at this path; there is {known}"));
    };
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return answer::wrong_method("GET, HEAD");
    }
    make(source)
}
