//! The HTTP probe: a `GET` is answered with an expected status, over the upstream's own transport.
//!
//! Only the head of the answer is read: with the connection goes what its body may be.

use std::ops::RangeInclusive;
use std::pin::pin;

use bytes::Bytes;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::Empty;
use hyper::client::conn::{http1, http2};
use hyper::rt::Executor;
use hyper_util::rt::TokioIo;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connect::{Stream, Target, connect};
use super::failure::Failure;
use crate::config::upstream::UpstreamProtocol;
use crate::routing::EndpointState;
use crate::routing::upstream::{Payload, Transport};

/// The greatest head of an answer that is read, in bytes.
const HEAD_BYTES_MAX: u16 = 16 * 1024;

/// What endpoints see in `User-Agent`.
const USER_AGENT: HeaderValue = HeaderValue::from_static("nuncio-health");

/// What is asked, and which answers are good.
#[derive(Debug)]
pub(super) struct Question<'a> {
    /// Path and query.
    pub(super) path: &'a str,
    /// The `Host` sent. None: the endpoint's name or address.
    pub(super) host: Option<&'a str>,
    /// Statuses that count as success.
    pub(super) status: RangeInclusive<u16>,
}

/// Probes `target`; says what was found. Tasks that HTTP/2 needs are spawned on `tasks`, and end with the probe.
pub(super) async fn probe(question: &Question<'_>, target: &Target<'_>, tasks: &TaskTracker) -> Result<String, Failure> {
    let step = format!("GET {}", question.path);
    let request = request(question, target.endpoint, target.transport).map_err(|failure| failure.during(&step))?;
    let stream = connect(target, Payload::Requests).await?;
    let protocol = target.transport.protocol;
    let status = target.deadline.hold(&step, exchange(stream, request, protocol, tasks)).await?;
    judge(status, &question.status).map_err(|failure| failure.during(&step))?;
    Ok(format!("{step}: status {}", status.as_u16()))
}

fn judge(status: StatusCode, expected: &RangeInclusive<u16>) -> Result<(), Failure> {
    let status = status.as_u16();
    if expected.contains(&status) {
        return Ok(());
    }
    let (low, high) = (expected.start(), expected.end());
    let expected = if low == high { low.to_string() } else { format!("{low}-{high}") };
    Err(Failure::endpoint(format!("status {status}, expected {expected}")))
}

/// Fails only for settings that no configuration can hold, but a program can.
fn request(question: &Question<'_>, endpoint: &EndpointState, transport: &Transport) -> Result<Request<Empty<Bytes>>, Failure> {
    let path: PathAndQuery = question.path.parse().map_err(|error| Failure::ours(format!("not a path: {error}")))?;
    let host = question.host.map_or_else(|| endpoint.authority(), str::to_string);
    let bad_host = || Failure::ours(format!("{host:?} is not a host"));
    let mut request = Request::new(Empty::new());
    request.headers_mut().insert(header::USER_AGENT, USER_AGENT);
    if transport.protocol == UpstreamProtocol::Http1 {
        *request.uri_mut() = Uri::from(path);
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(&host).map_err(|_| bad_host())?);
        request.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        return Ok(request);
    }
    let mut parts = http::uri::Parts::default();
    parts.scheme = Some(if transport.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(host.parse::<Authority>().map_err(|_| bad_host())?);
    parts.path_and_query = Some(path);
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| bad_host())?;
    *request.version_mut() = http::Version::HTTP_2;
    Ok(request)
}

/// Sends `request` and reads the head of the answer.
async fn exchange(
    stream: Stream,
    request: Request<Empty<Bytes>>,
    protocol: UpstreamProtocol,
    tasks: &TaskTracker,
) -> Result<StatusCode, hyper::Error> {
    let io = TokioIo::new(stream);
    let response = match protocol {
        UpstreamProtocol::Http1 => {
            let (mut sender, connection) = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX.into()).handshake(io).await?;
            alongside(connection, sender.send_request(request)).await?
        }
        UpstreamProtocol::H2 | UpstreamProtocol::H2c => {
            let stop = CancellationToken::new();
            let _stop_at_end = stop.clone().drop_guard();
            let spawner = Spawner { tasks: tasks.clone(), stop };
            let (mut sender, connection) = http2::Builder::new(spawner).max_header_list_size(HEAD_BYTES_MAX.into()).handshake(io).await?;
            alongside(connection, sender.send_request(request)).await?
        }
    };
    Ok(response.status())
}

/// Awaits `exchange` while `connection` makes it happen.
async fn alongside<T>(connection: impl Future, exchange: impl Future<Output = T>) -> T {
    let mut exchange = pin!(exchange);
    tokio::select! {
        outcome = &mut exchange => outcome,
        // Then the exchange is over too, and knows why.
        _ = connection => exchange.await,
    }
}

