//! Sockets that are listened on, opened once for each worker.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::datagram;
use crate::config::listen_address::ListenAddress;
use crate::config::listener::ListenerProtocol;
use crate::names::Name;
use crate::socket::UnixPath;

/// Connections that wait to be accepted, per socket. The kernel caps it at `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// Who may connect to a unix socket: everybody, as with an address of loopback. Its directory says who can get there.
const UNIX_MODE: u32 = 0o666;

/// A socket that is listened on.
#[derive(Debug)]
pub enum ListenSocket {
    /// Accepts TCP connections.
    Tcp(std::net::TcpListener),
    /// Accepts connections of this machine.
    Unix(UnixListener),
    /// Receives datagrams.
    Udp(std::net::UdpSocket),
}

/// Sockets that whoever started us has opened, by their names. They stay open, listened on or not, so that nothing that they queue is lost.
#[derive(Debug, Default)]
pub struct PassedSockets(BTreeMap<Name, Vec<ListenSocket>>);

impl PassedSockets {
    /// Adds one. Several may have one name.
    pub fn add(&mut self, name: Name, socket: ListenSocket) {
        self.0.entry(name).or_default().push(socket);
    }

    fn of(&self, name: &Name) -> io::Result<&[ListenSocket]> {
        let known = || self.0.keys().map(Name::as_str).collect::<Vec<_>>().join(", ");
        self.0.get(name).map(Vec::as_slice).ok_or_else(|| {
            let known = if self.0.is_empty() { "none was".into() } else { format!("these were: {}", known()) };
            io::Error::new(io::ErrorKind::NotFound, format!("no socket of this name was passed on to us; {known}"))
        })
    }
}

/// What is to be listened on.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Where.
    pub address: &'a ListenAddress,
    /// What is spoken there.
    pub protocol: ListenerProtocol,
    /// Whether an IP address may be one that this machine does not have yet (`IP_FREEBIND`, ip(7)).
    pub freebind: bool,
}

/// The sockets of a listener.
#[derive(Debug)]
pub struct Bound {
    /// For each worker its sockets.
    pub workers: Vec<Vec<ListenSocket>>,
    /// Where they are: as it was wanted, with the port that the system chose.
    pub address: ListenAddress,
    /// The file of a unix socket, which is removed with this.
    pub file: Option<SocketFile>,
}

impl ListenSocket {
    fn try_clone(&self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(socket) => Self::Tcp(socket.try_clone()?),
            Self::Unix(socket) => Self::Unix(socket.try_clone()?),
            Self::Udp(socket) => Self::Udp(socket.try_clone()?),
        })
    }

    /// Makes a socket that somebody else has opened one that we can use.
    fn prepare(&self) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(true),
            Self::Unix(socket) => socket.set_nonblocking(true),
            Self::Udp(socket) => {
                datagram::prepare(&socket2::SockRef::from(socket), socket.local_addr()?)?;
                socket.set_nonblocking(true)
            }
        }
    }

    fn speaks(&self, protocol: ListenerProtocol) -> bool {
        matches!(self, Self::Udp(_)) == (protocol == ListenerProtocol::Udp)
    }
}

/// Opens what is `wanted`, or takes it from what was `passed` on to us, for each of `workers`. All of it or nothing.
///
/// # Errors
/// The system's, when the address is taken, not ours, or needs a right that we do not have.
pub fn bind(wanted: Wanted<'_>, passed: &PassedSockets, workers: usize) -> io::Result<Bound> {
    match wanted.address {
        ListenAddress::Ip(..) | ListenAddress::Any(_) => bind_ip(wanted, workers),
        ListenAddress::Unix(path) => bind_unix(path, workers),
        ListenAddress::Systemd(name) => {
            let workers = adopt(passed.of(name)?, wanted.protocol, workers)?;
            Ok(Bound { workers, address: wanted.address.clone(), file: None })
        }
    }
}

