//! A session with a ZooKeeper server: one connection, over which requests are sent without waiting for the answers of earlier ones.
//!
//! A session ends with its connection, and another one is made in its place: it holds nothing that would be worth keeping: who has
//! ephemeral znodes makes them anew, and what was announced while there was no connection has to be read again anyway. So an expired session
//! is nothing special.
//!
//! Our own, because we need nine requests, and the crate that would do (zookeeper-client 0.11) takes messages of any length, runs
//! tasks that nobody owns on a second reactor, and cannot be told which name the server's certificate is for. It writes what tests read.
//!
//! * **Nothing is sent or read but in [`Session::next`]**, which may be dropped at any time. There is no task of its own.
//! * **A silent server is noticed**: it is asked for a sign of life every third of the session's time, and has another third to give one.
//! * **Answers have limits.** What is longer than its request allows is read past, and told as [`Refusal::TooLarge`].

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::http_client::{HttpError, Io, dial};
use super::zookeeper_wire::{self as wire, Broken, EventKind, HEADER_BYTES, Header, LENGTH_BYTES, Request, STAT_BYTES};
use crate::config::providers::ZookeeperConfig;
use crate::discovery::kv::{KEY_BYTES_MAX, VALUE_BYTES_MAX};

/// For a session to be made, once there is a connection, at first. A server that is asked while it starts may never answer, and would at
/// once if it were asked again.
pub(super) const HANDSHAKE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
/// The same after it was too short several times in a row: without a leader, or over a slow line, a session may take long.
pub(crate) const HANDSHAKE_TIMEOUT_MAX: Duration = Duration::from_secs(8);
/// For the end of a session to be told.
pub(super) const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// The largest list of children, in bytes: of 100,000 and more, depending on their names.
pub(super) const CHILDREN_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The largest message that is no answer to a read, in bytes. An event holds a path.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// The largest answer to a read of data, in bytes.
const DATA_BYTES_MAX: usize = LENGTH_BYTES + VALUE_BYTES_MAX + STAT_BYTES;
/// How much room there is for what is read next, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// What comes from a server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    /// To the oldest request that has none yet. With the last change that the server has seen.
    Answer { zxid: i64, outcome: Result<Bytes, Refusal> },
    /// A watch tells of a change.
    Event(EventKind, String),
    /// The server is there.
    Pong,
}

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// ZooKeeper's code.
    Code(i32),
    /// It has this many bytes.
    TooLarge(usize),
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(wire::NO_AUTH) => f.write_str("its ACL does not allow us to"),
            Self::Code(wire::NODE_EXISTS) => f.write_str("there is such a znode already"),
            Self::Code(wire::NO_CHILDREN) => f.write_str("a znode above it is ephemeral, and can have none below"),
            Self::Code(wire::NOT_EMPTY) => f.write_str("it has znodes below it"),
            Self::Code(wire::NO_NODE) => f.write_str("there is no such znode"),
            Self::Code(wire::UNIMPLEMENTED) => f.write_str("the server does not know how to: it is older than ZooKeeper 3.6"),
            Self::Code(code) => write!(f, "error {code}"),
            Self::TooLarge(bytes) => write!(f, "the answer has {bytes} bytes, which is too many"),
        }
    }
}

/// A session. After an error it is of no use any more.
pub(crate) struct Session {
    reader: ReadHalf<Box<dyn Io>>,
    writer: WriteHalf<Box<dyn Io>>,
    /// What is to be sent.
    outgoing: BytesMut,
    needs_flush: bool,
    incoming: BytesMut,
    /// How many bytes that come next belong to a message that is too large.
    skipped: usize,
    /// Requests without an answer: their number, and how large the answer may be.
    waiting: VecDeque<(i32, usize)>,
    xid: i32,
    /// A third of the session's time.
    beat: Duration,
    heard: Instant,
    pinged: Instant,
}

impl Session {
    /// Connects to `server` and makes a session, for which there is `limit`.
    pub(crate) async fn open(server: &str, config: &ZookeeperConfig, limit: Duration) -> Result<Self, SessionError> {
        let (reader, writer) = tokio::io::split(dial(server, config.tls.as_ref()).await?);
        let now = Instant::now();
        let mut session = Self {
            reader,
            writer,
            outgoing: BytesMut::new(),
            needs_flush: false,
            incoming: BytesMut::new(),
            skipped: 0,
            waiting: VecDeque::new(),
            xid: 0,
            beat: config.session_timeout / 3,
            heard: now,
            pinged: now,
        };
        let handshake = session.handshake(config);
        tokio::time::timeout(limit, handshake).await.unwrap_or(Err(SessionError::NoSession(limit)))?;
        Ok(session)
    }

    async fn handshake(&mut self, config: &ZookeeperConfig) -> Result<(), SessionError> {
        let timeout = i32::try_from(config.session_timeout.as_millis()).unwrap_or(i32::MAX);
        self.writer.write_all(&wire::connect(timeout)).await?;
        self.writer.flush().await?;
        let length = self.reader.read_i32().await.map_err(refused)?;
        let length =
            usize::try_from(length).ok().filter(|length| *length <= MESSAGE_BYTES_MAX).ok_or(Broken("a length is out of range"))?;
        let mut body = vec![0; length];
        self.reader.read_exact(&mut body).await?;
        self.beat = Duration::from_millis(wire::connected(&body)?) / 3;
        self.heard = Instant::now();
        if let Some(user) = &config.username {
            self.send(&Request::Auth { user, password: config.password.as_deref().unwrap_or_default() });
        }
        Ok(())
    }

