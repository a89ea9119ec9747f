//! A connection to an endpoint: sends a request and brings its response.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::HeaderValue;
use http::request::Parts;
use http::{Method, response};
use http_body::{Frame, SizeHint};
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::chunked::Piece;
use super::response::{Body, Head, Malformed, head};
use super::upload::{Upload, UploadError};
use crate::proxy::body::{BodyError, ClientBody};
use crate::proxy::stream::SharedStream;

/// Room for a head, in bytes. Most responses come in one read of this size.
const HEAD_BYTES: usize = 4096;

/// The most bytes of a body that one read takes.
const READ_BYTES_MAX: usize = 64 << 10;

/// The most responses of status 1xx before the response.
const INTERIM_MAX: usize = 32;

/// A connection on which nothing is in flight.
pub(crate) struct Connection {
    stream: SharedStream,
    /// What was read and not taken yet.
    read: BytesMut,
    /// How much of a body to read at once: as much as came lately.
    read_bytes: usize,
    /// Where requests are put together.
    buffer: Vec<u8>,
    /// Whether it has served a request before: then the endpoint may have closed it meanwhile.
    pub(crate) is_reused: bool,
    /// Whether the endpoint is known to keep connections: some close each after its response, without a word.
    pub(crate) is_proven: bool,
}

/// Why there is no response, or not all of it.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The endpoint closed the connection before its response began.
    #[error("it closed the connection")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The client did not send its request to the end.
    #[error(transparent)]
    Client(BodyError),
}

impl Error {
    /// Whether the connection ended, rather than that something wrong came.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self, Self::Closed | Self::Io(_))
    }
}

/// A request that brought no response.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) error: Error,
    /// Whether any byte of the request was written.
    pub(crate) was_sent: bool,
}

/// A response whose body is still with the endpoint.
pub(crate) struct Answer<B> {
    pub(crate) head: response::Parts,
    /// The protocol that the endpoint switches to, with status 101.
    pub(crate) upgrade: Option<HeaderValue>,
    pub(crate) body: B,
}

impl Connection {
    pub(crate) fn new(stream: SharedStream) -> Self {
        let (read, buffer) = (BytesMut::new(), Vec::new());
        Self { stream, read, read_bytes: HEAD_BYTES, buffer, is_reused: false, is_proven: false }
    }

    /// Whether it is still open, as far as the runtime has heard. No system call.
    pub(crate) fn is_open(&self) -> bool {
        self.read.is_empty() && self.stream.is_quiet()
    }

    /// Whether the endpoint has closed it already. A system call: for requests that must not be sent twice.
    pub(crate) fn is_stale(&self) -> bool {
        self.stream.is_stale()
    }

    /// Sends a request and waits for the head of its response. Once that is there, what is left of the request goes on by itself, as long as
    /// any of it moves within `idle`.
    pub(crate) async fn send(mut self, head: &Parts, body: Option<&Rc<ClientBody>>, idle: Duration) -> Result<Answer<Download>, Failed> {
        let mut upload = Some(Upload::new(head, body, std::mem::take(&mut self.buffer)));
        let mut exchange = Exchange { interim: 0, was_sent: false, unsent: None };
        let received = poll_fn(|cx| exchange.poll(&mut self, &mut upload, &head.method, cx)).await;
        let was_sent = exchange.was_sent;
        let Head { parts, body, is_kept, upgrade } = received.map_err(|error| Failed { error, was_sent })?;
        let is_kept = is_kept && exchange.unsent.is_none();
        let rest = upload.map(|upload| Rest::spawn(upload, self.stream.clone(), idle));
        Ok(Answer { head: parts, upgrade, body: Download { connection: Some(self), body, is_kept, rest } })
    }

    fn poll_head(&mut self, method: &Method, cx: &mut Context<'_>) -> Poll<Result<Head, Error>> {
        loop {
            if !self.read.is_empty()
                && let Some(head) = head(&mut self.read, method)?
            {
                return Poll::Ready(Ok(head));
            }
            if ready!(self.poll_read(HEAD_BYTES, cx))? == 0 {
                return Poll::Ready(Err(Error::Closed));
            }
        }
    }

    /// Reads what is there, with room for `bytes` at least.
    fn poll_read(&mut self, bytes: usize, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(bytes);
        poll_read_buf(Pin::new(&mut *self.stream.borrow_mut()), cx, &mut self.read)
    }

    fn poll_body(&mut self, left: Option<u64>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let left = left.and_then(|left| usize::try_from(left).ok()).unwrap_or(self.read_bytes);
        let read = ready!(self.poll_read(left.min(READ_BYTES_MAX), cx))?;
        if read >= self.read_bytes {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        } else if read < self.read_bytes / 4 {
            self.read_bytes = (self.read_bytes / 2).max(HEAD_BYTES);
        }
        Poll::Ready(Ok(read))
    }

    /// Between two requests it keeps no more memory than a small response needs.
    fn rest(mut self) -> Self {
        if self.read_bytes > HEAD_BYTES {
            (self.read, self.read_bytes) = (BytesMut::new(), HEAD_BYTES);
        }
        if self.buffer.capacity() > HEAD_BYTES {
            self.buffer = Vec::new();
        }
        self
    }
}

