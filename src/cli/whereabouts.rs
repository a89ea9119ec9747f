//! Where the admin API of an instance on this machine is: the instance says it, and commands that ask an instance look for it.
//!
//! It is said in a file that is in no directory (`memfd_create`) and ends with the process: there is nothing to clean up, and a read-only
//! file system is as good as any. It is found among the open files of processes below `/proc`, so by the same user or root, and in a
//! container there is one instance only.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use rustix::fs::{MemfdFlags, memfd_create};

/// The file's name.
const NAME: &str = "nuncio-admin";
/// What the link of such a file starts with.
const LINK: &str = "/memfd:nuncio-admin ";
/// How many open files of a process are looked at, the oldest first. Ours is made before connections are accepted.
const FILES_MAX: usize = 256;
/// The longest address, in bytes.
const ADDRESS_BYTES_MAX: u64 = 64;

/// Says that the admin API of this process is at `address`, until the result is dropped.
pub(super) fn say(address: SocketAddr) -> std::io::Result<File> {
    let mut file = File::from(memfd_create(NAME, MemfdFlags::CLOEXEC)?);
    file.write_all(address.to_string().as_bytes())?;
    Ok(file)
}

/// Where the admin APIs of the instances are that can be seen from here.
pub(super) fn find() -> Vec<SocketAddr> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let is_process = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let mut found: Vec<_> =
        processes.flatten().map(|entry| entry.path()).filter(|path| is_process(path)).filter_map(|path| said(&path)).collect();
    found.sort();
    found.dedup();
    found
}

/// What a process says, if it is an instance, and may be looked at.
fn said(process: &Path) -> Option<SocketAddr> {
    let files = fs::read_dir(process.join("fd")).ok()?.take(FILES_MAX).flatten().map(|entry| entry.path());
    let is_ours = |path: &Path| fs::read_link(path).is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(LINK.as_bytes()));
    let path = files.into_iter().find(|path| is_ours(path))?;
    let mut text = String::new();
    File::open(path).ok()?.take(ADDRESS_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.parse().ok().map(reachable)
}

/// An address to connect to, of one to listen on.
fn reachable(address: SocketAddr) -> SocketAddr {
    let loopback = match address.ip() {
        IpAddr::V4(Ipv4Addr::UNSPECIFIED) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(Ipv6Addr::UNSPECIFIED) => IpAddr::V6(Ipv6Addr::LOCALHOST),
        ip => ip,
    };
    SocketAddr::new(loopback, address.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_process_says_is_found_as_long_as_it_says_it() {
        let address = |text: &str| -> SocketAddr { text.parse().unwrap() };
        let said = say(address("0.0.0.0:1")).unwrap();
        assert!(find().contains(&address("127.0.0.1:1")));
        drop(said);
        assert!(!find().contains(&address("127.0.0.1:1")));
        assert_eq!(reachable(address("[::]:2")), address("[::1]:2"));
        assert_eq!(reachable(address("10.0.0.1:2")), address("10.0.0.1:2"));
    }
}
