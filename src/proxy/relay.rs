//! Bytes both ways between two streams, at the least cost.
//!
//! What comes in small pieces is read into one buffer that all connections of a worker share, and written at once: a connection that waits
//! owns no buffer. Once a piece fills that buffer the sender is faster than we are; then, between two sockets, bytes go by splice(2) through a
//! pipe, and stay in the kernel. A pipe is borrowed from the worker while something is in it.

use std::cell::RefCell;
use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use metrics::Counter;
use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;

use super::stream::{Prefixed, UpstreamStream};

/// The buffer that the connections of a worker share, in bytes.
const BUFFER_BYTES: usize = 64 << 10;

/// How much a pipe may hold, in bytes. The system's own limit for those without rights is 1 MiB.
const PIPE_BYTES: usize = 1 << 20;

/// Pipes that a worker keeps for the next one who needs one.
const PIPES_KEPT: usize = 64;

/// A piece by splice of less than this, in bytes, is one that a read would have cost no more for.
const PIECE_BYTES_MIN: usize = 16 << 10;

/// What the connections of a worker lend each other.
pub(crate) struct Loans {
    buffer: RefCell<Box<[u8]>>,
    pipes: RefCell<Vec<Pipe>>,
}

impl Default for Loans {
    fn default() -> Self {
        Self { buffer: RefCell::new(vec![0; BUFFER_BYTES].into()), pipes: RefCell::default() }
    }
}

impl Loans {
    /// None: the system has none to give.
    fn pipe(&self) -> Option<Pipe> {
        self.pipes.borrow_mut().pop().or_else(|| Pipe::new().ok())
    }

    fn give_back(&self, pipe: Pipe) {
        let mut pipes = self.pipes.borrow_mut();
        if pipe.held == 0 && pipes.len() < PIPES_KEPT {
            pipes.push(pipe);
        }
    }
}

/// Bytes that are in the kernel, and belong to one who borrowed it.
struct Pipe {
    exit: OwnedFd,
    entry: OwnedFd,
    held: usize,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let (exit, entry) = pipe_with(PipeFlags::NONBLOCK | PipeFlags::CLOEXEC)?;
        // A smaller one works too: the system may have given out all that it gives.
        let _ = fcntl_setpipe_size(&entry, PIPE_BYTES);
        Ok(Self { exit, entry, held: 0 })
    }
}

/// One side of a relay.
pub(crate) trait Side: AsyncRead + AsyncWrite + Unpin {
    /// The socket, if its bytes are the stream's own.
    fn socket(&self) -> Option<&TcpStream>;
}

impl Side for TcpStream {
    fn socket(&self) -> Option<&TcpStream> {
        Some(self)
    }
}

impl Side for UpstreamStream {
    fn socket(&self) -> Option<&TcpStream> {
        match self {
            Self::Plain(socket) => Some(socket),
            Self::Tls(_) => None,
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side for TlsStream<S> {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Side for Prefixed<S> {
    fn socket(&self) -> Option<&TcpStream> {
        None
    }
}

/// Two streams, and what goes between them.
pub(crate) struct Relay<N, F> {
    near: N,
    far: F,
    loans: Rc<Loans>,
    to_far: Flow,
    to_near: Flow,
}

/// One direction.
struct Flow {
    kept: Kept,
    phase: Phase,
    moved: u64,
    counter: Counter,
    /// Something was written that the receiver's stream may hold back.
    is_unflushed: bool,
}

/// What was read, and could not be written yet.
enum Kept {
    Nothing,
    Bytes { bytes: Box<[u8]>, written: usize },
    Pipe(Pipe),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes come in small pieces.
    Pieces,
    /// Bytes come faster than they are taken away.
    Bulk,
    /// The sender has ended; the receiver is to be told.
    Ending,
    Ended,
}

impl<N: Side, F: Side> Relay<N, F> {
    /// A relay that begins with `ahead`, which was read of `near` before, and counts what it moves to `far` and to `near`.
    pub(crate) fn new(near: N, far: F, ahead: &[u8], counters: [Counter; 2], loans: Rc<Loans>) -> Self {
        let [mut to_far, to_near] = counters.map(Flow::new);
        to_far.keep(ahead);
        Self { near, far, loans, to_far, to_near }
    }

    /// Moves what can be moved. Ready when both sides have ended, or one has failed. Tells when bytes have moved.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, on_progress: impl FnOnce()) -> Poll<io::Result<()>> {
        let Self { near, far, loans, to_far, to_near } = self;
        let before = to_far.moved + to_near.moved;
        let sent = to_far.poll(cx, near, far, loans);
        let received = to_near.poll(cx, far, near, loans);
        if to_far.moved + to_near.moved > before {
            on_progress();
        }
        match (sent, received) {
            (Poll::Ready(Err(error)), _) | (_, Poll::Ready(Err(error))) => Poll::Ready(Err(error)),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            _ => Poll::Pending,
        }
    }

    /// Bytes moved to the far side, and to the near one.
    pub(crate) fn moved(&self) -> (u64, u64) {
        (self.to_far.moved, self.to_near.moved)
    }
}

impl Flow {
    fn new(counter: Counter) -> Self {
        Self { kept: Kept::Nothing, phase: Phase::Pieces, moved: 0, counter, is_unflushed: false }
    }

    fn keep(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.kept = Kept::Bytes { bytes: bytes.into(), written: 0 };
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, from: &mut impl Side, to: &mut impl Side, loans: &Loans) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_write_kept(cx, to, loans))?;
            let read = match (self.phase, from.socket(), to.socket()) {
                (Phase::Bulk, Some(from), Some(_)) => self.poll_bulk(cx, from, loans),
                (Phase::Pieces | Phase::Bulk, ..) => self.poll_piece(cx, from, to, loans),
                (Phase::Ending, ..) => {
                    // A peer that is gone already needs no telling.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.phase = Phase::Ended;
                    continue;
                }
                (Phase::Ended, ..) => return Poll::Ready(Ok(())),
            };
            if read.is_pending() && self.is_unflushed {
                ready!(Pin::new(&mut *to).poll_flush(cx))?;
                self.is_unflushed = false;
            }
            ready!(read)?;
        }
    }

