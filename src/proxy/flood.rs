//! HTTP/2 frames that cost us and bring nothing: counted, and the connection of a client that sends too many is closed.
//!
//! The h2 crate bounds what it would have to keep: streams, streams reset before they were accepted, bytes of a header block and its
//! CONTINUATION frames, streams that it had to reset. It answers every PING and SETTINGS, and takes empty DATA, PRIORITY and resets of
//! running requests (CVE-2019-9512 to 9518, CVE-2023-44487) for as long as they come. Here one budget bounds all of these.
//!
//! What is honest is forgiven: each answered request, each second, and each [`BYTES_FORGIVE`] that the client took from us. A client
//! that measures the path with PINGs while it downloads, or keeps an idle stream alive, never gets near the limit.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Anomalies that an answered request makes up for.
pub(crate) const REQUEST_FORGIVES: u32 = 4;

/// Bytes written that make up for one anomaly.
const BYTES_FORGIVE: usize = 1024;

/// The preface of a connection, and the head of a frame (RFC 9113 sections 3.4 and 4.1).
const PREFACE_BYTES: usize = 24;
const HEAD_BYTES: usize = 9;

/// What is left of a client's anomalies.
pub(crate) struct Budget {
    max: u32,
    spent: Cell<u32>,
    looked_at: Cell<Instant>,
    written: Cell<usize>,
}

impl Budget {
    pub(crate) fn new(max: u32, now: Instant) -> Self {
        Self { max, spent: Cell::new(0), looked_at: Cell::new(now), written: Cell::new(0) }
    }

    pub(crate) fn forgive(&self, anomalies: u32) {
        self.spent.set(self.spent.get().saturating_sub(anomalies));
    }

    fn wrote(&self, bytes: usize) {
        let written = self.written.get() + bytes;
        self.written.set(written % BYTES_FORGIVE);
        self.forgive(u32::try_from(written / BYTES_FORGIVE).unwrap_or(u32::MAX));
    }

    /// Whether there was enough left.
    fn spend(&self, anomalies: u32, now: Instant) -> bool {
        let seconds = now.saturating_duration_since(self.looked_at.get()).as_secs();
        if seconds > 0 {
            self.looked_at.set(now);
            self.forgive(u32::try_from(seconds).unwrap_or(u32::MAX));
        }
        self.spent.set(self.spent.get().saturating_add(anomalies));
        self.spent.get() <= self.max
    }
}

/// The frames in a stream of bytes.
struct Frames {
    /// Bytes to pass over: the preface, or the rest of a frame.
    skip: usize,
    head: [u8; HEAD_BYTES],
    /// How much of the head is there.
    have: usize,
}

impl Frames {
    fn new() -> Self {
        Self { skip: PREFACE_BYTES, head: [0; HEAD_BYTES], have: 0 }
    }

    /// The anomalies among the frames that begin in `bytes`.
    fn count(&mut self, mut bytes: &[u8]) -> u32 {
        let mut anomalies = 0;
        loop {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = bytes.get(skipped..).unwrap_or_default();
            let taken = (HEAD_BYTES - self.have).min(bytes.len());
            let (Some(to), Some(from)) = (self.head.get_mut(self.have..self.have + taken), bytes.get(..taken)) else { return anomalies };
            to.copy_from_slice(from);
            self.have += taken;
            bytes = bytes.get(taken..).unwrap_or_default();
            if self.have < HEAD_BYTES {
                return anomalies;
            }
            let [high, middle, low, kind, flags, ..] = self.head;
            self.skip = usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low);
            self.have = 0;
            anomalies += u32::from(is_anomaly(kind, flags, self.skip));
        }
    }
}

/// RFC 9113 section 6. Not WINDOW_UPDATE: every download needs many, they cost nothing, and those of zero the h2 crate answers by a
/// reset, of which it allows few.
fn is_anomaly(kind: u8, flags: u8, length: usize) -> bool {
    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const WINDOW_UPDATE: u8 = 8;
    const END_STREAM: u8 = 1;
    match kind {
        DATA => length == 0 && flags & END_STREAM == 0,
        HEADERS | WINDOW_UPDATE => false,
        // PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION, and what is not known.
        _ => true,
    }
}

/// A client's stream on which anomalies are counted. Reading ends with an error when there are too many.
pub(crate) struct Metered<S> {
    inner: S,
    frames: Frames,
    budget: Rc<Budget>,
}

impl<S> Metered<S> {
    pub(crate) fn new(inner: S, budget: Rc<Budget>) -> Self {
        Self { inner, frames: Frames::new(), budget }
    }

    fn tell(&self, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = written {
            self.budget.wrote(bytes);
        }
        written
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Metered<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        std::task::ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        let anomalies = self.frames.count(buf.filled().get(before..).unwrap_or_default());
        if anomalies > 0 && !self.budget.spend(anomalies, Instant::now()) {
            return Poll::Ready(Err(io::Error::other("too many HTTP/2 frames that bring nothing")));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Metered<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.tell(written)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.tell(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        [&[0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    /// However the bytes are cut, the same frames are seen.
    #[test]
    fn counts_frames_across_reads() {
        let (ping, data, empty, last, headers) =
            (frame(6, 0, &[6; 8]), frame(0, 0, &[6; 200]), frame(0, 0, &[]), frame(0, 1, &[]), frame(1, 4, &[6; 9]));
        let bytes = [&[0; PREFACE_BYTES][..], &ping, &data, &headers, &empty, &last, &ping].concat();
        for size in 1..bytes.len() {
            let mut frames = Frames::new();
            assert_eq!(bytes.chunks(size).map(|chunk| frames.count(chunk)).sum::<u32>(), 3, "in pieces of {size}");
        }
    }

    #[test]
    fn forgives_what_is_honest() {
        let start = Instant::now();
        let budget = Budget::new(10, start);
        assert!(budget.spend(10, start));
        assert!(!budget.spend(1, start));
        budget.forgive(REQUEST_FORGIVES);
        assert!(budget.spend(3, start));
        assert!(budget.spend(5, start + Duration::from_secs(5)));
        (0..5).for_each(|_| budget.wrote(BYTES_FORGIVE / 2));
        assert!(budget.spend(2, start + Duration::from_secs(5)));
        assert!(!budget.spend(1, start + Duration::from_secs(5)));
    }
}
