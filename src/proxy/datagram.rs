//! UDP sockets: bound once per worker, connected to endpoints, and read and written many datagrams at a time where the kernel can.
//!
//! Datagrams of one peer that come in a row may come as one piece (GRO), and go on as one (GSO). What a socket does not take at once is
//! lost, as it would be on the wire: nothing is queued here but by the kernel.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};

use nix::sys::socket::{setsockopt, sockopt};
use quinn_udp::{BATCH_SIZE, RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendFlags, SocketFlags, SocketType};
use socket2::{Domain, Protocol, Socket, Type};

use super::bind::bind_socket;
use crate::socket::bind_as;

/// Bytes that the kernel keeps of what a worker has not received yet, and of what it could not send yet. It caps them at
/// `net.core.rmem_max` and `wmem_max`.
const KERNEL_BUFFER: usize = 1 << 20;

/// The longest datagram, and the longest piece of several.
const BUFFER: usize = 1 << 16;

/// Opens a socket on `address`. Not with `SO_REUSEADDR`: with UDP it lets another owner take the port over.
pub(super) fn socket(address: SocketAddr, is_shared: bool, freebind: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    prepare(&socket, address)?;
    bind_socket(&socket, address, is_shared, freebind)?;
    Ok(socket)
}

/// Makes a socket on `address` one that we can use well.
pub(super) fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_recv_buffer_size(KERNEL_BUFFER)?;
    socket.set_send_buffer_size(KERNEL_BUFFER)?;
    if address.ip().is_unspecified() {
        tell_destination(socket, address)?;
    }
    coalesce(socket);
    Ok(())
}

/// A reply must leave from the address that the client sent to: with several addresses, each datagram says to which it came.
fn tell_destination(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    let set = if address.is_ipv4() {
        setsockopt(socket, sockopt::Ipv4PacketInfo, &true)
    } else {
        setsockopt(socket, sockopt::Ipv6RecvPacketInfo, &true)
    };
    set.map_err(io::Error::from)
}

/// Lets several datagrams come as one piece. A kernel that cannot gives them one by one.
pub(crate) fn coalesce(socket: &impl AsFd) {
    if let Err(error) = setsockopt(socket, sockopt::UdpGroSegment, &true) {
        tracing::debug!("datagrams come one by one: UDP_GRO: {error}");
    }
}

/// A socket that speaks to `address` alone, from `source` if that is not None: it gets no datagram of anybody else, and is told when nobody is there.
pub(crate) fn connect(address: SocketAddr, source: Option<IpAddr>) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket_with(family, SocketType::DGRAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
    if let Some(source) = source {
        bind_as(&socket, source, address).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::PERM))?;
    }
    rustix::net::connect(&socket, &address)?;
    Ok(socket)
}

/// Datagrams of one peer. Never none of them, though one may be empty.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Datagrams<'a> {
    /// Who sent them.
    pub(crate) from: SocketAddr,
    /// The address of ours that they came to, if the socket has several.
    pub(crate) to: Option<IpAddr>,
    bytes: &'a [u8],
    /// Bytes of each; the last one may be shorter.
    size: usize,
}

impl<'a> Datagrams<'a> {
    pub(crate) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn count(&self) -> usize {
        if self.is_one() { 1 } else { self.bytes.len().div_ceil(self.size) }
    }

    fn is_one(&self) -> bool {
        self.size == 0 || self.bytes.len() <= self.size
    }

    fn each(&self) -> impl Iterator<Item = &'a [u8]> {
        let one = self.is_one().then_some(self.bytes);
        let many = if one.is_some() { &[] } else { self.bytes };
        one.into_iter().chain(many.chunks(self.size.max(1)))
    }

    /// An answer goes from where the question came to. Not from an address that stands for many: nobody can send from it.
    pub(crate) fn reply_from(&self) -> Option<IpAddr> {
        self.to.filter(|to| !to.is_multicast() && *to != IpAddr::from([255; 4]))
    }
}

/// What became of datagrams that were to be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Sent {
    pub(crate) datagrams: usize,
    pub(crate) bytes: usize,
    /// Why the first that was not sent was not. Further ones were tried only if it says nothing of them.
    pub(crate) error: Option<Errno>,
}

