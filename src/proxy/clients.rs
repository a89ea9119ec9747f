//! How many connections each client of a listener has.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Counts of one listener, over all workers. There are as many as clients are connected.
#[derive(Debug, Default)]
pub struct Clients(Mutex<HashMap<IpAddr, u32>>);

impl Clients {
    /// Counts a connection of `address`, unless that has as many as `limit` already.
    pub(super) fn admit(self: &Arc<Self>, address: IpAddr, limit: u32) -> Option<Place> {
        let client = network(address);
        let mut counts = self.lock();
        let count = counts.entry(client).or_default();
        if *count >= limit {
            return None;
        }
        *count += 1;
        Some(Place { clients: self.clone(), client })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Of an IPv6 address the first 64 bits count: clients choose the others freely.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address @ IpAddr::V4(_) => address,
    }
}

/// One connection of a client, counted until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    clients: Arc<Clients>,
    client: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.clients.lock().entry(self.client) {
            match count.get() {
                0 | 1 => drop(count.remove()),
                _ => *count.get_mut() -= 1,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_as_many_as_it_may() {
        let clients = Arc::new(Clients::default());
        let admit = |address: &str| clients.admit(address.parse().unwrap(), 2);
        let first = [admit("10.0.0.1"), admit("10.0.0.1")];
        assert!(first.iter().all(Option::is_some));
        assert!(admit("10.0.0.1").is_none() && admit("::ffff:10.0.0.1").is_none());
        let of_a_network = [admit("fd00::1"), admit("fd00::2")];
        assert!(admit("fd00::3").is_none() && of_a_network.iter().all(Option::is_some));
        drop(first);
        let again = admit("10.0.0.1");
        assert!(again.is_some());
        drop((again, of_a_network));
        assert!(clients.lock().is_empty());
    }
}
