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
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::body::Incoming;

use super::alarm::Alarm;
use super::body::{ClientBody, Received, ResponseBody, UpstreamBody};
use super::client::{Client, Stream};
use super::error::Failure;
use super::forward::{Forward, Reply};
use super::forwarded;
use super::h1;
use super::head;
use super::pool::Key;
use super::tunnel::Upgrade;
use super::warnings::Warning;
use crate::access::AccessEntry;
use crate::middleware::{self, Flow, Verdict};
use crate::routing::endpoint::Lease;
use crate::routing::route::{Route, Target};
use crate::routing::upstream::Upstream;
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
    let mut exchange = middleware::Exchange { client_ip: client.origin.peer.ip(), is_https: client.is_https, body_bytes_max: None };
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
    Upstream(Box<Reply>),
    Own(Box<Response<Bytes>>),
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
    let options = std::mem::take(&mut held.options);
    let reply = Forward { client, alarm, upstream, exchange }.run(head, body, options).await?;
    Ok(Answer::Upstream(Box::new(reply)))
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
            alpn: &[],
            identities: client.identities(),
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
    client: &Rc<Client>,
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
    Ok(Some(ClientBody::new(client, incoming, exchange.body_bytes_max, alarm.clone(), idle, response_header)))
}

fn from_upstream(reply: Reply, alarm: Rc<Alarm>, exchange: &middleware::Exchange, mut held: Held) -> Response<ResponseBody> {
    let Reply { response: h1::Answer { mut head, upgrade, body: mut received }, set_cookie, lease } = reply;
    held.lease = Some(lease);
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
        let log = client.worker.access_log.as_ref().map(|_| Box::new(AccessEntry::new(client.origin.peer, request)));
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
            let key = Key::new(lease.endpoint(), upstream, &self.client);
            self.client.worker.pool.put_h1(key, connection, &upstream.settings.keepalive, now);
        }
        self.lease = None;
        self.stream = None;
        self.client.end_response();
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
            entry.endpoint = self.lease.as_ref().map(|lease| lease.address().clone());
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
