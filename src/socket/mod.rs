//! Stream sockets, of TCP and of this machine.

mod address;
mod connect;

pub use address::{SocketAddress, UnixPath};
pub use connect::{bind_as, connect, from_unix};
