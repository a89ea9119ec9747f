//! A request on its way to an upstream: an endpoint is picked, asked, and another one where that is safe.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use http::request::Parts;
use http::{HeaderValue, Method, Request, StatusCode};

use super::alarm::Alarm;
use super::body::{ClientBody, Received, RequestBody};
use super::client::Client;
use super::error::{ConnectError, Failure};
use super::h1::{self, Download};
use super::head::{self, ConnectionOptions};
use super::outgoing::{prepare, set_host};
use super::pool::Key;
use crate::config::upstream::{HostHeader, UpstreamProtocol};
use crate::middleware;
use crate::routing::endpoint::Lease;
use crate::routing::upstream::{PickRequest, Upstream};

/// A request on its way to an upstream.
pub(crate) struct Forward<'a> {
    pub(crate) client: &'a Rc<Client>,
    pub(crate) alarm: &'a Rc<Alarm>,
    pub(crate) upstream: &'a Arc<Upstream>,
    pub(crate) exchange: &'a middleware::Exchange,
}

/// A response whose body is still with the endpoint.
pub(crate) struct Reply {
    pub(crate) response: h1::Answer<Received>,
    pub(crate) set_cookie: Option<HeaderValue>,
    pub(crate) lease: Lease,
}

/// How one attempt failed.
struct Attempt {
    failure: Failure,
    retry: Retry,
}

/// What may be tried after a failed attempt.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Retry {
    /// Nothing: the endpoint may have acted on the request.
    Never,
    /// Another connection to the same endpoint: it closed the one it had as we wrote.
    SameEndpoint,
    /// Another endpoint.
    OtherEndpoint,
}

/// How often one endpoint is asked again because it closed its connections. With HTTP/2 it may do so under many requests at once.
const REPEATS_MAX: u8 = 10;

