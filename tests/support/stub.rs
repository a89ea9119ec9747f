//! A server that answers requests as a test says: for systems that cannot be installed, and answers that real ones rarely give.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A request.
#[derive(Debug, Clone)]
pub struct Asked {
    /// `GET`, `HEAD`.
    pub method: String,
    /// With the query.
    pub path: String,
    /// Start line and fields.
    pub head: String,
    /// As long as `Content-Length` says.
    pub body: String,
}

impl Asked {
    /// A parameter of the query.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        let (_, query) = self.path.split_once('?')?;
        query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, ""))).find(|(key, _)| *key == name).map(|(_, value)| value)
    }

    /// The value of a field, whose name is in lower case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }
}

/// What to answer.
#[derive(Debug, Clone)]
pub enum Say {
    /// Status, fields (each with its line end) and body.
    Whole(u16, String, String),
    /// The same, but the connection is closed before the body's last byte.
    Cut(u16, String, String),
    /// The head is sent, and then nothing.
    Hang(u16, String),
    /// The head is sent, and then what is sent here, as it is. None: the connection is closed.
    Stream(u16, String, broadcast::Sender<Option<String>>),
}

type Handler = dyn Fn(Asked) -> Pin<Box<dyn Future<Output = Say> + Send>> + Send + Sync;

/// A server on loopback. Gone when dropped.
pub struct Stub {
    /// Where it listens.
    pub address: SocketAddr,
    connections: Arc<Connections>,
    _stop: DropGuard,
}

/// How many connections there are, and how many there were at most.
#[derive(Default)]
struct Connections {
    now: AtomicUsize,
    max: AtomicUsize,
}

impl Stub {
    /// Answers every request with what `handler` says.
    pub async fn start<F>(handler: impl Fn(Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Say> + Send + 'static,
    {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), handler).await
    }

    /// The same at an address that another one had, which was [stopped](Self::stop).
    pub async fn start_at<F>(address: SocketAddr, handler: impl Fn(Asked) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Say> + Send + 'static,
    {
        let handler: Arc<Handler> = Arc::new(move |asked| Box::pin(handler(asked)));
        let listener = loop {
            match TcpListener::bind(address).await {
                Ok(listener) => break listener,
                // Its task is about to end.
                Err(error) if address.port() != 0 && error.kind() == io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
                Err(error) => panic!("bind {address}: {error}"),
            }
        };
        let address = listener.local_addr().expect("a bound socket has an address");
        let stop = CancellationToken::new();
        let is_over = stop.clone();
        let connections = Arc::new(Connections::default());
        let counts = connections.clone();
        let accept = async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (serve, counts) = (serve(stream, handler.clone()), counts.clone());
                counts.max.fetch_max(counts.now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                // How a connection ends is its client's business.
                tokio::spawn(is_over.clone().run_until_cancelled_owned(async move {
                    drop(serve.await);
                    counts.now.fetch_sub(1, Ordering::SeqCst);
                }));
            }
        };
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept));
        Self { address, connections, _stop: stop.drop_guard() }
    }

    /// Closes all connections, and does not listen any more.
    pub fn stop(&mut self) {
        self._stop = CancellationToken::new().drop_guard();
    }

    /// How many connections there were at the same time, at most.
    pub fn connections_max(&self) -> usize {
        self.connections.max.load(Ordering::SeqCst)
    }

    /// Its address as a URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

async fn serve(stream: TcpStream, handler: Arc<Handler>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let asked = read(&mut stream).await?;
        let is_head = asked.method == "HEAD";
        match handler(asked).await {
            Say::Whole(status, fields, body) => {
                let head = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n", body.len());
                let body = if is_head { String::new() } else { body };
                stream.write_all(format!("{head}{body}").as_bytes()).await?;
            }
            Say::Cut(status, fields, body) => {
                let head = format!("HTTP/1.1 {status} X\r\n{fields}Content-Length: {}\r\n\r\n", body.len() + 1);
                stream.write_all(format!("{head}{body}").as_bytes()).await?;
                return stream.shutdown().await;
            }
            Say::Hang(status, fields) => {
                stream.write_all(format!("HTTP/1.1 {status} X\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await?;
                // Until the client leaves.
                stream.read_u8().await?;
            }
            Say::Stream(status, fields, pieces) => {
                let mut pieces = pieces.subscribe();
                stream.write_all(format!("HTTP/1.1 {status} X\r\n{fields}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).await?;
                while let Ok(Some(piece)) = pieces.recv().await {
                    stream.write_all(format!("{:x}\r\n{piece}\r\n", piece.len()).as_bytes()).await?;
                }
                return stream.shutdown().await;
            }
        }
    }
}

async fn read(stream: &mut BufReader<TcpStream>) -> io::Result<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let mut words = head.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let mut asked = Asked { method, path, head, body: String::new() };
    let length = asked.field("content-length").and_then(|length| length.parse().ok()).unwrap_or_default();
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await?;
    asked.body = String::from_utf8(body).map_err(io::Error::other)?;
    Ok(asked)
}