    fn wrote(&mut self, count: usize) {
        self.moved += count as u64;
        self.counter.increment(count as u64);
        self.is_unflushed = true;
    }

    fn poll_write_kept(&mut self, cx: &mut Context<'_>, to: &mut impl Side, loans: &Loans) -> Poll<io::Result<()>> {
        loop {
            let count = match &mut self.kept {
                Kept::Nothing => return Poll::Ready(Ok(())),
                Kept::Bytes { bytes, written } => {
                    let count = ready!(Pin::new(&mut *to).poll_write(cx, bytes.get(*written..).unwrap_or_default()))?;
                    *written += count;
                    let is_done = *written >= bytes.len();
                    if is_done {
                        self.kept = Kept::Nothing;
                    }
                    count
                }
                Kept::Pipe(pipe) => {
                    let socket = to.socket().ok_or(io::ErrorKind::Unsupported)?;
                    let count = ready!(poll_splice(cx, socket, Interest::WRITABLE, |to| {
                        splice(&pipe.exit, None, to, None, pipe.held, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
                    }))?;
                    pipe.held = pipe.held.saturating_sub(count);
                    if pipe.held == 0
                        && let Kept::Pipe(pipe) = std::mem::replace(&mut self.kept, Kept::Nothing)
                    {
                        loans.give_back(pipe);
                    }
                    count
                }
            };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(count);
        }
    }

    /// Reads a piece, and writes as much of it as is taken. Nothing is kept before.
    fn poll_piece(&mut self, cx: &mut Context<'_>, from: &mut impl Side, to: &mut impl Side, loans: &Loans) -> Poll<io::Result<()>> {
        let mut buffer = loans.buffer.borrow_mut();
        let mut read = ReadBuf::new(&mut buffer);
        ready!(Pin::new(from).poll_read(cx, &mut read))?;
        let mut piece: &[u8] = read.filled();
        if piece.is_empty() {
            self.phase = Phase::Ending;
            return Poll::Ready(Ok(()));
        }
        self.phase = if piece.len() == BUFFER_BYTES { Phase::Bulk } else { Phase::Pieces };
        while !piece.is_empty() {
            let Poll::Ready(count) = Pin::new(&mut *to).poll_write(cx, piece)? else { break };
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.wrote(count);
            piece = piece.get(count..).unwrap_or_default();
        }
        self.keep(piece);
        Poll::Ready(Ok(()))
    }

    /// Fills a pipe. Nothing is kept before.
    fn poll_bulk(&mut self, cx: &mut Context<'_>, from: &TcpStream, loans: &Loans) -> Poll<io::Result<()>> {
        let Some(mut pipe) = loans.pipe() else {
            self.phase = Phase::Pieces;
            return Poll::Ready(Ok(()));
        };
        let filled = poll_splice(cx, from, Interest::READABLE, |from| {
            splice(from, None, &pipe.entry, None, PIPE_BYTES, SpliceFlags::MOVE | SpliceFlags::NONBLOCK)
        });
        match filled {
            Poll::Ready(Ok(count @ 1..)) => {
                pipe.held = count;
                self.kept = Kept::Pipe(pipe);
                if count < PIECE_BYTES_MIN {
                    self.phase = Phase::Pieces;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Ok(0)) => {
                loans.give_back(pipe);
                self.phase = Phase::Ending;
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                loans.give_back(pipe);
                Poll::Pending
            }
        }
    }
}

/// Runs `call` on a socket when it is ready for it.
fn poll_splice(
    cx: &mut Context<'_>,
    socket: &TcpStream,
    interest: Interest,
    mut call: impl FnMut(&TcpStream) -> rustix::io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(if interest.is_readable() { socket.poll_read_ready(cx) } else { socket.poll_write_ready(cx) })?;
        match socket.try_io(interest, || call(socket).map_err(io::Error::from)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return Poll::Ready(done),
        }
    }
}