impl Forward<'_> {
    /// Tries one endpoint after the other, as long as that is safe and allowed.
    pub(crate) async fn run(&self, head: &mut Parts, body: Option<Rc<ClientBody>>, options: ConnectionOptions) -> Result<Reply, Failure> {
        let upgrade = options.upgrade.filter(|_| self.upstream.transport.protocol == UpstreamProtocol::Http1);
        prepare(head, self.client, self.upstream, upgrade.as_ref(), options.wants_trailers);
        let mut tried: Vec<u64> = Vec::new();
        let mut last = None;
        let mut repeats = 0;
        let mut leased = None;
        loop {
            let picked = match leased.take() {
                Some(picked) => picked,
                None => match self.upstream.pick(&self.pick_request(head, &tried)) {
                    Some(picked) => picked,
                    None => return Err(last.unwrap_or_else(|| self.no_endpoint())),
                },
            };
            let attempt = self.attempt(head, body.as_ref(), &picked.lease, repeats == 0, upgrade.is_some()).await;
            let Attempt { failure, retry } = match attempt {
                Ok(response) => return Ok(Reply { response, set_cookie: picked.set_cookie, lease: picked.lease }),
                Err(attempt) => attempt,
            };
            match retry {
                Retry::Never => return Err(self.give_up(failure)),
                Retry::SameEndpoint if repeats < REPEATS_MAX => {
                    self.upstream.metrics.retry("stale_connection");
                    repeats += 1;
                    leased = Some(picked);
                }
                Retry::SameEndpoint | Retry::OtherEndpoint => {
                    tried.push(picked.lease.endpoint().id);
                    if tried.len() > usize::from(self.upstream.settings.retries) {
                        return Err(self.give_up(failure));
                    }
                    self.upstream.metrics.retry(failure.cause);
                    repeats = 0;
                    last = Some(failure);
                }
            }
        }
    }

    fn pick_request<'r>(&self, head: &'r Parts, tried: &'r [u64]) -> PickRequest<'r> {
        let (client_ip, is_https, random) = (self.exchange.client_ip, self.exchange.is_https, self.client.worker.random());
        PickRequest { headers: &head.headers, client_ip, is_https, random, tried }
    }

    fn no_endpoint(&self) -> Failure {
        self.upstream.metrics.error("no_endpoint");
        let detail = format!("upstream {}: none of its {} endpoints is eligible", self.upstream.name, self.upstream.endpoints.len());
        Failure::config(StatusCode::SERVICE_UNAVAILABLE, "no_endpoint", detail)
    }

    fn give_up(&self, failure: Failure) -> Failure {
        self.upstream.metrics.error(failure.cause);
        Failure { detail: format!("upstream {}: {}", self.upstream.name, failure.detail), ..failure }
    }

    async fn attempt(
        &self,
        head: &mut Parts,
        body: Option<&Rc<ClientBody>>,
        lease: &Lease,
        allow_reuse: bool,
        is_upgrade: bool,
    ) -> Result<h1::Answer<Received>, Attempt> {
        if let HostHeader::Endpoint = self.upstream.settings.host {
            set_host(head, &lease.endpoint().authority());
        }
        match self.upstream.transport.protocol {
            UpstreamProtocol::Http1 => self.attempt_h1(head, body, lease, allow_reuse, is_upgrade).await,
            UpstreamProtocol::H2 | UpstreamProtocol::H2c => Box::pin(self.attempt_h2(head, body, lease, allow_reuse)).await,
        }
    }

    async fn attempt_h1(
        &self,
        head: &mut Parts,
        body: Option<&Rc<ClientBody>>,
        lease: &Lease,
        allow_reuse: bool,
        is_upgrade: bool,
    ) -> Result<h1::Answer<Received>, Attempt> {
        let key = Key::new(lease.endpoint(), self.upstream, self.client);
        let is_replayable = body.is_none() && is_idempotent(&head.method);
        let pool = &self.client.worker.pool;
        let idle = allow_reuse.then(|| pool.take_h1(key, self.client.worker.alarms.now())).flatten();
        // What cannot be sent twice is not written to a connection that the endpoint has closed already, or may be about to close.
        let idle = idle.filter(|connection| is_replayable || (connection.is_proven && !connection.is_stale()));
        let connection = match idle {
            Some(connection) => connection,
            None => {
                self.alarm.clear();
                // Boxed: most requests find a connection, and need no room for making one.
                let connected = Box::pin(pool.connect_h1(key, lease.endpoint(), self.upstream, self.client)).await;
                connected.map_err(|error| unreachable(lease, &error))?
            }
        };
        let timeouts = &self.upstream.settings.timeouts;
        self.alarm.set(timeouts.response_header);
        let is_reused = connection.is_reused;
        match self.within_limit(connection.send(head, body, timeouts.idle)).await {
            Some(Ok(answer)) => self.answered(answer, body, lease, is_upgrade),
            Some(Err(failed)) => {
                if is_reused {
                    pool.disprove(key);
                }
                Err(self.failed(failed.into(), is_replayable, is_reused, body, lease))
            }
            None => Err(self.timed_out(body, lease)),
        }
    }

    fn answered(
        &self,
        answer: h1::Answer<Download>,
        body: Option<&Rc<ClientBody>>,
        lease: &Lease,
        is_upgrade: bool,
    ) -> Result<h1::Answer<Received>, Attempt> {
        if answer.head.status == StatusCode::SWITCHING_PROTOCOLS && !(is_upgrade && answer.body.is_request_sent()) {
            let failure = Failure::upstream(StatusCode::BAD_GATEWAY, "unasked_upgrade", lease.address(), "101 to no upgrade");
            return Err(Attempt { failure, retry: Retry::Never });
        }
        if let Some(body) = body {
            body.answered(self.upstream.settings.timeouts.idle);
        }
        let h1::Answer { head, upgrade, body } = answer;
        Ok(h1::Answer { head, upgrade, body: Received::H1(body) })
    }

    async fn attempt_h2(
        &self,
        head: &mut Parts,
        body: Option<&Rc<ClientBody>>,
        lease: &Lease,
        allow_reuse: bool,
    ) -> Result<h1::Answer<Received>, Attempt> {
        let key = Key::new(lease.endpoint(), self.upstream, self.client);
        let is_replayable = body.is_none() && is_idempotent(&head.method);
        self.alarm.clear();
        let stream = self.client.worker.pool.h2(key, lease.endpoint(), self.upstream, self.client, Instant::now).await;
        let mut stream = stream.map_err(|error| unreachable(lease, &error))?;
        let request = Request::from_parts(head.clone(), request_body_of(body));
        self.alarm.set(self.upstream.settings.timeouts.response_header);
        match self.within_limit(stream.sender.try_send_request(request)).await {
            Some(Ok(response)) => {
                if let Some(body) = body {
                    body.answered(self.upstream.settings.timeouts.idle);
                }
                let (mut head, body) = response.into_parts();
                head::remove_hop_by_hop(&mut head.headers);
                Ok(h1::Answer { head, upgrade: None, body: Received::H2(body, stream) })
            }
            Some(Err(mut error)) => {
                let was_sent = error.take_message().is_none();
                let broken = Broken::new(&error.into_error(), was_sent);
                if !broken.is_reset {
                    self.client.worker.pool.leave_h2(key, &stream);
                }
                Err(self.failed(broken, is_replayable, allow_reuse, body, lease))
            }
            None => Err(self.timed_out(body, lease)),
        }
    }

    /// Waits for the head of a response. None: the limit in force is over.
    async fn within_limit<T>(&self, response: impl Future<Output = T>) -> Option<T> {
        let mut response = pin!(response);
        poll_fn(|cx| match response.as_mut().poll(cx) {
            Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
            Poll::Pending if self.alarm.poll(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        })
        .await
    }

    /// An attempt that ended without a response.
    fn failed(&self, broken: Broken, is_replayable: bool, is_reused: bool, body: Option<&Rc<ClientBody>>, lease: &Lease) -> Attempt {
        if body.is_some_and(|body| body.is_too_large()) {
            return Attempt { failure: Failure::client(super::body::TOO_LARGE, "body_too_large"), retry: Retry::Never };
        }
        let is_untouched = body.is_none_or(|body| !body.is_touched());
        if broken.is_client && !is_untouched {
            return Attempt { failure: Failure::client(StatusCode::BAD_REQUEST, "client_body"), retry: Retry::Never };
        }
        let cause = if broken.is_closed { "closed_early" } else { "bad_response" };
        let failure = Failure::upstream(StatusCode::BAD_GATEWAY, cause, lease.address(), broken.why);
        let may_repeat = is_untouched && (!broken.was_sent || (is_replayable && broken.is_closed));
        let retry = match (may_repeat, is_reused || broken.is_refused) {
            (true, true) => Retry::SameEndpoint,
            (true, false) => Retry::OtherEndpoint,
            (false, _) => Retry::Never,
        };
        Attempt { failure, retry }
    }

    fn timed_out(&self, body: Option<&Rc<ClientBody>>, lease: &Lease) -> Attempt {
        let failure = if body.is_some_and(|body| body.is_awaited()) {
            Failure::client(StatusCode::REQUEST_TIMEOUT, "client_body_timeout")
        } else {
            let limit = self.upstream.settings.timeouts.response_header;
            let why = format!("no response within {limit:?}");
            Failure::upstream(StatusCode::GATEWAY_TIMEOUT, "response_timeout", lease.address(), why)
        };
        Attempt { failure, retry: Retry::Never }
    }
}