impl Sent {
    fn all(datagrams: &Datagrams<'_>) -> Self {
        Self { datagrams: datagrams.count(), bytes: datagrams.bytes(), error: None }
    }
}

/// Room for what one call receives. One for all sockets of a worker.
pub(crate) struct Batch {
    kernel: UdpSocketState,
    buffers: Vec<u8>,
    received: [RecvMeta; BATCH_SIZE],
}

impl Batch {
    /// Of this many datagrams, or pieces, at most.
    pub(crate) const MAX: usize = BATCH_SIZE;

    pub(crate) fn new() -> io::Result<Self> {
        // What the kernel can do is found out on a socket of its own: on ours, its options would forbid datagrams that are longer than
        // packets.
        let probe = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))
            .or_else(|_| Socket::new(Domain::IPV6, Type::DGRAM, Some(Protocol::UDP)))?;
        let kernel = UdpSocketState::new(UdpSockRef::from(&probe))?;
        Ok(Self { kernel, buffers: vec![0; BUFFER * BATCH_SIZE], received: [RecvMeta::default(); BATCH_SIZE] })
    }

    /// Receives what a socket has, up to [`Self::MAX`] pieces. Fewer than that: there were no more.
    pub(crate) fn receive(&mut self, socket: &impl AsFd) -> io::Result<usize> {
        let mut buffers = self.buffers.chunks_exact_mut(BUFFER);
        let mut slices: [IoSliceMut<'_>; BATCH_SIZE] = std::array::from_fn(|_| IoSliceMut::new(buffers.next().unwrap_or_default()));
        self.kernel.recv(UdpSockRef::from(socket), &mut slices, &mut self.received)
    }

    /// What the last call received, of which it said how much.
    pub(crate) fn received(&self, count: usize) -> impl Iterator<Item = Datagrams<'_>> {
        let pieces = self.received.iter().zip(self.buffers.chunks_exact(BUFFER)).take(count);
        pieces.map(|(meta, buffer)| {
            let bytes = buffer.get(..meta.len).unwrap_or_default();
            Datagrams { from: meta.addr, to: meta.dst_ip, bytes, size: meta.stride }
        })
    }

    /// Receives one datagram of a connected socket. Cheaper than [`Self::receive`] where there is rarely a second.
    pub(crate) fn receive_one(&mut self, socket: &impl AsFd, from: SocketAddr) -> Result<usize, Errno> {
        let buffer = self.buffers.get_mut(..BUFFER).unwrap_or_default();
        let (length, _) = rustix::net::recv(socket, buffer, RecvFlags::empty())?;
        let [first, ..] = &mut self.received;
        (first.addr, first.dst_ip, first.len, first.stride) = (from, None, length, length);
        Ok(1)
    }

    /// Sends on a connected socket.
    pub(crate) fn send(&self, socket: &impl AsFd, peer: SocketAddr, datagrams: &Datagrams<'_>) -> Sent {
        self.send_whole(socket, peer, None, datagrams)
            .unwrap_or_else(|| send_each(datagrams, |bytes| rustix::net::send(socket, bytes, SendFlags::empty()).map(drop)))
    }

    /// Sends to `peer`, from the address of ours that it knows.
    pub(crate) fn send_to(&self, socket: &impl AsFd, peer: SocketAddr, from: Option<IpAddr>, datagrams: &Datagrams<'_>) -> Sent {
        let send_one = |bytes: &[u8]| match from {
            None => rustix::net::sendto(socket, bytes, SendFlags::empty(), &peer).map(drop),
            Some(_) => self.transmit(socket, &transmit(peer, from, bytes)),
        };
        self.send_whole(socket, peer, from, datagrams).unwrap_or_else(|| send_each(datagrams, send_one))
    }

    /// Sends several as one piece. None: there are not several, or the kernel cannot.
    fn send_whole(&self, socket: &impl AsFd, peer: SocketAddr, from: Option<IpAddr>, datagrams: &Datagrams<'_>) -> Option<Sent> {
        if datagrams.is_one() || self.kernel.max_gso_segments() < datagrams.count() {
            return None;
        }
        let whole = Transmit { segment_size: Some(datagrams.size), ..transmit(peer, from, datagrams.bytes) };
        self.transmit(socket, &whole).is_ok().then(|| Sent::all(datagrams))
    }

    fn transmit(&self, socket: &impl AsFd, transmit: &Transmit<'_>) -> Result<(), Errno> {
        let sent = self.kernel.try_send(UdpSockRef::from(socket), transmit);
        sent.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
    }
}

