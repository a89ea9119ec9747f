//! Connections to endpoints, be they TCP or unix sockets.
//!
//! A connected unix socket is given tokio's TCP type. What the two families share (reading, writing, peeking, splicing, shutting down) is the
//! same system calls; what only TCP has (`TCP_NODELAY`, addresses with ports) is asked for here, or answered by the system with an error
//! that its callers expect. So the data plane has one type of stream, and no choice to make per byte.

use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream as StdTcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as StdUnixStream;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};
use tokio::net::{TcpSocket, TcpStream};

use super::address::{SocketAddress, UnixPath};

/// Between two attempts to connect to a unix socket whose queue is full: the kernel does not tell when there is room again.
const QUEUE_PAUSE: Duration = Duration::from_millis(2);

/// Connects to `address`, from the IP address `source` if there is one, be it ours or not. It is the caller who sets a time limit.
///
/// # Errors
/// The system's; and with `source`, that it does not go with `address`, or that we may not use it.
pub async fn connect(address: &SocketAddress, source: Option<IpAddr>) -> io::Result<TcpStream> {
    match (address, source) {
        (SocketAddress::Ip(address), source) => {
            let stream = match source {
                None => TcpStream::connect(address).await?,
                Some(source) => connect_from(source, *address).await?,
            };
            stream.set_nodelay(true)?;
            Ok(stream)
        }
        (SocketAddress::Unix(path), None) => connect_unix(path).await,
        (SocketAddress::Unix(_), Some(_)) => Err(io::Error::new(io::ErrorKind::InvalidInput, "a unix socket knows no address of a client")),
    }
}

async fn connect_from(source: IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    bind_as(&socket, source, address)?;
    socket.connect(address).await
}

/// Gives a socket that is to be connected to `address` the IP address `source`, which need not be ours (`IP_TRANSPARENT`, ip(7)). What comes
/// back to it reaches us only if routing sees to that.
///
/// # Errors
/// That we may not, or that one is IPv4 and the other IPv6.
pub fn bind_as(socket: &impl AsFd, source: IpAddr, address: SocketAddr) -> io::Result<()> {
    let told = |error: io::Error| match error.kind() {
        io::ErrorKind::PermissionDenied => io::Error::new(error.kind(), "`transparent` takes the capability CAP_NET_ADMIN"),
        _ => error,
    };
    let system = socket2::SockRef::from(socket);
    match (source, address) {
        (IpAddr::V4(_), SocketAddr::V4(_)) => system.set_ip_transparent_v4(true).map_err(told)?,
        (IpAddr::V6(_), SocketAddr::V6(_)) => system.set_ip_transparent_v6(true).map_err(told)?,
        _ => {
            let text = format!("`transparent`: the client is {source}, and the endpoint {address}: one is IPv4, the other IPv6");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
    }
    // The port is chosen at connect, when the other end is known: one port then serves many endpoints.
    setsockopt(socket, sockopt::IpBindAddressNoPort, &true)?;
    system.bind(&SocketAddr::new(source, 0).into())
}

async fn connect_unix(path: &UnixPath) -> io::Result<TcpStream> {
    let address = path.to_system()?;
    loop {
        let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking(), None)?;
        match socket.connect(&address) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => tokio::time::sleep(QUEUE_PAUSE).await,
            Err(error) => return Err(error),
            Ok(()) => return from_fd(socket.into()),
        }
    }
}

/// A unix socket that is connected, as a stream.
///
/// # Errors
/// The system's, when it cannot be watched.
pub fn from_unix(stream: StdUnixStream) -> io::Result<TcpStream> {
    stream.set_nonblocking(true)?;
    from_fd(stream.into())
}

fn from_fd(socket: OwnedFd) -> io::Result<TcpStream> {
    TcpStream::from_std(StdTcpStream::from(socket))
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_full_queue_is_waited_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        listener.bind(&socket2::SockAddr::unix(&path).unwrap()).unwrap();
        listener.listen(0).unwrap();
        let address: SocketAddress = format!("unix:{}", path.display()).parse().unwrap();
        let _first = connect(&address, None).await.unwrap();
        let mut second = Box::pin(connect(&address, None));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut second).await.is_err());
        let listener = UnixListener::from(OwnedFd::from(listener));
        let accepted = [listener.accept().unwrap(), {
            let mut second = second.await.unwrap();
            second.write_all(b"hello").await.unwrap();
            listener.accept().unwrap()
        }];
        let [_, (second, _)] = accepted;
        let mut said = String::new();
        from_unix(second).unwrap().read_to_string(&mut said).await.unwrap();
        assert_eq!(said, "hello");
    }

    #[tokio::test]
    async fn who_cannot_be_is_told() {
        let endpoint = SocketAddress::Ip("[::1]:1".parse().unwrap());
        let error = connect(&endpoint, Some("10.0.0.1".parse().unwrap())).await.unwrap_err().to_string();
        assert!(error.contains("one is IPv4, the other IPv6"), "{error}");
        let unix = "unix:@nobody".parse().unwrap();
        assert!(connect(&unix, Some("10.0.0.1".parse().unwrap())).await.is_err());
        assert_eq!(connect(&unix, None).await.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }
}
