//! Where the admin API of an instance on this machine is, and how a registrar fares: they say it, and commands that ask look for it.
//!
//! It is said in a file that is in no directory (`memfd_create`) and ends with the process: there is nothing to clean up, and a read-only
//! file system is as good as any. It is found among the open files of processes below `/proc`, so by the same user or root, and in a
//! container there is one instance only.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use rustix::fs::{MemfdFlags, memfd_create};

/// What an instance says: where its admin API is.
pub(super) const ADMIN: &str = "nuncio-admin";
/// What a registrar says: what is missing, a line each. Nothing if all is well.
pub(super) const REGISTRAR: &str = "nuncio-register";
/// How many open files of a process are looked at, the oldest first. Ours is made before connections are accepted.
const FILES_MAX: usize = 256;
/// The longest text that is read, in bytes.
const TEXT_BYTES_MAX: u64 = 4096;

/// Says `text` under this name, until the result is dropped.
pub(super) fn say(name: &str, text: &str) -> io::Result<File> {
    let mut file = File::from(memfd_create(name, MemfdFlags::CLOEXEC)?);
    file.write_all(text.as_bytes())?;
    Ok(file)
}

/// Says something else in its place.
pub(super) fn say_again(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

/// Where the admin APIs of the instances are that can be seen from here.
pub(super) fn admins() -> Vec<SocketAddr> {
    let mut found: Vec<SocketAddr> = find(ADMIN).iter().filter_map(|text| text.parse().ok()).map(reachable).collect();
    found.sort();
    found.dedup();
    found
}

/// What is said under this name by the processes that can be seen from here.
pub(super) fn find(name: &str) -> Vec<String> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let is_process = |path: &Path| path.file_name().is_some_and(|name| name.as_encoded_bytes().iter().all(u8::is_ascii_digit));
    let link = format!("/memfd:{name} ");
    processes.flatten().map(|entry| entry.path()).filter(|path| is_process(path)).filter_map(|path| said(&path, &link)).collect()
}

/// What a process says, if it does, and may be looked at.
fn said(process: &Path, link: &str) -> Option<String> {
    let mut files = fs::read_dir(process.join("fd")).ok()?.take(FILES_MAX).flatten().map(|entry| entry.path());
    let is_it = |path: &PathBuf| fs::read_link(path).is_ok_and(|target| target.as_os_str().as_encoded_bytes().starts_with(link.as_bytes()));
    let path = files.find(is_it)?;
    let mut text = String::new();
    File::open(path).ok()?.take(TEXT_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
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
        let mut said = say(ADMIN, "0.0.0.0:1").unwrap();
        assert!(admins().contains(&address("127.0.0.1:1")));
        say_again(&mut said, "[::]:2").unwrap();
        assert!(admins().contains(&address("[::1]:2")) && !admins().contains(&address("127.0.0.1:1")));
        drop(said);
        assert!(!admins().contains(&address("[::1]:2")));
        assert_eq!(reachable(address("[::]:2")), address("[::1]:2"));
        assert_eq!(reachable(address("10.0.0.1:2")), address("10.0.0.1:2"));
    }
}
