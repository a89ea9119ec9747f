//! PROXY headers as tests see them: written by hand, read by a reader of their own, and what the log says of them.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, OnceLock};

use tokio::io::AsyncReadExt;

use crate::support::*;

/// The bytes that begin a header of version 2.
pub const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// What one of version 2 says beside addresses, by type.
pub type Tlvs = BTreeMap<u8, Vec<u8>>;

pub const ALPN: u8 = 1;
pub const AUTHORITY: u8 = 2;
pub const UNIQUE_ID: u8 = 5;
pub const SSL: u8 = 0x20;

/// A header of version 2 with this command and family, and these bytes behind its length.
pub fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    [SIGNATURE, &[0x20 | command, family], &u16::try_from(body.len()).unwrap().to_be_bytes(), body].concat()
}

/// A header of version 2 for a client.
pub fn v2_of(source: &str, destination: &str, tlvs: &[(u8, &[u8])]) -> Vec<u8> {
    let (source, destination): (SocketAddr, SocketAddr) = (source.parse().unwrap(), destination.parse().unwrap());
    let mut body = Vec::new();
    for ip in [source.ip(), destination.ip()] {
        match ip {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend([source.port(), destination.port()].iter().flat_map(|port| port.to_be_bytes()));
    for (kind, value) in tlvs {
        body.push(*kind);
        body.extend(u16::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(*value);
    }
    v2(1, if source.is_ipv4() { 0x11 } else { 0x21 }, &body)
}

/// A header as an endpoint reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// The line of version 1, or that of version 2 as if it were one: `v2 TCP4 192.0.2.1 198.51.100.1 56324 443`, `v2 LOCAL`.
    pub line: String,
    pub tlvs: Tlvs,
}

impl Told {
    /// The client's address and the one it connected to.
    pub fn addresses(&self) -> (SocketAddr, SocketAddr) {
        let words: Vec<&str> = self.line.split(' ').collect();
        let [_, _, source, destination, source_port, destination_port] = words[..] else { panic!("no addresses: {self:?}") };
        let address = |ip: &str, port: &str| SocketAddr::new(ip.parse().unwrap(), port.parse().unwrap());
        (address(source, source_port), address(destination, destination_port))
    }
}

/// Reads a header, and not a byte more. None: the connection ended.
pub async fn read_told(stream: &mut (impl AsyncReadExt + Unpin)) -> Option<Told> {
    let mut bytes = vec![stream.read_u8().await.ok()?];
    if bytes == b"P" {
        while !bytes.ends_with(b"\r\n") {
            bytes.push(stream.read_u8().await.ok()?);
        }
        let line = String::from_utf8(bytes).unwrap().trim_end().to_owned();
        return Some(Told { line, tlvs: Tlvs::new() });
    }
    bytes.resize(16, 0);
    stream.read_exact(&mut bytes[1..]).await.ok()?;
    assert_eq!(&bytes[..12], SIGNATURE);
    let mut body = vec![0; u16::from_be_bytes([bytes[14], bytes[15]]).into()];
    stream.read_exact(&mut body).await.ok()?;
    let ports =
        |at: usize| format!("{} {}", u16::from_be_bytes([body[at], body[at + 1]]), u16::from_be_bytes([body[at + 2], body[at + 3]]));
    let (line, mut tlvs) = match (bytes[12], bytes[13]) {
        (0x20, 0) => ("v2 LOCAL".to_owned(), &body[..]),
        (0x21, 0) => ("v2 UNKNOWN".to_owned(), &body[..]),
        (0x21, 0x11) => {
            let ip = |at: usize| IpAddr::from(<[u8; 4]>::try_from(&body[at..at + 4]).unwrap());
            (format!("v2 TCP4 {} {} {}", ip(0), ip(4), ports(8)), &body[12..])
        }
        (0x21, 0x21) => {
            let ip = |at: usize| IpAddr::from(<[u8; 16]>::try_from(&body[at..at + 16]).unwrap());
            (format!("v2 TCP6 {} {} {}", ip(0), ip(16), ports(32)), &body[36..])
        }
        other => panic!("command and family {other:x?}"),
    };
    let mut read = Tlvs::new();
    while let [kind, high, low, rest @ ..] = tlvs {
        let (value, after) = rest.split_at(u16::from_be_bytes([*high, *low]).into());
        assert!(read.insert(*kind, value.to_vec()).is_none(), "TLV {kind} twice");
        tlvs = after;
    }
    assert!(tlvs.is_empty(), "after the TLVs: {tlvs:?}");
    Some(Told { line, tlvs: read })
}

/// An endpoint that wants a header before all else, and keeps it.
pub struct Recording {
    pub endpoint: Endpoint,
    told: Arc<Mutex<Vec<Told>>>,
}

impl Recording {
    /// Serves with `serve` what follows the header: in TLS, if there is an acceptor.
    pub async fn start<F, Fut>(tls: Option<tokio_rustls::TlsAcceptor>, serve: F) -> Self
    where
        F: Fn(Conn) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let told: Arc<Mutex<Vec<Told>>> = Arc::default();
        let keep = told.clone();
        let endpoint = Endpoint::start(move |mut conn| {
            let (keep, tls, serve) = (keep.clone(), tls.clone(), serve.clone());
            async move {
                let mut stream = conn.wire.into_stream();
                let Some(header) = read_told(&mut stream).await else { return };
                keep.lock().unwrap().push(header);
                conn.wire = match tls {
                    None => Wire::new(stream),
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => Wire::new(stream),
                        Err(_) => return,
                    },
                };
                serve(conn).await;
            }
        })
        .await;
        Self { endpoint, told }
    }

    /// Answers each request by HTTP/1.1 with the number of its connection.
    pub async fn http1(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        Self::start(tls, |mut conn| async move {
            while let Some(request) = conn.request().await {
                conn.respond(200, &request.connection.to_string()).await;
            }
        })
        .await
    }

    /// The same by HTTP/2.
    pub async fn http2(tls: Option<tokio_rustls::TlsAcceptor>) -> Self {
        Self::start(tls, |conn| async move {
            let number = conn.number.to_string();
            serve_h2(conn, move |_| {
                let number = number.clone();
                async move { http::Response::new(body(number)) }
            })
            .await;
        })
        .await
    }

    /// Sends every byte back.
    pub async fn echo() -> Self {
        Self::start(None, |mut conn| async move {
            while let Some(byte) = conn.wire.next_byte().await {
                if conn.wire.try_send([byte]).await.is_err() {
                    return;
                }
            }
        })
        .await
    }

    pub fn told(&self) -> Vec<Told> {
        self.told.lock().unwrap().clone()
    }
}

/// What the log of this process said, from the first call on.
pub fn logged() -> String {
    static LOG: OnceLock<Log> = OnceLock::new();

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let log = LOG.get_or_init(|| {
        let log = Log::default();
        let writer = log.clone();
        let _ = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).try_init();
        log
    });
    String::from_utf8(log.0.lock().unwrap().clone()).unwrap()
}
