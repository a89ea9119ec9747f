//! HTTP/1.1 endpoints and clients that hide nothing: no pool, no retry, no second connection.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

/// What an endpoint does with a connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterResponse {
    /// Waits for the next request.
    Keep,
    /// Closes it, without having said so.
    Close,
}

/// An endpoint that says who it is, and what it was sent. Gone when dropped.
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddr,
    _stop: DropGuard,
}

impl Endpoint {
    /// Answers every request with `id`, the request's `Host` and its `X-Generation`, separated by spaces.
    pub async fn start(id: usize, after: AfterResponse) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port on loopback");
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = CancellationToken::new();
        let is_over = stop.clone();
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                // How a connection ends is its client's business.
                tokio::spawn(is_over.clone().run_until_cancelled_owned(async move { drop(serve(stream, id, after).await) }));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Self { address, _stop: stop.drop_guard() }
    }
}

async fn serve(stream: TcpStream, id: usize, after: AfterResponse) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut connection = Connection { stream, read: Vec::new() };
    loop {
        let request = connection.message().await?;
        let body = format!("{id} {} {}", request.field("host").unwrap_or("-"), request.field("x-generation").unwrap_or("-"));
        let response = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        connection.stream.write_all(response.as_bytes()).await?;
        if after == AfterResponse::Close {
            return connection.stream.shutdown().await;
        }
    }
}

/// One side of a connection.
pub struct Connection<S> {
    stream: S,
    /// What was read of the next message.
    read: Vec<u8>,
}

/// A head with its body.
pub struct Message {
    /// Start line and fields.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Message {
    /// The status of a response. 0 for what is none.
    pub fn status(&self) -> u16 {
        self.head.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_default()
    }

    /// The value of a field, whose name is in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

impl Connection<TcpStream> {
    /// Connects to `address`.
    pub async fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    /// A connection over a stream that is there.
    pub fn over(stream: S) -> Self {
        Self { stream, read: Vec::new() }
    }

    /// The stream.
    pub fn stream(&self) -> &S {
        &self.stream
    }

    /// Sends a whole request and reads the response to it.
    pub async fn exchange(&mut self, request: &str) -> io::Result<Message> {
        self.stream.write_all(request.as_bytes()).await?;
        self.message().await
    }

    async fn message(&mut self) -> io::Result<Message> {
        let head_bytes = loop {
            if let Some(at) = self.read.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            self.read_more().await?;
        };
        let head: Vec<u8> = self.read.drain(..head_bytes).collect();
        let mut message = Message { head: text(head)?, body: String::new() };
        if message.field("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            message.body = self.chunks().await?;
            return Ok(message);
        }
        let body_bytes = message.field("content-length").and_then(|bytes| bytes.parse().ok()).unwrap_or_default();
        while self.read.len() < body_bytes {
            self.read_more().await?;
        }
        message.body = text(self.read.drain(..body_bytes).collect())?;
        Ok(message)
    }

    /// A body in chunks, without fields after it.
    async fn chunks(&mut self) -> io::Result<String> {
        let mut body = Vec::new();
        loop {
            let line_bytes = loop {
                match self.read.windows(2).position(|window| window == b"\r\n") {
                    Some(at) => break at + 2,
                    None => self.read_more().await?,
                }
            };
            let line = text(self.read.drain(..line_bytes).collect())?;
            let chunk_bytes = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
            while self.read.len() < chunk_bytes + 2 {
                self.read_more().await?;
            }
            body.extend(self.read.drain(..chunk_bytes));
            self.read.drain(..2);
            if chunk_bytes == 0 {
                return text(body);
            }
        }
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the connection was closed")),
            _ => Ok(()),
        }
    }
}

fn text(bytes: Vec<u8>) -> io::Result<String> {
    String::from_utf8(bytes).map_err(io::Error::other)
}
