//! Listeners that want an address which another one has.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::config::listen_address::ListenAddress;
use crate::config::listener::ListenerProtocol;
use crate::config::problem::{Kind, ObjectId};
use crate::config::snapshot::Section;
use crate::config::{Listener, Problem};
use crate::names::Name;
use crate::socket::UnixPath;

/// A problem for each listener of whose addresses another one has some: the first by name has them.
pub(super) fn overlaps(listeners: &Section<Listener>) -> Vec<Problem> {
    let mut taken = Taken::default();
    let mut problems = Vec::new();
    for (name, entry) in listeners {
        let Ok(listener) = &entry.value else { continue };
        if let Some((address, first)) = taken.add(name, listener) {
            let problem = Problem::error(format!("listener `{first}` already listens on {address}"));
            let problem = problem.about(ObjectId::new(Kind::Listener, name)).at(entry.origin.clone());
            problems.push(problem.effect(format!("listener `{name}` cannot be opened while `{first}` is")));
        }
    }
    problems
}

/// Who has what.
#[derive(Default)]
struct Taken<'a> {
    unix: BTreeMap<&'a UnixPath, &'a Name>,
    ports: BTreeMap<Port, Vec<(IpAddr, &'a Name)>>,
}

/// Whether it is one of UDP, whether it is one of IPv6, and its number.
type Port = (bool, bool, u16);

impl<'a> Taken<'a> {
    /// Notes what a listener has. The first of its addresses that another one has before it, and which that is.
    fn add(&mut self, name: &'a Name, listener: &'a Listener) -> Option<(String, &'a Name)> {
        if let ListenAddress::Unix(path) = &listener.address {
            let first = *self.unix.entry(path).or_insert(name);
            return (first != name).then(|| (path.to_string(), first));
        }
        let is_udp = listener.protocol == ListenerProtocol::Udp;
        let mut found = None;
        // Port 0 is another one each time.
        for socket in listener.address.sockets().into_iter().filter(|socket| socket.port() != 0) {
            let ip = socket.ip();
            let there = self.ports.entry((is_udp, ip.is_ipv6(), socket.port())).or_default();
            let meets = |other: IpAddr| other == ip || other.is_unspecified() || ip.is_unspecified();
            let first = there.iter().find(|(other, owner)| *owner != name && meets(*other));
            found = found.or_else(|| first.map(|(_, owner)| (socket.to_string(), *owner)));
            there.push((ip, name));
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{Entry, Origin};

    /// The problems of listeners `a`, `b`… on these addresses.
    fn check(addresses: &[&str]) -> Vec<String> {
        let listener = |text: &str| match text.strip_prefix("udp ") {
            Some(address) => Listener::udp(address.parse().unwrap()),
            None => Listener::tcp(text.parse().unwrap()),
        };
        let names = ('a'..).map(|name| Name::new(name.to_string()).unwrap());
        let entry = |text: &&str| Arc::new(Entry { origin: Origin::program(Name::literal("x")), value: Ok(listener(text)) });
        let listeners: Section<Listener> = names.zip(addresses.iter().map(entry)).collect();
        overlaps(&listeners).into_iter().map(|problem| problem.message).collect()
    }

    #[test]
    fn one_listener_has_an_address() {
        assert_eq!(check(&["127.0.0.1:80", "127.0.0.1:80"]), ["listener `a` already listens on 127.0.0.1:80"]);
        assert_eq!(check(&[":80", "10.0.0.1:70-90"]), ["listener `a` already listens on 10.0.0.1:80"]);
        assert_eq!(check(&["[::1]:80", "10.0.0.1:80", ":80"]), ["listener `b` already listens on 0.0.0.0:80"]);
        assert_eq!(check(&["unix:@a", "unix:@a", "unix:/a"]), ["listener `a` already listens on unix:@a"]);
        assert_eq!(check(&["udp :53", "udp 127.0.0.1:53"]), ["listener `a` already listens on 127.0.0.1:53"]);
    }

    #[test]
    fn others_may_be_alike() {
        assert!(check(&[":53", "udp :53", ":0", ":0", "systemd:web", "systemd:web"]).is_empty());
        assert!(check(&["0.0.0.0:80", "[::]:80"]).is_empty() && check(&["127.0.0.1:80", "127.0.0.2:80", "127.0.0.1:81"]).is_empty());
    }
}
