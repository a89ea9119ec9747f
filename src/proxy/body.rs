//! Bodies on their way through: streamed piece by piece, never held as a whole.
//!
//! Back-pressure needs nothing from us: a body is polled for its next piece when the other side has taken the last one.

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

use super::alarm::Alarm;
use super::client::Client;
use super::exchange::Held;
use super::h1::{self, Download};
use super::head;
use super::pool::H2;

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Endpoint(Box<h1::Error>),
    #[error("not as long as its length says")]
    Length,
    #[error("nothing came for too long")]
    TimedOut,
    #[error("larger than the {0} bytes that are allowed")]
    TooLarge(u64),
}

/// The body of a request on its way to an endpoint.
pub(crate) enum RequestBody {
    Empty,
    Streaming(Rc<ClientBody>),
}

/// The body that a client sends. Shared with its exchange, which asks how far it got when an attempt has failed.
pub(crate) struct ClientBody {
    client: Rc<Client>,
    /// HTTP/1.1: the exchange that it is of.
    exchange: u64,
    incoming: RefCell<Incoming>,
    /// Whether a piece of it was taken: then it cannot be sent again.
    is_touched: Cell<bool>,
    is_ended: Cell<bool>,
    is_too_large: Cell<bool>,
    taken: Cell<u64>,
    bytes_max: Option<u64>,
    alarm: Rc<Alarm>,
    /// For the next piece from the client.
    client_idle: Cell<Duration>,
    /// For the endpoint, once it has the whole body.
    endpoint: Cell<Duration>,
}

impl ClientBody {
    pub(crate) fn new(
        client: &Rc<Client>,
        incoming: Incoming,
        bytes_max: Option<u64>,
        alarm: Rc<Alarm>,
        client_idle: Duration,
        response_header: Duration,
    ) -> Rc<Self> {
        Rc::new(Self {
            client: client.clone(),
            exchange: client.await_body(),
            incoming: RefCell::new(incoming),
            is_touched: Cell::new(false),
            is_ended: Cell::new(false),
            is_too_large: Cell::new(false),
            taken: Cell::new(0),
            bytes_max,
            alarm,
            client_idle: Cell::new(client_idle),
            endpoint: Cell::new(response_header),
        })
    }

    pub(crate) fn is_touched(&self) -> bool {
        self.is_touched.get()
    }

    /// The response has begun: from now on both bodies share the limit of its pieces, and a piece of either is progress.
    pub(crate) fn answered(&self, idle: Duration) {
        self.client_idle.set(idle);
        self.endpoint.set(idle);
    }

    /// Whether we wait for the client rather than for the endpoint.
    pub(crate) fn is_awaited(&self) -> bool {
        self.is_touched.get() && !self.is_ended.get()
    }

    pub(crate) fn is_too_large(&self) -> bool {
        self.is_too_large.get()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        self.incoming.borrow().size_hint()
    }

    /// The next piece from the client.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if !self.is_touched.replace(true) {
            self.alarm.set(self.client_idle.get());
        }
        let mut incoming = self.incoming.borrow_mut();
        let frame = std::task::ready!(Pin::new(&mut *incoming).poll_frame(cx));
        let is_over = frame.is_none() || incoming.is_end_stream();
        self.alarm.set(if is_over { self.endpoint.get() } else { self.client_idle.get() });
        if is_over && !self.is_ended.replace(true) {
            self.client.end_body(self.exchange, true);
        }
        Poll::Ready(frame.map(|frame| self.count(frame?)))
    }

    fn count(&self, mut frame: Frame<Bytes>) -> Result<Frame<Bytes>, BodyError> {
        if let Some(trailers) = frame.trailers_mut() {
            head::clean_trailers(trailers);
        }
        let taken = self.taken.get() + frame.data_ref().map_or(0, |data| data.len() as u64);
        self.taken.set(taken);
        match self.bytes_max {
            Some(max) if taken > max => {
                self.is_too_large.set(true);
                Err(BodyError::TooLarge(max))
            }
            _ => Ok(frame),
        }
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        if !self.is_ended.get() {
            self.client.end_body(self.exchange, false);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Streaming(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Streaming(body) => body.incoming.borrow().is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Streaming(body) => body.size_hint(),
        }
    }
}

