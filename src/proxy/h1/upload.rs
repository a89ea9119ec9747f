//! A request on its way to an endpoint: its head, then its body in the framing that the head has named.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::request::Parts;
use http_body::Frame;
use tokio::io::AsyncWrite;

use super::request::{Framing, write_field, write_head};
use crate::proxy::body::{BodyError, ClientBody};
use crate::proxy::stream::SharedStream;

/// Pieces up to this size are copied together, in bytes: one buffer costs less than a list of them.
const GATHER_BYTES_MAX: usize = 4096;

/// Why a request was not sent to its end.
#[derive(Debug)]
pub(super) enum UploadError {
    /// The client did not send it to its end, or sent too much.
    Client(BodyError),
    /// The endpoint does not take it.
    Endpoint(io::Error),
}

impl From<io::Error> for UploadError {
    fn from(error: io::Error) -> Self {
        Self::Endpoint(error)
    }
}

/// A request on its way.
pub(super) struct Upload {
    body: Option<Rc<ClientBody>>,
    framing: Framing,
    out: Out,
    /// How much of it was written, in bytes.
    pub(super) sent: u64,
}

impl Upload {
    /// `buffer` is where small pieces are put together.
    pub(super) fn new(head: &Parts, body: Option<&Rc<ClientBody>>, mut buffer: Vec<u8>) -> Self {
        let framing = match body {
            None => Framing::Empty,
            Some(body) => body.size_hint().exact().map_or(Framing::Chunked, Framing::Length),
        };
        buffer.clear();
        write_head(&mut buffer, head, framing);
        Self { body: body.cloned(), framing, out: Out { small: buffer, written: 0, large: Bytes::new(), tail: &[] }, sent: 0 }
    }

    /// Sends as much as goes. Ready: all of it is sent.
    pub(super) fn poll(&mut self, stream: &SharedStream, cx: &mut Context<'_>) -> Poll<Result<(), UploadError>> {
        loop {
            let is_client_slow = self.gather(cx)?;
            ready!(self.write(stream, cx))?;
            if is_client_slow {
                return Poll::Pending;
            }
            if self.body.is_none() {
                return Poll::Ready(Ok(()));
            }
        }
    }

    /// The buffer, for the next request.
    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.out.small
    }

    /// Takes what the client has sent. Whether it is to be waited for.
    fn gather(&mut self, cx: &mut Context<'_>) -> Result<bool, UploadError> {
        while let Some(body) = self.body.as_ref().filter(|_| self.out.has_room()) {
            match body.poll(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => self.push(frame)?,
                Poll::Ready(Some(Err(error))) => return Err(UploadError::Client(error)),
                Poll::Ready(None) => self.end()?,
            }
        }
        Ok(false)
    }

    fn push(&mut self, frame: Frame<Bytes>) -> Result<(), UploadError> {
        let frame = match frame.into_data() {
            Ok(data) => return self.push_data(data),
            Err(frame) => frame,
        };
        if let (Ok(trailers), Framing::Chunked) = (frame.into_trailers(), self.framing) {
            self.out.small.extend_from_slice(b"0\r\n");
            trailers.iter().for_each(|(name, value)| write_field(&mut self.out.small, name.as_str(), value));
            self.out.small.extend_from_slice(b"\r\n");
            self.body = None;
        }
        Ok(())
    }

    fn push_data(&mut self, data: Bytes) -> Result<(), UploadError> {
        match &mut self.framing {
            _ if data.is_empty() => {}
            Framing::Chunked => {
                // Infallible: it is memory.
                let _ = io::Write::write_fmt(&mut self.out.small, format_args!("{:x}\r\n", data.len()));
                self.out.push(data, b"\r\n");
            }
            Framing::Length(left) if *left >= data.len() as u64 => {
                *left -= data.len() as u64;
                self.out.push(data, &[]);
            }
            Framing::Length(_) | Framing::Empty => return Err(UploadError::Client(BodyError::Length)),
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), UploadError> {
        self.body = None;
        match self.framing {
            Framing::Chunked => self.out.small.extend_from_slice(b"0\r\n\r\n"),
            Framing::Length(0) | Framing::Empty => {}
            Framing::Length(_) => return Err(UploadError::Client(BodyError::Length)),
        }
        Ok(())
    }

    fn write(&mut self, stream: &SharedStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut stream = stream.borrow_mut();
        while !self.out.is_empty() {
            let written = ready!(self.out.poll_write(Pin::new(&mut *stream), cx))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += written as u64;
        }
        Pin::new(&mut *stream).poll_flush(cx)
    }
}

/// Bytes to be written: small pieces put together, then perhaps a large one and what ends it.
struct Out {
    small: Vec<u8>,
    /// How much of `small` is written.
    written: usize,
    large: Bytes,
    tail: &'static [u8],
}

impl Out {
    fn has_room(&self) -> bool {
        self.large.is_empty() && self.tail.is_empty() && self.small.len() < GATHER_BYTES_MAX
    }

    fn is_empty(&self) -> bool {
        self.small.is_empty() && self.large.is_empty() && self.tail.is_empty()
    }

    fn push(&mut self, data: Bytes, tail: &'static [u8]) {
        if data.len() <= GATHER_BYTES_MAX {
            self.small.extend_from_slice(&data);
            self.small.extend_from_slice(tail);
        } else {
            (self.large, self.tail) = (data, tail);
        }
    }

    fn poll_write<S: AsyncWrite>(&mut self, stream: Pin<&mut S>, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let small = self.small.get(self.written..).unwrap_or_default();
        let written = if self.large.is_empty() && self.tail.is_empty() {
            ready!(stream.poll_write(cx, small))?
        } else {
            let pieces = [IoSlice::new(small), IoSlice::new(&self.large), IoSlice::new(self.tail)];
            ready!(stream.poll_write_vectored(cx, &pieces))?
        };
        self.advance(written);
        Poll::Ready(Ok(written))
    }

    fn advance(&mut self, written: usize) {
        let small = written.min(self.small.len() - self.written);
        self.written += small;
        if self.written == self.small.len() {
            self.written = 0;
            self.small.clear();
        }
        let large = (written - small).min(self.large.len());
        self.large.advance(large);
        self.tail = self.tail.get(written - small - large..).unwrap_or_default();
    }
}