fn unreachable(lease: &Lease, error: &ConnectError) -> Attempt {
    let status = match error {
        ConnectError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    Attempt { failure: Failure::upstream(status, error.cause(), lease.address(), error), retry: Retry::OtherEndpoint }
}

/// How a connection, or one stream of it, broke before a response began.
struct Broken {
    /// It was closed, so that the endpoint has most likely not acted on the request.
    is_closed: bool,
    /// HTTP/2: the stream alone was ended.
    is_reset: bool,
    /// HTTP/2: the endpoint said that it has not acted on the request.
    is_refused: bool,
    was_sent: bool,
    /// The client did not send its request to the end.
    is_client: bool,
    why: String,
}

impl Broken {
    fn new(error: &hyper::Error, was_sent: bool) -> Self {
        let source = std::error::Error::source(error);
        let io = source.and_then(|source| source.downcast_ref::<std::io::Error>());
        let h2 = source.and_then(|source| source.downcast_ref::<h2::Error>());
        // A user's error is that of the body, of which the caller knows, or that hyper's task for the connection is gone.
        let is_gone = error.is_canceled() || error.is_closed() || error.is_user();
        let is_closed = error.is_incomplete_message() || is_gone || io.is_some();
        let is_refused = h2.is_some_and(is_refused);
        let is_reset = h2.is_some_and(h2::Error::is_reset);
        Self { is_closed, is_reset, is_refused, was_sent: was_sent && !is_refused, is_client: error.is_user(), why: chain(error) }
    }
}

/// Whether an endpoint has not acted on a request, whatever its method: of what comes after the last stream that its GOAWAY names, and of
/// what it refused (RFC 9113 sections 6.8 and 8.7).
fn is_refused(error: &h2::Error) -> bool {
    let is_goodbye = error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR);
    error.is_remote() && (is_goodbye || (error.is_reset() && error.reason() == Some(h2::Reason::REFUSED_STREAM)))
}

impl From<h1::Failed> for Broken {
    fn from(h1::Failed { error, was_sent }: h1::Failed) -> Self {
        let is_client = matches!(error, h1::Error::Client(_));
        Self { is_closed: error.is_closed(), is_reset: false, is_refused: false, was_sent, is_client, why: error.to_string() }
    }
}

fn chain(error: &hyper::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// RFC 9110 section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE)
}

fn request_body_of(body: Option<&Rc<ClientBody>>) -> RequestBody {
    body.map_or(RequestBody::Empty, |body| RequestBody::Streaming(body.clone()))
}
