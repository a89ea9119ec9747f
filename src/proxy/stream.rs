//! Byte streams as the data plane sees them: with what was read ahead, and towards endpoints with or without TLS.

use std::cell::{RefCell, RefMut};
use std::io;
use std::net::Shutdown;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// A stream whose first bytes were read already.
pub(crate) struct Prefixed<S> {
    prefix: Bytes,
    inner: S,
}

impl<S> Prefixed<S> {
    /// Reads give `prefix` first, then what `inner` gives.
    pub(crate) fn new(prefix: Bytes, inner: S) -> Self {
        Self { prefix, inner }
    }

    /// The stream, once what was read ahead of it is taken.
    pub(crate) fn into_inner(self) -> S {
        self.inner
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let fits = self.prefix.len().min(buf.remaining());
        let taken = self.prefix.split_to(fits);
        buf.put_slice(&taken);
        if !self.prefix.has_remaining() {
            self.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// How long a client may take to hear the last that we say.
const LINGER: Duration = Duration::from_secs(2);

/// The most bytes of it that are read meanwhile.
const LINGER_BYTES_MAX: u64 = 16 << 20;

/// Ends a connection whose client may still be sending: closing a socket with bytes unread would take back what the client has not read yet
/// (RFC 9112 section 9.6).
pub(crate) async fn linger<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    let linger = async {
        stream.shutdown().await?;
        tokio::io::copy(&mut stream.take(LINGER_BYTES_MAX), &mut tokio::io::sink()).await
    };
    // However it ends: nothing more is to be done.
    let _ = tokio::time::timeout(LINGER, linger).await;
}

/// Which way bytes went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Read,
    Written,
    /// None could be written: the peer does not read.
    Blocked,
}

/// A stream that tells of every byte that goes either way, and when none can be written.
pub(crate) struct Watched<S, F> {
    inner: S,
    on_progress: F,
}

impl<S, F: Fn(Direction)> Watched<S, F> {
    pub(crate) fn new(inner: S, on_progress: F) -> Self {
        Self { inner, on_progress }
    }

    pub(crate) fn into_inner(self) -> S {
        self.inner
    }

    fn tell(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match written {
            Poll::Ready(Ok(1..)) => (self.on_progress)(Direction::Written),
            Poll::Pending => (self.on_progress)(Direction::Blocked),
            Poll::Ready(_) => {}
        }
        written
    }
}

impl<S: AsyncRead + Unpin, F: Fn(Direction) + Unpin> AsyncRead for Watched<S, F> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            (self.on_progress)(Direction::Read);
        }
        read
    }
}

impl<S: AsyncWrite + Unpin, F: Fn(Direction) + Unpin> AsyncWrite for Watched<S, F> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.tell(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.inner).poll_flush(cx);
        if flushed.is_pending() {
            (self.on_progress)(Direction::Blocked);
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = poll_write_gathered(Pin::new(&mut self.inner), cx, bufs);
        self.tell(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// Writes of at most this many bytes in several pieces are copied together: one buffer costs the kernel less than a list of them.
const GATHER_BYTES_MAX: usize = 2048;

/// Writes `bufs` as one buffer when they are small.
fn poll_write_gathered<S: AsyncWrite>(stream: Pin<&mut S>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
    let total: usize = bufs.iter().map(|buf| buf.len()).sum();
    if total > GATHER_BYTES_MAX {
        return stream.poll_write_vectored(cx, bufs);
    }
    let mut gathered = [0; GATHER_BYTES_MAX];
    let mut end = 0;
    for buf in bufs {
        if let Some(place) = gathered.get_mut(end..end + buf.len()) {
            place.copy_from_slice(buf);
            end += buf.len();
        }
    }
    stream.poll_write(cx, gathered.get(..end).unwrap_or_default())
}

/// A stream to an endpoint.
pub(crate) enum UpstreamStream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl UpstreamStream {
    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_ref().0,
        }
    }
}

impl AsyncRead for UpstreamStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for UpstreamStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => poll_write_gathered(Pin::new(stream), cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

/// A stream to an endpoint that several hold: who reads it, who writes it, and the pool, which may have to cut it.
#[derive(Clone)]
pub(crate) struct SharedStream(Rc<RefCell<UpstreamStream>>);

impl SharedStream {
    pub(crate) fn new(stream: UpstreamStream) -> Self {
        Self(Rc::new(RefCell::new(stream)))
    }

    /// Never held across an await.
    pub(crate) fn borrow_mut(&self) -> RefMut<'_, UpstreamStream> {
        self.0.borrow_mut()
    }

    /// Whether nothing has come from the peer, not even its end, as far as the runtime has heard. No system call.
    pub(crate) fn is_quiet(&self) -> bool {
        let mut byte = [0];
        let mut cx = Context::from_waker(Waker::noop());
        Pin::new(&mut *self.borrow_mut()).poll_read(&mut cx, &mut ReadBuf::new(&mut byte)).is_pending()
    }

    /// Whether the peer has closed it, or sent what nobody asked for. One system call; never waits.
    pub(crate) fn is_stale(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        match socket2::SockRef::from(self.0.borrow().tcp()).peek(&mut byte) {
            Err(error) => error.kind() != io::ErrorKind::WouldBlock,
            Ok(_) => true,
        }
    }

    /// To cut it later, without keeping it open until then.
    pub(crate) fn cutter(&self) -> Cutter {
        Cutter(Rc::downgrade(&self.0))
    }
}

/// Cuts a stream that others hold.
pub(crate) struct Cutter(Weak<RefCell<UpstreamStream>>);

impl Cutter {
    pub(crate) fn is_closed(&self) -> bool {
        self.0.strong_count() == 0
    }

    /// Ends the stream both ways: who waits for it sees it closed.
    pub(crate) fn cut(&self) {
        if let Some(stream) = self.0.upgrade() {
            // Fails when the peer has closed it already.
            let _ = socket2::SockRef::from(stream.borrow().tcp()).shutdown(Shutdown::Both);
        }
    }
}

impl AsyncRead for SharedStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.borrow_mut()).poll_read(cx, buf)
    }
}

impl AsyncWrite for SharedStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.borrow_mut()).poll_shutdown(cx)
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