/// The time from the first byte of a request to the head of its response.
struct Exchange {
    interim: usize,
    was_sent: bool,
    /// Why the endpoint did not take the whole request. It may have answered all the same.
    unsent: Option<io::Error>,
}

impl Exchange {
    fn poll(
        &mut self,
        connection: &mut Connection,
        upload: &mut Option<Upload>,
        method: &Method,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Head, Error>> {
        if let Some(sending) = upload {
            let sent = sending.poll(&connection.stream, cx);
            self.was_sent = sending.sent > 0;
            match sent {
                Poll::Pending => {}
                Poll::Ready(Err(UploadError::Client(error))) => return Poll::Ready(Err(Error::Client(error))),
                Poll::Ready(Err(UploadError::Endpoint(error))) => (self.unsent, *upload) = (Some(error), None),
                Poll::Ready(Ok(())) => connection.buffer = upload.take().map(Upload::into_buffer).unwrap_or_default(),
            }
        }
        loop {
            let head = match ready!(connection.poll_head(method, cx)) {
                Ok(head) => head,
                Err(error) if error.is_closed() => return Poll::Ready(Err(self.unsent.take().map_or(error, Error::Io))),
                Err(error) => return Poll::Ready(Err(error)),
            };
            if !head.is_interim() {
                return Poll::Ready(Ok(head));
            }
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return Poll::Ready(Err(Malformed("too many responses on the way to the response").into()));
            }
        }
    }
}

/// The rest of a request whose response has begun: sent by a task of its own, because either may wait for the other.
struct Rest {
    /// Ended with it. None: it goes on alone.
    task: Option<AbortHandle>,
    is_sent: Rc<Cell<bool>>,
}

impl Rest {
    fn spawn(mut upload: Upload, stream: SharedStream, idle: Duration) -> Self {
        let is_sent: Rc<Cell<bool>> = Rc::default();
        let task = tokio::task::spawn_local({
            let is_sent = is_sent.clone();
            async move {
                let mut limit = pin!(tokio::time::sleep(idle));
                let sent = poll_fn(|cx| {
                    let before = upload.sent;
                    let polled = upload.poll(&stream, cx);
                    if upload.sent > before {
                        limit.as_mut().reset(Instant::now() + idle);
                    }
                    let is_over = polled.is_pending() && limit.as_mut().poll(cx).is_ready();
                    if is_over { Poll::Ready(Err(UploadError::Endpoint(io::ErrorKind::TimedOut.into()))) } else { polled }
                });
                let sent = sent.await;
                is_sent.set(sent.is_ok());
                // The endpoint would wait for what does not come.
                if let Err(UploadError::Client(_)) = sent {
                    stream.cutter().cut();
                }
            }
        });
        Self { task: Some(task.abort_handle()), is_sent }
    }
}

/// The body of a response, and the connection it comes on.
pub(crate) struct Download {
    connection: Option<Connection>,
    body: Body,
    /// Whether the endpoint keeps the connection open.
    is_kept: bool,
    rest: Option<Rest>,
}

impl Download {
    /// The next piece. None: it is over.
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let piece = ready!(self.poll_piece(cx));
        if piece.is_err() {
            self.connection = None;
        }
        Poll::Ready(match piece {
            Ok(Piece::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Piece::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Piece::End) => None,
            Err(error) => Some(Err(error)),
        })
    }

    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Result<Piece, Error>> {
        let Some(connection) = &mut self.connection else { return Poll::Ready(Ok(Piece::End)) };
        loop {
            if let Some(piece) = self.body.decode(&mut connection.read)? {
                return Poll::Ready(Ok(piece));
            }
            let left = if let Body::Length(left) = self.body { Some(left) } else { None };
            if ready!(connection.poll_body(left, cx))? == 0 {
                self.body.close()?;
            }
        }
    }

    /// Whether all of it was read.
    pub(crate) fn is_end(&self) -> bool {
        self.body.is_end()
    }

    /// How much of it is left, as far as it is known.
    pub(crate) fn size_hint(&self) -> SizeHint {
        match self.body {
            Body::Length(left) => SizeHint::with_exact(left),
            Body::End => SizeHint::with_exact(0),
            Body::Chunked(_) | Body::Close => SizeHint::default(),
        }
    }

    /// Whether the endpoint had the whole request before it answered.
    pub(crate) fn is_request_sent(&self) -> bool {
        self.rest.is_none()
    }

    /// The connection, after the end of the body, if another request may be sent on it.
    pub(crate) fn release(&mut self) -> Option<Connection> {
        let connection = self.connection.take_if(|_| self.body.is_end())?;
        let is_sent = self.rest.take().is_none_or(Rest::detach);
        // What comes behind a response belongs to none.
        (self.is_kept && is_sent && connection.read.is_empty()).then(|| connection.rest())
    }

    /// The stream that a switch of protocols leaves, and what was read of it already. None: the request is not over.
    pub(crate) fn switch(mut self) -> Option<(SharedStream, Bytes)> {
        let connection = self.connection.take().filter(|_| self.rest.is_none())?;
        Some((connection.stream, connection.read.freeze()))
    }
}

impl Rest {
    /// Lets it go on alone. Whether it is over.
    fn detach(mut self) -> bool {
        self.task = None;
        self.is_sent.get()
    }
}

impl Drop for Rest {
    fn drop(&mut self) {
        if let Some(task) = &self.task {
            task.abort();
        }
    }
}