/// The body of a response on its way to the client.
pub(crate) enum ResponseBody {
    /// None: the response is over with its head.
    Empty,
    /// One of ours.
    Own(Option<Bytes>, Box<Held>),
    /// An endpoint's.
    Upstream(Box<UpstreamBody>),
}

/// The body of a response, as its endpoint sends it.
pub(crate) enum Received {
    H1(Download),
    /// With its stream, which is counted on its connection.
    H2(Incoming, #[expect(dead_code, reason = "held until the end of the stream")] H2),
}

impl Received {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self {
            Self::H1(body) => body.poll_frame(cx).map_err(|error| BodyError::Endpoint(Box::new(error))),
            Self::H2(body, _) => Pin::new(body).poll_frame(cx).map_err(BodyError::Http),
        }
    }

    pub(crate) fn is_end(&self) -> bool {
        match self {
            Self::H1(body) => body.is_end(),
            Self::H2(body, _) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::H1(body) => body.size_hint(),
            Self::H2(body, _) => body.size_hint(),
        }
    }

    /// The connection, after the end, if it may serve another request.
    pub(crate) fn release(&mut self) -> Option<h1::Connection> {
        match self {
            Self::H1(body) => body.release(),
            Self::H2(..) => None,
        }
    }
}

/// The body that an endpoint sends, with all that is held until its end.
pub(crate) struct UpstreamBody {
    pub(crate) received: Received,
    pub(crate) alarm: Rc<Alarm>,
    pub(crate) upstream_idle: Duration,
    pub(crate) client_idle: Duration,
    /// Whether the limit in force is the endpoint's.
    pub(crate) is_awaited: bool,
    /// Why it goes no further.
    pub(crate) broken: Option<BodyError>,
    pub(crate) held: Held,
}

impl UpstreamBody {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        match self.received.poll_frame(cx) {
            Poll::Pending if !self.is_awaited => {
                self.is_awaited = true;
                self.alarm.set(self.upstream_idle);
                let _ = self.alarm.poll(cx);
                Poll::Pending
            }
            Poll::Pending if self.alarm.poll(cx) => {
                self.held.fail("upstream_idle_timeout");
                Poll::Ready(Some(Err(BodyError::TimedOut)))
            }
            Poll::Pending => Poll::Pending,
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    head::clean_trailers(trailers);
                }
                self.is_awaited = false;
                self.alarm.set(self.client_idle);
                self.held.count(frame.data_ref().map_or(0, Bytes::len));
                if self.received.is_end() {
                    self.held.complete(self.received.release());
                }
                Poll::Ready(Some(Ok(frame)))
            }
            // What came before is on its way to the client first: hyper drops what it has not written when a body fails.
            Poll::Ready(Some(Err(error))) => {
                self.held.fail("response_cut");
                self.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.held.complete(self.received.release());
                Poll::Ready(None)
            }
        }
    }
}

impl ResponseBody {
    /// An answer of ours with this body.
    pub(crate) fn own(body: Bytes, held: Held) -> Self {
        Self::Own(Some(body).filter(|body| !body.is_empty()), Box::new(held))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Own(body, held) => {
                held.count(body.as_ref().map_or(0, Bytes::len));
                held.complete(None);
                Poll::Ready(body.take().map(|body| Ok(Frame::data(body))))
            }
            Self::Upstream(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Own(body, _) => body.is_none(),
            Self::Upstream(body) => body.received.is_end(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Own(body, _) => SizeHint::with_exact(body.as_ref().map_or(0, |body| body.len() as u64)),
            Self::Upstream(body) => body.received.size_hint(),
        }
    }
}

/// The status that tells a client what was wrong with the body it sent.
pub(crate) const TOO_LARGE: StatusCode = StatusCode::PAYLOAD_TOO_LARGE;
