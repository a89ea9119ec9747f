//! One request from a client and its response: the walk through the data plane.
//!
//! ```text
//! check head → client's address → route → middlewares → hop-by-hop and forwarded fields
//!   → [ pick an endpoint → connection → send → head of the response ]  again on another endpoint where that is safe
//!   → middlewares → body, streamed
//! ```
//!
//! A request reads the table once and keeps its route to the end.

use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;

use super::alarm::Alarm;
use super::body::{ClientBody, Received, RequestBody, ResponseBody, UpstreamBody};
use super::client::{Client, Stream};
use super::error::Failure;
use super::forwarded;
use super::h1;
use super::head;
use super::pool::Key;
use super::tunnel::Upgrade;
use super::warnings::Warning;
use crate::access::AccessEntry;
use crate::config::upstream::{HostHeader, UpstreamProtocol};
use crate::middleware::{self, Flow, Verdict};
use crate::routing::endpoint::Lease;
use crate::routing::route::{Route, Target};
use crate::routing::upstream::{PickRequest, Upstream};
use crate::rule::RequestView;

/// The longest that one middleware may wait.
const STEP_WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(30);

/// Answers one request.
///
/// `alarm` keeps its time limits; `stream` is the stream it came on, with HTTP/2.
pub(crate) async fn answer(
    client: Rc<Client>,
    alarm: Rc<Alarm>,
    stream: Option<Stream>,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let mut held = Held::new(&client, stream, &request);
    let (mut head, body) = request.into_parts();
    let mut exchange = middleware::Exchange { client_ip: client.peer.ip(), is_https: client.is_tls, body_bytes_max: None };
    match run(&client, &alarm, &mut head, body, &mut exchange, &mut held).await {
        Ok(Answer::Upstream(response)) => from_upstream(*response, alarm, &exchange, held),
        Ok(Answer::Own(response)) => own(*response, &alarm, &exchange, held),
        Err(failure) => {
            held.note(&failure);
            let mut response = own(failure.response(), &alarm, &exchange, held);
            // Where a request was not understood, what follows it may not be one; and of one that was too much, the rest is not awaited.
            if failure.fault == super::error::Fault::Client && head.version < Version::HTTP_2 {
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            response
        }
    }
}

enum Answer {
    Upstream(Box<FromUpstream>),
    Own(Box<Response<Bytes>>),
}

/// A response whose body is still with the endpoint.
struct FromUpstream {
    head: http::response::Parts,
    /// The protocol that the endpoint switches to.
    upgrade: Option<HeaderValue>,
    body: Received,
    set_cookie: Option<HeaderValue>,
}

async fn run(
    client: &Rc<Client>,
    alarm: &Rc<Alarm>,
    head: &mut Parts,
    body: Incoming,
    exchange: &mut middleware::Exchange,
    held: &mut Held,
) -> Result<Answer, Failure> {
    head::check(head, &client.limits, client.encoded_slashes)?;
    let (route, seen) = find_route(client, head, exchange, held)?;
    held.begin(route.clone());
    held.options = head::take_options(head);
    let host = asked_host(head);
    client.tell(&mut head.headers, seen, host.as_ref());
    let Some(limit) = route.timeout else { return serve(client, alarm, &route, head, body, exchange, held).await };
    let deadline = client.worker.alarms.alarm();
    deadline.set(limit);
    let answer = {
        // Boxed, so that a request without this limit has no room for it in its future.
        let mut serving = Box::pin(serve(client, alarm, &route, head, body, exchange, held));
        poll_fn(|cx| match serving.as_mut().poll(cx) {
            Poll::Pending if deadline.poll(cx) => Poll::Ready(Err(Failure::route_timeout(limit))),
            polled => polled,
        })
        .await
    };
    if answer.is_ok() {
        held.end_by(deadline);
    }
    answer
}

/// From the first middleware to the head of the response.
async fn serve(
    client: &Rc<Client>,
    alarm: &Rc<Alarm>,
    route: &Route,
    head: &mut Parts,
    body: Incoming,
    exchange: &mut middleware::Exchange,
    held: &mut Held,
) -> Result<Answer, Failure> {
    if let Some(response) = run_steps(route, alarm, head, exchange).await? {
        return Ok(Answer::Own(response));
    }
    let upstream = match &route.target {
        Target::Upstream(upstream) => upstream,
        Target::Closed(reason) => return Err(Failure::config(StatusCode::SERVICE_UNAVAILABLE, "route_closed", &**reason)),
        Target::Answered => return Err(Failure::config(StatusCode::SERVICE_UNAVAILABLE, "no_upstream", "no middleware answered")),
    };
    let body = request_body(client, alarm, body, exchange, upstream)?;
    Forward { client, alarm, upstream, exchange }.run(head, body, held).await
}

/// The one lookup of the table.
fn find_route(
    client: &Client,
    head: &Parts,
    exchange: &mut middleware::Exchange,
    held: &mut Held,
) -> Result<(Arc<Route>, forwarded::Client), Failure> {
    let host = head::host(head)?;
    client.worker.with_table(|table| {
        held.generation = table.generation;
        let listener = client.listener.settings(table);
        let seen = client.identify(&listener, &head.headers);
        (exchange.client_ip, exchange.is_https) = (seen.ip, seen.is_https);
        let view = RequestView {
            host: &host,
            path: head.uri.path(),
            query: head.uri.query(),
            method: &head.method,
            headers: &head.headers,
            client_ip: exchange.client_ip,
        };
        match table.route(&view, &listener.name) {
            Some(route) => Ok((route.clone(), seen)),
            None => Err(Failure::config(StatusCode::NOT_FOUND, "no_route", format!("no route takes {host}{}", head.uri.path()))),
        }
    })
}

/// What the client asked for, as it wrote it.
fn asked_host(head: &Parts) -> Option<HeaderValue> {
    match head.uri.authority() {
        Some(authority) => HeaderValue::from_str(authority.as_str()).ok(),
        None => head.headers.get(header::HOST).cloned(),
    }
}

async fn run_steps(
    route: &Route,
    alarm: &Alarm,
    head: &mut Parts,
    exchange: &mut middleware::Exchange,
) -> Result<Option<Box<Response<Bytes>>>, Failure> {
    for step in &route.steps {
        let waiting = match step.request(head, exchange) {
            Flow::Continue => continue,
            Flow::Respond(response) => return Ok(Some(response)),
            Flow::Wait(waiting) => waiting,
        };
        // The limit of the head is over, and none of an endpoint's has begun.
        alarm.clear();
        match tokio::time::timeout(STEP_WAIT_MAX, waiting).await {
            Ok(Verdict::Continue(fields)) => head.headers.extend(fields),
            Ok(Verdict::Respond(response)) => return Ok(Some(response)),
            Err(_) => return Err(Failure::config(StatusCode::GATEWAY_TIMEOUT, "middleware_timeout", format!("{step:?} did not decide"))),
        }
    }
    Ok(None)
}

fn request_body(
    client: &Client,
    alarm: &Rc<Alarm>,
    incoming: Incoming,
    exchange: &middleware::Exchange,
    upstream: &Upstream,
) -> Result<Option<Rc<ClientBody>>, Failure> {
    if incoming.is_end_stream() {
        return Ok(None);
    }
    if exchange.body_bytes_max.is_some_and(|max| incoming.size_hint().lower() > max) {
        return Err(Failure::client(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"));
    }
    let (idle, response_header) = (client.timeouts.client_idle, upstream.settings.timeouts.response_header);
    Ok(Some(ClientBody::new(incoming, exchange.body_bytes_max, alarm.clone(), idle, response_header)))
}

/// A request on its way to an upstream.
struct Forward<'a> {
    client: &'a Rc<Client>,
    alarm: &'a Rc<Alarm>,
    upstream: &'a Arc<Upstream>,
    exchange: &'a middleware::Exchange,
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
    /// Another connection to the same endpoint: it closed an idle one as we wrote.
    SameEndpoint,
    /// Another endpoint.
    OtherEndpoint,
}

impl Forward<'_> {
    async fn run(&self, head: &mut Parts, body: Option<Rc<ClientBody>>, held: &mut Held) -> Result<Answer, Failure> {
        let options = std::mem::take(&mut held.options);
        let upgrade = options.upgrade.filter(|_| self.upstream.transport.protocol == UpstreamProtocol::Http1);
        prepare(head, self.client, self.upstream, upgrade.as_ref(), options.wants_trailers);
        let mut tried: Vec<u64> = Vec::new();
        let mut last = None;
        let mut allow_reuse = true;
        let mut leased = None;
        loop {
            let picked = match leased.take() {
                Some(picked) => picked,
                None => match self.upstream.pick(&self.pick_request(head, &tried)) {
                    Some(picked) => picked,
                    None => return Err(last.unwrap_or_else(|| self.no_endpoint())),
                },
            };
            let attempt = self.attempt(head, body.as_ref(), &picked.lease, allow_reuse, upgrade.is_some()).await;
            let Attempt { failure, retry } = match attempt {
                Ok(response) => {
                    held.lease = Some(picked.lease);
                    return Ok(Answer::Upstream(Box::new(FromUpstream { set_cookie: picked.set_cookie, ..response })));
                }
                Err(attempt) => attempt,
            };
            match retry {
                Retry::Never => return Err(self.give_up(failure)),
                Retry::SameEndpoint => {
                    self.upstream.metrics.retry("stale_connection");
                    allow_reuse = false;
                    leased = Some(picked);
                }
                Retry::OtherEndpoint => {
                    tried.push(picked.lease.endpoint().id);
                    if tried.len() > usize::from(self.upstream.settings.retries) {
                        return Err(self.give_up(failure));
                    }
                    self.upstream.metrics.retry(failure.cause);
                    allow_reuse = true;
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
    ) -> Result<FromUpstream, Attempt> {
        if let HostHeader::Endpoint = self.upstream.settings.host {
            set_host(head, &lease.address().to_string());
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
    ) -> Result<FromUpstream, Attempt> {
        let key = Key::new(lease.endpoint(), self.upstream);
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
                let connected = Box::pin(pool.connect_h1(key, lease.endpoint(), self.upstream)).await;
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
        answer: h1::Answer,
        body: Option<&Rc<ClientBody>>,
        lease: &Lease,
        is_upgrade: bool,
    ) -> Result<FromUpstream, Attempt> {
        if answer.head.status == StatusCode::SWITCHING_PROTOCOLS && !(is_upgrade && answer.body.is_request_sent()) {
            let failure = Failure::upstream(StatusCode::BAD_GATEWAY, "unasked_upgrade", lease.address(), "101 to no upgrade");
            return Err(Attempt { failure, retry: Retry::Never });
        }
        if let Some(body) = body {
            body.answered(self.upstream.settings.timeouts.idle);
        }
        let h1::Answer { head, upgrade, body } = answer;
        Ok(FromUpstream { head, upgrade, body: Received::H1(body), set_cookie: None })
    }

    async fn attempt_h2(
        &self,
        head: &mut Parts,
        body: Option<&Rc<ClientBody>>,
        lease: &Lease,
        allow_reuse: bool,
    ) -> Result<FromUpstream, Attempt> {
        let key = Key::new(lease.endpoint(), self.upstream);
        let is_replayable = body.is_none() && is_idempotent(&head.method);
        self.alarm.clear();
        let stream = self.client.worker.pool.h2(key, lease.endpoint(), self.upstream, Instant::now).await;
        let mut stream = stream.map_err(|error| unreachable(lease, &error))?;
        let request = Request::from_parts(for_attempt(head, is_replayable), request_body_of(body));
        self.alarm.set(self.upstream.settings.timeouts.response_header);
        match self.within_limit(stream.sender.try_send_request(request)).await {
            Some(Ok(response)) => {
                if let Some(body) = body {
                    body.answered(self.upstream.settings.timeouts.idle);
                }
                let (mut head, body) = response.into_parts();
                head::remove_hop_by_hop(&mut head.headers);
                Ok(FromUpstream { head, upgrade: None, body: Received::H2(body, stream), set_cookie: None })
            }
            Some(Err(mut error)) => {
                let was_sent = !take_back(head, &mut error);
                let broken = Broken::new(&error.into_error(), was_sent);
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
        let retry = match (may_repeat, is_reused) {
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

fn unreachable(lease: &Lease, error: &super::error::ConnectError) -> Attempt {
    let status = match error {
        super::error::ConnectError::TimedOut(_) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    Attempt { failure: Failure::upstream(status, error.cause(), lease.address(), error), retry: Retry::OtherEndpoint }
}

/// How a connection broke before a response began.
struct Broken {
    /// It was closed, so that the endpoint has most likely not acted on the request.
    is_closed: bool,
    was_sent: bool,
    /// The client did not send its request to the end.
    is_client: bool,
    why: String,
}

impl Broken {
    fn new(error: &hyper::Error, was_sent: bool) -> Self {
        let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
        let is_closed = error.is_incomplete_message() || error.is_canceled() || error.is_closed() || io.is_some();
        Self { is_closed, was_sent, is_client: error.is_user(), why: chain(error) }
    }
}

impl From<h1::Failed> for Broken {
    fn from(h1::Failed { error, was_sent }: h1::Failed) -> Self {
        let is_client = matches!(error, h1::Error::Client(_));
        Self { is_closed: error.is_closed(), was_sent, is_client, why: error.to_string() }
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

/// The head for one attempt: a copy while it may be needed again.
fn for_attempt(head: &mut Parts, is_replayable: bool) -> Parts {
    if is_replayable {
        return head.clone();
    }
    let (mut taken, ()) = Request::new(()).into_parts();
    std::mem::swap(&mut taken, head);
    taken
}

/// Takes the head back, if the request was not sent.
fn take_back(head: &mut Parts, error: &mut TrySendError<Request<RequestBody>>) -> bool {
    let unsent = error.take_message();
    let was_unsent = unsent.is_some();
    if let Some(request) = unsent {
        *head = request.into_parts().0;
    }
    was_unsent
}

fn request_body_of(body: Option<&Rc<ClientBody>>) -> RequestBody {
    body.map_or(RequestBody::Empty, |body| RequestBody::Streaming(body.clone()))
}

/// Makes of the client's head the one that endpoints get.
fn prepare(head: &mut Parts, client: &Client, upstream: &Upstream, upgrade: Option<&HeaderValue>, wants_trailers: bool) {
    head.headers.remove(header::EXPECT);
    head.extensions = http::Extensions::new();
    // gRPC needs it, and it is true: trailers are forwarded. HTTP/1.1 names it in `Connection` (RFC 9110 section 10.1.4), HTTP/2 does not
    // (RFC 9113 section 8.2.2).
    if wants_trailers {
        head.headers.insert(header::TE, HeaderValue::from_static("trailers"));
        if upstream.transport.protocol == UpstreamProtocol::Http1 {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
        }
    }
    if let Some(protocol) = upgrade {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol.clone());
    }
    // HTTP/1.0 knows no host: it asks for the address it came to (RFC 9112 section 3.3).
    if head.version == Version::HTTP_10 && !head.headers.contains_key(header::HOST) && head.uri.authority().is_none() {
        set_host(head, &client.local.to_string());
    }
    head::join_cookies(&mut head.headers);
    match upstream.transport.protocol {
        UpstreamProtocol::Http1 => to_origin_form(head),
        UpstreamProtocol::H2 | UpstreamProtocol::H2c => {
            to_absolute_form(head, upstream.transport.tls.is_some());
        }
    }
    if let HostHeader::Rewrite(host) = &upstream.settings.host {
        set_host(head, host);
    }
}

/// HTTP/1.1: the path in the target, the authority in `Host` (RFC 9112 section 3.2.1).
fn to_origin_form(head: &mut Parts) {
    head.version = Version::HTTP_11;
    if head.uri.authority().is_none() {
        return;
    }
    let parts = std::mem::take(&mut head.uri).into_parts();
    if let Some(host) = parts.authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        head.headers.insert(header::HOST, host);
    }
    if let Some(path) = parts.path_and_query {
        head.uri = Uri::from(path);
    }
}

/// HTTP/2: scheme, authority and path in pseudo-header fields (RFC 9113 section 8.3.1).
fn to_absolute_form(head: &mut Parts, is_tls: bool) {
    head.version = Version::HTTP_2;
    let host = head.headers.remove(header::HOST);
    let mut parts = std::mem::take(&mut head.uri).into_parts();
    if parts.authority.is_none() {
        parts.authority = host.and_then(|host| http::uri::Authority::try_from(host.as_bytes()).ok());
    }
    if parts.authority.is_none() {
        parts.authority = Some(http::uri::Authority::from_static("localhost"));
    }
    parts.scheme = Some(if is_tls { http::uri::Scheme::HTTPS } else { http::uri::Scheme::HTTP });
    head.uri = Uri::from_parts(parts).unwrap_or_default();
}

fn set_host(head: &mut Parts, host: &str) {
    if head.version == Version::HTTP_2 {
        let mut parts = std::mem::take(&mut head.uri).into_parts();
        parts.authority = host.parse().ok().or(parts.authority);
        head.uri = Uri::from_parts(parts).unwrap_or_default();
    } else if let Ok(host) = HeaderValue::from_str(host) {
        head.headers.insert(header::HOST, host);
    }
}

fn from_upstream(answer: FromUpstream, alarm: Rc<Alarm>, exchange: &middleware::Exchange, mut held: Held) -> Response<ResponseBody> {
    let FromUpstream { mut head, upgrade, body: mut received, set_cookie } = answer;
    if let Some(cookie) = set_cookie {
        head.headers.append(header::SET_COOKIE, cookie);
    }
    held.respond(&mut head, exchange);
    if head.status == StatusCode::SWITCHING_PROTOCOLS {
        return held.switch(head, upgrade, received);
    }
    if received.is_end() {
        held.complete(received.release());
    }
    let upstream_idle = held.upstream_idle();
    let client_idle = held.client.timeouts.client_idle;
    let body = UpstreamBody { received, alarm, upstream_idle, client_idle, is_awaited: false, broken: None, held };
    Response::from_parts(head, ResponseBody::Upstream(Box::new(body)))
}

fn own(response: Response<Bytes>, alarm: &Alarm, exchange: &middleware::Exchange, mut held: Held) -> Response<ResponseBody> {
    let (mut head, body) = response.into_parts();
    held.respond(&mut head, exchange);
    alarm.set(held.client.timeouts.client_idle);
    if body.is_empty() {
        held.complete(None);
    }
    Response::from_parts(head, ResponseBody::own(body, held))
}

/// What an exchange holds until the last byte of its response: the endpoint's lease and connection, and what is to be counted.
pub(crate) struct Held {
    client: Rc<Client>,
    stream: Option<Stream>,
    /// Until the request is on its way.
    options: head::ConnectionOptions,
    started: Instant,
    generation: u64,
    route: Option<Arc<Route>>,
    lease: Option<Lease>,
    status: Option<StatusCode>,
    bytes: u64,
    is_complete: bool,
    log: Option<Box<AccessEntry>>,
    /// The end of the time that the route gives to a request as a whole, if it does.
    deadline: Option<Rc<Alarm>>,
}

impl Held {
    fn new(client: &Rc<Client>, stream: Option<Stream>, request: &Request<Incoming>) -> Self {
        let log = client.worker.access_log.as_ref().map(|_| Box::new(AccessEntry::new(client.peer, request)));
        let started = Instant::now();
        Self {
            client: client.clone(),
            stream,
            started,
            generation: 0,
            route: None,
            lease: None,
            status: None,
            bytes: 0,
            is_complete: false,
            log,
            deadline: None,
            options: head::ConnectionOptions::default(),
        }
    }

    fn begin(&mut self, route: Arc<Route>) {
        route.metrics.begin();
        self.route = Some(route);
    }

    /// The response, too, is to be over by this deadline, which whoever polls the exchange from now on looks at.
    fn end_by(&mut self, deadline: Alarm) {
        let deadline = Rc::new(deadline);
        *self.client.deadline.borrow_mut() = Some(deadline.clone());
        self.deadline = Some(deadline);
    }

    /// Notes why there is no endpoint's answer.
    fn note(&mut self, failure: &Failure) {
        if let Some(log) = &mut self.log {
            log.failure = Some((failure.fault.as_str(), failure.cause));
        }
        if failure.fault != super::error::Fault::Client && failure.cause != "no_route" {
            self.warn(Some(failure.status), failure.cause, failure.to_string());
        }
    }

    /// The head of the response is settled: middlewares see it, in reverse order.
    fn respond(&mut self, head: &mut http::response::Parts, exchange: &middleware::Exchange) {
        for step in self.route.iter().flat_map(|route| route.steps.iter().rev()) {
            step.response(head, exchange);
        }
        self.status = Some(head.status);
    }

    fn upstream_idle(&self) -> std::time::Duration {
        match self.route.as_ref().map(|route| &route.target) {
            Some(Target::Upstream(upstream)) => upstream.settings.timeouts.idle,
            _ => self.client.timeouts.client_idle,
        }
    }

    /// Bytes of the body went by.
    pub(crate) fn count(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The body ended before its end, because of the endpoint.
    pub(crate) fn fail(&mut self, cause: &'static str) {
        if let Some(log) = &mut self.log {
            log.failure = Some(("upstream", cause));
        }
        if let Some(Target::Upstream(upstream)) = self.route.as_ref().map(|route| &route.target) {
            upstream.metrics.error(cause);
            let endpoint = self.lease.as_ref().map_or_else(String::new, |lease| format!(", endpoint {}", lease.address()));
            self.warn(self.status, cause, format!("response cut short: {cause}{endpoint}"));
        }
    }

    fn warn(&self, status: Option<StatusCode>, cause: &'static str, text: String) {
        let route = self.route.as_ref();
        let upstream = route.and_then(|route| match &route.target {
            Target::Upstream(upstream) => Some(upstream.name.clone()),
            Target::Answered | Target::Closed(_) => None,
        });
        self.client.worker.warn(Warning { route: route.map(|route| route.name.clone()), upstream, status, cause, text });
    }

    /// The last byte of the response was read: the connection, if it is given, may serve another request.
    pub(crate) fn complete(&mut self, connection: Option<h1::Connection>) {
        if self.is_complete {
            return;
        }
        self.is_complete = true;
        let now = self.finish();
        if let (Some(connection), Some(route), Some(lease)) = (connection, &self.route, &self.lease)
            && let Target::Upstream(upstream) = &route.target
            && !lease.endpoint().is_retired()
        {
            let key = Key::new(lease.endpoint(), upstream);
            self.client.worker.pool.put_h1(key, connection, &upstream.settings.keepalive, now);
        }
        self.lease = None;
        self.stream = None;
        self.client.end_exchange();
    }

    /// Counts and logs.
    fn finish(&mut self) -> Instant {
        let now = Instant::now();
        let duration = now.duration_since(self.started);
        match &self.route {
            Some(route) => route.metrics.end(self.status, duration),
            None => self.client.worker.unrouted.increment(1),
        }
        if let (Some(mut entry), Some(log)) = (self.log.take(), &self.client.worker.access_log) {
            entry.route = self.route.as_ref().map(|route| route.name.clone());
            entry.endpoint = self.lease.as_ref().map(Lease::address);
            (entry.generation, entry.status, entry.bytes, entry.duration) = (self.generation, self.status, self.bytes, duration);
            entry.is_complete = self.is_complete;
            log.write(entry);
        }
        now
    }

    /// Hands the exchange over to the tunnel that takes the connection's place.
    fn switch(mut self, mut head: http::response::Parts, protocol: Option<HeaderValue>, received: Received) -> Response<ResponseBody> {
        let client = self.client.clone();
        // The tunnel has its own limit.
        self.deadline = None;
        if let Received::H1(download) = received
            && let Some((endpoint, read_ahead)) = download.switch()
        {
            *client.upgrade.borrow_mut() = Some(Upgrade { endpoint, read_ahead, held: self });
        }
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        if let Some(protocol) = protocol {
            head.headers.insert(header::UPGRADE, protocol);
        }
        Response::from_parts(head, ResponseBody::Empty)
    }

    /// The endpoint, as long as it is in use.
    pub(crate) fn lease(&self) -> Option<&Lease> {
        self.lease.as_ref()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if !self.is_complete {
            if self.deadline.as_ref().is_some_and(|deadline| deadline.has_fired()) {
                self.fail("route_timeout");
            }
            self.finish();
        }
    }
}