/// Gives each of `workers` the sockets that were opened for us. Workers share those that are fewer than they: the system gives a connection
/// to whoever comes first.
fn adopt(sockets: &[ListenSocket], protocol: ListenerProtocol, workers: usize) -> io::Result<Vec<Vec<ListenSocket>>> {
    if sockets.iter().any(|socket| !socket.speaks(protocol)) {
        let kind = if protocol == ListenerProtocol::Udp { "ListenDatagram=" } else { "ListenStream=" };
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("it must be opened by {kind}")));
    }
    let of_worker = |worker: usize| {
        let own = sockets.iter().enumerate().filter(|(index, _)| index % workers.max(1) == worker);
        let own: Vec<_> = own.map(|(_, socket)| socket).collect();
        // Datagrams of one client must all come to one worker: nothing is shared.
        let is_shared = own.is_empty() && protocol != ListenerProtocol::Udp;
        let given = if is_shared { sockets.iter().collect() } else { own };
        given.into_iter().map(ListenSocket::try_clone).collect()
    };
    sockets.iter().try_for_each(ListenSocket::prepare)?;
    (0..workers).map(of_worker).collect()
}

fn bind_ip(wanted: Wanted<'_>, workers: usize) -> io::Result<Bound> {
    let mut bound = Bound { workers: (0..workers).map(|_| Vec::new()).collect(), address: wanted.address.clone(), file: None };
    for mut address in wanted.address.sockets() {
        // Both families have the same port.
        if let (0, Some(chosen)) = (address.port(), bound.workers.first().and_then(|sockets| sockets.first()).and_then(local_port)) {
            address.set_port(chosen);
        }
        let sockets = match bind_one(address, wanted, workers) {
            Err(error) if matches!(wanted.address, ListenAddress::Any(_)) && address.is_ipv6() && has_no_ipv6(&error) => break,
            sockets => sockets?,
        };
        if let Some(port) = sockets.first().and_then(local_port).filter(|_| wanted.address.is_any_port()) {
            bound.address = wanted.address.with_port(port);
        }
        bound.workers.iter_mut().zip(sockets).for_each(|(worker, socket)| worker.push(socket));
    }
    Ok(bound)
}

fn bind_one(address: SocketAddr, wanted: Wanted<'_>, workers: usize) -> io::Result<Vec<ListenSocket>> {
    let open = |address, is_shared| match wanted.protocol {
        ListenerProtocol::Udp => datagram::socket(address, is_shared, wanted.freebind),
        ListenerProtocol::Http | ListenerProtocol::Tcp => tcp_socket(address, is_shared, wanted.freebind),
    };
    // Two owners on one port share its connections without an error when both allow it. So it is joined only when nobody is there:
    // a socket that does not share cannot bind otherwise.
    let probe = open(address, false)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let each = |_| {
        let socket = open(address, true)?;
        Ok(match wanted.protocol {
            ListenerProtocol::Udp => ListenSocket::Udp(socket.into()),
            ListenerProtocol::Http | ListenerProtocol::Tcp => {
                socket.listen(BACKLOG)?;
                ListenSocket::Tcp(socket.into())
            }
        })
    };
    (0..workers).map(each).collect()
}

fn tcp_socket(address: SocketAddr, is_shared: bool, freebind: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    bind_socket(&socket, address, is_shared, freebind)?;
    Ok(socket)
}