/// Spawns the tasks that hyper makes of an HTTP/2 connection, and ends them with the probe: an endpoint that stopped reading could hold
/// them forever.
#[derive(Clone)]
struct Spawner {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl<F> Executor<F> for Spawner
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, future: F) {
        self.tasks.spawn(self.stop.clone().run_until_cancelled_owned(future));
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use std::time::Duration;

    use super::super::deadline::Deadline;
    use super::super::testing::{Server, certified, transport, until};
    use super::*;
    use crate::config::upstream::UpstreamTls;

    const PLENTY: Duration = Duration::from_secs(10);

    async fn ask(question: Question<'_>, address: SocketAddr, transport: &Transport, limit: Duration) -> Result<String, String> {
        let tasks = TaskTracker::new();
        let endpoint = EndpointState::new(address, true);
        let target = Target { endpoint: &endpoint, transport, port: None, deadline: Deadline::after(limit) };
        let outcome = probe(&question, &target, &tasks).await;
        until(|| tasks.is_empty()).await;
        outcome.map_err(|failure| failure.reason)
    }

    async fn check(server: &Server, protocol: UpstreamProtocol, tls: Option<UpstreamTls>) -> Result<String, String> {
        let question = Question { path: "/healthz?full=1", host: None, status: 200..=399 };
        ask(question, server.address, &transport(protocol, tls), PLENTY).await
    }

    #[tokio::test]
    async fn asks_as_it_was_told_to() {
        let server = Server::http1().await;
        assert_eq!(check(&server, UpstreamProtocol::Http1, None).await, Ok("GET /healthz?full=1: status 200".into()));
        let seen = server.last_request();
        assert_eq!(seen.uri, "/healthz?full=1");
        assert_eq!(seen.headers[header::HOST], server.address.to_string());
        assert_eq!(seen.headers[header::USER_AGENT], "nuncio-health");

        let question = Question { path: "/", host: Some("shop.test"), status: 200..=399 };
        ask(question, server.address, &transport(UpstreamProtocol::Http1, None), PLENTY).await.unwrap();
        assert_eq!(server.last_request().headers[header::HOST], "shop.test");
    }

    #[tokio::test]
    async fn only_the_expected_statuses_are_good() {
        let server = Server::http1().await;
        let transport = transport(UpstreamProtocol::Http1, None);
        for (status, expected, outcome) in [
            (204, 200..=399, Ok("GET /: status 204")),
            (399, 200..=399, Ok("GET /: status 399")),
            (400, 200..=399, Err("GET /: status 400, expected 200-399")),
            (200, 204..=204, Err("GET /: status 200, expected 204")),
        ] {
            server.answer(status);
            let found = ask(Question { path: "/", host: None, status: expected }, server.address, &transport, PLENTY).await;
            assert_eq!(found, outcome.map(str::to_string).map_err(str::to_string));
        }
    }

    #[tokio::test]
    async fn says_what_went_wrong() {
        let mut server = Server::mute().await;
        for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::H2c] {
            let question = Question { path: "/", host: None, status: 200..=399 };
            let found = ask(question, server.address, &transport(protocol, None), Duration::from_millis(50)).await;
            assert_eq!(found, Err("GET /: timed out after 50ms".into()));
        }
        server.close().await;
        assert_eq!(check(&server, UpstreamProtocol::Http1, None).await, Err("connect: refused".into()));
        let hangs_up = Server::hangs_up().await;
        for protocol in [UpstreamProtocol::Http1, UpstreamProtocol::H2c] {
            let error = check(&hangs_up, protocol, None).await.unwrap_err();
            assert!(error.starts_with("GET /healthz?full=1: "), "{error}");
        }
        let question = Question { path: "/a b", host: None, status: 200..=399 };
        let error = ask(question, server.address, &transport(UpstreamProtocol::Http1, None), PLENTY).await.unwrap_err();
        assert!(error.starts_with("GET /a b: not a path: "), "{error}");
    }

    #[tokio::test]
    async fn speaks_http2_in_the_clear() {
        let server = Server::h2c().await;
        assert_eq!(check(&server, UpstreamProtocol::H2c, None).await, Ok("GET /healthz?full=1: status 200".into()));
        assert_eq!(server.last_request().uri, format!("http://{}/healthz?full=1", server.address).as_str());
        server.answer(500);
        assert!(check(&server, UpstreamProtocol::H2c, None).await.unwrap_err().contains("status 500"));
        assert!(check(&server, UpstreamProtocol::Http1, None).await.is_err());
    }

    #[tokio::test]
    async fn speaks_tls() {
        let (tls, certificate) = certified();
        let server = Server::https1(certificate.clone()).await;
        assert_eq!(check(&server, UpstreamProtocol::Http1, Some(tls.clone())).await, Ok("GET /healthz?full=1: status 200".into()));
        let (other, _) = certified();
        let error = check(&server, UpstreamProtocol::Http1, Some(other)).await.unwrap_err();
        assert!(error.starts_with("TLS handshake: invalid peer certificate"), "{error}");
        let server = Server::https2(certificate).await;
        assert_eq!(check(&server, UpstreamProtocol::H2, Some(tls)).await, Ok("GET /healthz?full=1: status 200".into()));
    }

    #[tokio::test]
    async fn wants_http2_to_be_agreed_on() {
        let (tls, certificate) = certified();
        let without_alpn = Server::https1(certificate).await;
        let error = check(&without_alpn, UpstreamProtocol::H2, Some(tls)).await;
        assert_eq!(error, Err("TLS handshake: it did not agree to speak HTTP/2".into()));
    }
}