    /// Sends a request, once [`next`](Self::next) is awaited. Answers come in the order of requests.
    pub(crate) fn send(&mut self, request: &Request<'_>) {
        let limit = match request {
            Request::Auth { .. } | Request::Ping => None,
            Request::Data(_) => Some(DATA_BYTES_MAX),
            Request::Children(_) => Some(CHILDREN_BYTES_MAX),
            Request::Close | Request::Sync(_) | Request::Watch(_) | Request::Create { .. } | Request::Delete(_) => {
                Some(KEY_BYTES_MAX.max(MESSAGE_BYTES_MAX))
            }
        };
        // Positive: the others have a meaning.
        self.xid = self.xid.wrapping_add(1).max(1);
        self.waiting.extend(limit.map(|limit| (self.xid, limit)));
        self.outgoing.extend_from_slice(&request.encode(self.xid));
    }

    /// What comes next. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The connection ended, the server is silent or breaks the protocol, or it refuses who we say we are.
    pub(crate) async fn next(&mut self) -> Result<Message, SessionError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.incoming.reserve(READ_BYTES);
            let silent_at = self.heard + 2 * self.beat;
            let ping_at = self.pinged + self.beat;
            tokio::select! {
                biased;
                read = self.reader.read_buf(&mut self.incoming) => match read.map_err(ended)? {
                    0 => return Err(SessionError::Ended),
                    _ => self.heard = Instant::now(),
                },
                written = write(&mut self.writer, &mut self.outgoing, &mut self.needs_flush) => written.map_err(ended)?,
                () = tokio::time::sleep_until(silent_at) => return Err(SessionError::Silent(2 * self.beat)),
                () = tokio::time::sleep_until(ping_at) => {
                    self.pinged = Instant::now();
                    self.send(&Request::Ping);
                }
            }
        }
    }

    /// Tells the server that the session ends, so that it need not wait for that, and waits a moment for it to have been sent.
    pub(crate) async fn close(mut self) {
        self.send(&Request::Close);
        let told = async { while self.next().await.is_ok() {} };
        // Whether or not: the server finds out.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, told).await;
    }

    /// A message that has come in whole, if there is one.
    fn take(&mut self) -> Result<Option<Message>, SessionError> {
        loop {
            let skipped = self.skipped.min(self.incoming.len());
            self.incoming.advance(skipped);
            self.skipped -= skipped;
            if self.skipped > 0 {
                return Ok(None);
            }
            let Some((header, length)) = wire::header(&self.incoming)? else { return Ok(None) };
            let limit = match self.waiting.front() {
                Some((xid, limit)) if *xid == header.xid => *limit,
                _ => MESSAGE_BYTES_MAX,
            };
            let start = LENGTH_BYTES + HEADER_BYTES;
            let body = if length > limit {
                self.incoming.advance(start);
                self.skipped = length;
                Err(Refusal::TooLarge(length))
            } else if self.incoming.len() < start + length {
                return Ok(None);
            } else {
                self.incoming.advance(start);
                Ok(self.incoming.split_to(length).freeze())
            };
            if let Some(message) = self.understand(header, body)? {
                return Ok(Some(message));
            }
        }
    }

    /// What a message says. None: nothing that anybody waits for.
    fn understand(&mut self, header: Header, body: Result<Bytes, Refusal>) -> Result<Option<Message>, SessionError> {
        let Header { xid, zxid, error } = header;
        match xid {
            wire::XID_EVENT => {
                let body = body.map_err(|_| Broken("an event is too large"))?;
                let (kind, path) = wire::event(&body)?;
                Ok(Some(Message::Event(kind, path)))
            }
            wire::XID_PING => Ok(Some(Message::Pong)),
            wire::XID_AUTH if error == 0 => Ok(None),
            wire::XID_AUTH => Err(SessionError::Credentials),
            _ => match self.waiting.pop_front() {
                Some((waiting, _)) if waiting == xid => {
                    let outcome = if error == 0 { body } else { Err(Refusal::Code(error)) };
                    Ok(Some(Message::Answer { zxid, outcome }))
                }
                _ => Err(Broken("it answers what nobody asked").into()),
            },
        }
    }
}

/// Writes what is to be sent, until there is nothing left to do for a reader of the other half to do.
async fn write(writer: &mut WriteHalf<Box<dyn Io>>, outgoing: &mut BytesMut, needs_flush: &mut bool) -> io::Result<()> {
    while !outgoing.is_empty() {
        writer.write_buf(outgoing).await?;
        *needs_flush = true;
    }
    if *needs_flush {
        writer.flush().await?;
        *needs_flush = false;
    }
    std::future::pending().await
}

/// A server that has no leader, or too many connections, hangs up without a word.
fn refused(error: io::Error) -> SessionError {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => SessionError::Refused,
        _ => SessionError::Io(error),
    }
}

fn ended(error: io::Error) -> SessionError {
    match error.kind() {
        io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => SessionError::Ended,
        _ => SessionError::Io(error),
    }
}

/// What ends a session.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SessionError {
    #[error(transparent)]
    Connect(#[from] HttpError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Broken(#[from] Broken),
    #[error("the server gives no session: it has no leader, or too many connections, or is no ZooKeeper")]
    Refused,
    #[error("no session within {0:?}")]
    NoSession(Duration),
    #[error("the server refuses the user and password")]
    Credentials,
    #[error("the server closed the connection")]
    Ended,
    #[error("no sign of life of the server within {0:?}")]
    Silent(Duration),
}