/// Sends on a connected socket, each datagram with `header` before it.
pub(crate) fn send_headed(socket: &impl AsFd, header: &[u8], datagrams: &Datagrams<'_>) -> Sent {
    send_each(datagrams, |bytes| {
        let parts = [IoSlice::new(header), IoSlice::new(bytes)];
        rustix::net::sendmsg(socket, &parts, &mut SendAncillaryBuffer::default(), SendFlags::empty()).map(drop)
    })
}

fn send_each(datagrams: &Datagrams<'_>, send_one: impl Fn(&[u8]) -> Result<(), Errno>) -> Sent {
    let mut sent = Sent::default();
    for bytes in datagrams.each() {
        match send_one(bytes) {
            Ok(()) => {
                sent.datagrams += 1;
                sent.bytes += bytes.len();
            }
            Err(error) => {
                sent.error.get_or_insert(error);
                // Being too long is of this one alone.
                if error != Errno::MSGSIZE {
                    break;
                }
            }
        }
    }
    sent
}

fn transmit(destination: SocketAddr, src_ip: Option<IpAddr>, contents: &[u8]) -> Transmit<'_> {
    Transmit { destination, ecn: None, contents, segment_size: None, src_ip }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound() -> (Socket, SocketAddr) {
        let socket = socket("127.0.0.1:0".parse().unwrap(), false, false).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    }

    fn piece(bytes: &[u8], size: usize) -> Datagrams<'_> {
        Datagrams { from: "127.0.0.1:1".parse().unwrap(), to: None, bytes, size }
    }

    #[test]
    fn a_piece_is_what_it_is_made_of() {
        let check = |bytes: &[u8], size, expected: &[&[u8]]| {
            let piece = piece(bytes, size);
            assert_eq!(piece.each().collect::<Vec<_>>(), expected);
            assert_eq!(piece.count(), expected.len());
        };
        check(b"", 0, &[b""]);
        check(b"abc", 3, &[b"abc"]);
        check(b"abc", 9, &[b"abc"]);
        check(b"abcde", 2, &[b"ab", b"cd", b"e"]);
    }

    /// Whatever the kernel makes of it on the way: the same datagrams arrive, in their order.
    #[test]
    fn many_datagrams_go_as_one_piece_and_arrive_one_by_one() {
        let (socket, address) = bound();
        let mut batch = Batch::new().unwrap();
        let (sender, bytes) = (connect(address, None).unwrap(), vec![7; 1_000 * 20 + 1]);
        let sent = batch.send(&sender, address, &piece(&bytes, 1_000));
        assert_eq!(sent, Sent { datagrams: 21, bytes: bytes.len(), error: None });
        let mut lengths = Vec::new();
        while let Ok(count) = batch.receive(&socket) {
            lengths.extend(batch.received(count).flat_map(|datagrams| datagrams.each().map(<[u8]>::len).collect::<Vec<_>>()));
        }
        assert_eq!(lengths, [[1_000; 20].as_slice(), &[1]].concat());
    }

    #[test]
    fn the_longest_and_the_shortest_datagram_pass() {
        let (socket, address) = bound();
        let mut batch = Batch::new().unwrap();
        for length in [65_507, 0] {
            let (sender, bytes) = (connect(address, None).unwrap(), vec![7; length]);
            assert_eq!(batch.send(&sender, address, &piece(&bytes, length)).error, None);
            assert_eq!(batch.receive(&socket).unwrap(), 1);
            let received = batch.received(1).next().unwrap();
            assert_eq!((received.bytes(), received.count()), (length, 1));
        }
        let too_long = vec![7; 65_508];
        assert_eq!(batch.send(&connect(address, None).unwrap(), address, &piece(&too_long, 65_508)).error, Some(Errno::MSGSIZE));
    }
}