/// Binds a socket that one family of addresses reaches.
pub(super) fn bind_socket(socket: &Socket, address: SocketAddr, is_shared: bool, freebind: bool) -> io::Result<()> {
    socket.set_reuse_port(is_shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    match address {
        SocketAddr::V4(_) => socket.set_freebind_v4(freebind)?,
        SocketAddr::V6(_) => socket.set_freebind_v6(freebind)?,
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())
}

fn local_port(socket: &ListenSocket) -> Option<u16> {
    let address = match socket {
        ListenSocket::Tcp(socket) => socket.local_addr(),
        ListenSocket::Udp(socket) => socket.local_addr(),
        ListenSocket::Unix(_) => return None,
    };
    address.ok().map(|address| address.port())
}

/// Whether a machine without IPv6 says so.
fn has_no_ipv6(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

fn bind_unix(path: &UnixPath, workers: usize) -> io::Result<Bound> {
    let (socket, file) = match path.path() {
        Some(path) => bind_file(path).map(|(socket, file)| (socket, Some(file)))?,
        None => (listen_unix(&path.to_system()?)?, None),
    };
    let socket = ListenSocket::Unix(socket);
    let workers = (0..workers).map(|_| Ok(vec![socket.try_clone()?])).collect::<io::Result<_>>()?;
    Ok(Bound { workers, address: ListenAddress::Unix(path.clone()), file })
}

fn listen_unix(address: &SockAddr) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Listens at `path`, in the place of a socket that nobody listens on any more. Whoever looks there sees a socket that accepts, or none.
fn bind_file(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is a file of this name, which is no socket"));
        }
        Ok(_) => check_dead(path)?,
        Err(_) => {}
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = PathBuf::from(new);
    let _ = std::fs::remove_file(&new);
    let (address, _directory) = address_of(&new)?;
    let socket = listen_unix(&address)?;
    let file = std::fs::set_permissions(&new, PermissionsExt::from_mode(UNIX_MODE))
        .and_then(|()| std::fs::rename(&new, path))
        .and_then(|()| SocketFile::at(path));
    match file {
        Ok(file) => Ok((socket, file)),
        Err(error) => {
            let _ = std::fs::remove_file(&new);
            Err(error)
        }
    }
}

/// That nobody has the socket at `path` any more, in any of the ways a socket can be had.
///
/// # Errors
/// `AddrInUse` if somebody has it, or the system's, if it cannot be told.
fn check_dead(path: &Path) -> io::Result<()> {
    // Does not wait: whoever listens may have no room for more connections (EAGAIN).
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    let Err(error) = socket.connect(&SockAddr::unix(path)?) else { return Err(io::ErrorKind::AddrInUse.into()) };
    match Errno::from_io_error(&error) {
        Some(Errno::CONNREFUSED | Errno::NOENT) => Ok(()),
        // EPROTOTYPE: it is there, for datagrams or packets.
        Some(Errno::AGAIN | Errno::PROTOTYPE) => Err(io::ErrorKind::AddrInUse.into()),
        _ => Err(io::Error::new(error.kind(), format!("it cannot be told whether somebody listens there: {error}"))),
    }
}

/// The address of `path`, also of one that is longer than an address may be. Then it leads through its directory, which must stay open.
fn address_of(path: &Path) -> io::Result<(SockAddr, Option<OwnedFd>)> {
    if let (Err(_), Some(directory), Some(name)) = (SockAddr::unix(path), path.parent(), path.file_name()) {
        let directory = rustix::fs::open(directory, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let through = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
        return Ok((SockAddr::unix(through)?, Some(directory)));
    }
    Ok((SockAddr::unix(path)?, None))
}

/// The file of a unix socket of ours. Removed when this is dropped, unless another one has taken its place.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and number of the file.
    id: (u64, u64),
}

impl SocketFile {
    fn at(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_path_buf(), id: Self::id(path)? })
    }

    fn id(path: &Path) -> io::Result<(u64, u64)> {
        std::fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if Self::id(&self.path).is_ok_and(|id| id == self.id) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::{UnixDatagram, UnixStream};

    use super::*;

    fn tcp(address: &str) -> io::Result<Bound> {
        tcp_of(address, &PassedSockets::default())
    }

    fn tcp_of(address: &str, passed: &PassedSockets) -> io::Result<Bound> {
        let address = address.parse().unwrap();
        bind(Wanted { address: &address, protocol: ListenerProtocol::Tcp, freebind: false }, passed, 2)
    }

    fn addresses(bound: &Bound) -> Vec<SocketAddr> {
        let local = |socket: &ListenSocket| match socket {
            ListenSocket::Tcp(socket) => socket.local_addr().unwrap(),
            other => panic!("{other:?}"),
        };
        bound.workers.iter().flatten().map(local).collect()
    }

    #[test]
    fn both_families_have_one_port() {
        let bound = tcp(":0").unwrap();
        let ports: Vec<u16> = addresses(&bound).iter().map(SocketAddr::port).collect();
        assert!(ports.iter().all(|port| *port == ports[0]), "{ports:?}");
        assert_eq!(bound.address.to_string(), format!(":{}", ports[0]));
    }

    #[test]
    fn a_port_of_another_owner_is_not_joined() {
        let first = tcp("127.0.0.1:0").unwrap();
        let taken = first.address.to_string();
        assert_eq!(tcp(&taken).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let all: Vec<_> = addresses(&first);
        assert_eq!(all.len(), 2);
    }

    #[test]
    fn all_ports_of_a_range_or_none() {
        // A port that is taken, in the middle of a range.
        let taken = tcp("127.0.0.1:0").unwrap();
        let port = addresses(&taken)[0].port();
        let range = format!("127.0.0.1:{}-{port}", port - 1);
        assert_eq!(tcp(&range).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(taken);
        if let Ok(bound) = tcp(&range) {
            assert_eq!(addresses(&bound).len(), 4);
        }
    }

    #[test]
    fn an_address_that_is_not_ours_yet_can_be_had_if_that_is_wanted() {
        // TEST-NET-1 (RFC 5737).
        let address = "192.0.2.1:0".parse().unwrap();
        for protocol in [ListenerProtocol::Tcp, ListenerProtocol::Udp] {
            let wanted = |freebind| Wanted { address: &address, protocol, freebind };
            let passed = PassedSockets::default();
            assert_eq!(bind(wanted(false), &passed, 1).unwrap_err().kind(), io::ErrorKind::AddrNotAvailable);
            assert_eq!(bind(wanted(true), &passed, 1).unwrap().workers.len(), 1);
        }
    }

    #[test]
    fn a_unix_socket_replaces_one_that_is_dead_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let address = format!("unix:{}", path.display());
        let first = tcp(&address).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, UNIX_MODE);
        assert_eq!(tcp(&address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        drop(first);
        assert!(!path.exists());
        // One whose owner was killed.
        drop(UnixListener::bind(&path).unwrap());
        let second = tcp(&address).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        // One that has taken our place stays.
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop(second);
        assert!(path.exists());
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "precious").unwrap();
        assert_eq!(tcp(&address).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
    }

    #[test]
    fn a_unix_socket_that_somebody_has_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        let taken = |path: &Path| tcp(&format!("unix:{}", path.display())).unwrap_err().kind();
        // One that is too busy to accept.
        let busy = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        busy.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        busy.listen(0).unwrap();
        let _waits = UnixStream::connect(&path).unwrap();
        assert_eq!(taken(&path), io::ErrorKind::AddrInUse);
        drop(busy);
        assert!(tcp(&format!("unix:{}", path.display())).is_ok());
        // Those for datagrams and packets.
        let _datagrams = UnixDatagram::bind(&path).unwrap();
        assert_eq!(taken(&path), io::ErrorKind::AddrInUse);
        let path = directory.path().join("p");
        let packets = Socket::new(Domain::UNIX, Type::SEQPACKET, None).unwrap();
        packets.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        packets.listen(1).unwrap();
        assert_eq!(taken(&path), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn the_longest_path_that_can_be_written_can_be_bound() {
        let directory = tempfile::tempdir().unwrap();
        let directory = directory.path().join("d".repeat(104 - directory.path().as_os_str().len()));
        std::fs::create_dir(&directory).unwrap();
        let path = directory.join("s");
        assert_eq!(path.as_os_str().len(), 107);
        let bound = tcp(&format!("unix:{}", path.display())).unwrap();
        assert!(UnixStream::connect(&path).is_ok());
        drop(bound);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
    }

    #[test]
    fn sockets_that_others_opened_go_round() {
        let opened: Vec<ListenSocket> = tcp("127.0.0.1:0").unwrap().workers.into_iter().flatten().collect();
        let counts = |sockets: &[ListenSocket], workers| {
            adopt(sockets, ListenerProtocol::Http, workers).unwrap().iter().map(Vec::len).collect::<Vec<_>>()
        };
        assert_eq!(counts(&opened, 2), [1, 1]);
        assert_eq!(counts(&opened[..1], 2), [1, 1]);
        assert_eq!(counts(&opened, 1), [2]);
        assert!(adopt(&opened, ListenerProtocol::Udp, 2).unwrap_err().to_string().contains("ListenDatagram="));
        let mut passed = PassedSockets::default();
        assert!(tcp_of("systemd:web", &passed).unwrap_err().to_string().contains("none was"));
        opened.into_iter().for_each(|socket| passed.add(Name::literal("web"), socket));
        assert_eq!(tcp_of("systemd:web", &passed).unwrap().workers.len(), 2);
        assert!(tcp_of("systemd:wep", &passed).unwrap_err().to_string().contains("these were: web"));
    }
}
