//! One endpoint and what is known of it: health and requests in flight.
//!
//! [`EndpointState`] is shared by all generations of the table, by health checks and by the data plane. It is the only thing that
//! flows back from traffic to the table, and it is all atomics on the path of a request.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use rustls::pki_types::ServerName;
use serde::{Deserialize, Serialize};

use crate::socket::SocketAddress;

/// What a unix socket is called where a name of a host is wanted.
const LOCALHOST: &str = "localhost";

/// One endpoint of one table.
#[derive(Debug)]
pub struct Endpoint {
    /// Where it listens.
    pub address: SocketAddress,
    /// Its share relative to the others; 0 while it drains.
    pub weight: u16,
    /// Whether it waits until no other can.
    pub is_backup: bool,
    /// The key it was registered under, if it has one of its own.
    pub id: Option<crate::names::Name>,
    /// What is known of it, over all generations.
    pub state: Arc<EndpointState>,
}

/// Whether an endpoint is well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Health {
    /// Nobody checks it: taken to be well.
    Unchecked = 0,
    /// Its first check is not done. Used only when no other endpoint is up.
    Unknown = 1,
    /// It passed its checks.
    Up = 2,
    /// It failed its checks.
    Down = 3,
}

impl Health {
    fn from_bits(bits: u8) -> Self {
        match bits {
            0 => Self::Unchecked,
            1 => Self::Unknown,
            2 => Self::Up,
            _ => Self::Down,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unchecked => "unchecked",
            Self::Unknown => "unknown",
            Self::Up => "up",
            Self::Down => "down",
        })
    }
}

/// The last change of an endpoint's health.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthChange {
    /// When it changed.
    pub at: SystemTime,
    /// Why: `GET /healthz: status 500`.
    pub reason: String,
}

/// What is known of an endpoint. Lives as long as its upstream holds its address.
pub struct EndpointState {
    /// Unique in this process: workers keep their connections by it.
    pub id: u64,
    /// Where it listens.
    pub address: SocketAddress,
    /// The name that stands for the address, if it was given by name.
    pub host: Option<Arc<str>>,
    health: AtomicU8,
    in_flight: AtomicU32,
    retired: AtomicBool,
    last_change: Mutex<Option<HealthChange>>,
}

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

impl EndpointState {
    /// The state of an endpoint that is new: [`Health::Unknown`] when it will be checked.
    #[must_use]
    pub fn new(address: impl Into<SocketAddress>, is_checked: bool) -> Self {
        let address = address.into();
        let health = if is_checked { Health::Unknown } else { Health::Unchecked };
        Self {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            address,
            host: None,
            health: AtomicU8::new(health as u8),
            in_flight: AtomicU32::new(0),
            retired: AtomicBool::new(false),
            last_change: Mutex::new(None),
        }
    }

    /// The same, given by this name.
    #[must_use]
    pub fn named(self, host: Option<Arc<str>>) -> Self {
        Self { host, ..self }
    }

    /// What it is called in a `Host` field: its name or address, and port; `localhost` if it is a unix socket.
    #[must_use]
    pub fn authority(&self) -> String {
        match (&self.host, &self.address) {
            (Some(host), SocketAddress::Ip(address)) => format!("{}:{}", host.trim_end_matches('.'), address.port()),
            (None, SocketAddress::Ip(address)) => address.to_string(),
            (_, SocketAddress::Unix(_)) => LOCALHOST.into(),
        }
    }

    /// What its certificate must be made out to when the upstream does not say.
    #[must_use]
    pub fn server_name(&self) -> ServerName<'static> {
        let name = self.host.as_ref().and_then(|host| ServerName::try_from(host.trim_end_matches('.').to_string()).ok());
        let address = || match &self.address {
            SocketAddress::Ip(address) => ServerName::IpAddress(address.ip().into()),
            SocketAddress::Unix(_) => ServerName::try_from(LOCALHOST).expect("it is a name"),
        };
        name.unwrap_or_else(address)
    }

    /// Whether it is well.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::from_bits(self.health.load(Ordering::Relaxed))
    }

    /// Sets its health. Called by health checks alone: after each table they also see to those whose checks began or ended.
    pub fn set_health(&self, health: Health, at: SystemTime, reason: impl Into<String>) {
        let change = HealthChange { at, reason: reason.into() };
        *self.last_change.lock().unwrap_or_else(PoisonError::into_inner) = Some(change);
        self.health.store(health as u8, Ordering::Relaxed);
    }

    /// When and why its health changed last. None: never since it is known.
    #[must_use]
    pub fn last_change(&self) -> Option<HealthChange> {
        self.last_change.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Requests and connections in flight to it: the number of living [`Lease`]s.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether its upstream holds it no more. Its connections are then not kept for another request.
    #[must_use]
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Notes that no table holds it any more.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Begins a request: the count goes up until the lease is dropped.
    #[must_use]
    pub fn lease(self: &Arc<Self>) -> Lease {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        Lease { state: self.clone() }
    }
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointState")
            .field("address", &self.address)
            .field("health", &self.health())
            .field("in_flight", &self.in_flight())
            .finish_non_exhaustive()
    }
}

/// One request in flight to an endpoint. The count cannot leak: dropping is what ends it, also on cancellation and panic.
#[derive(Debug)]
pub struct Lease {
    state: Arc<EndpointState>,
}

impl Lease {
    /// The endpoint that was leased.
    #[must_use]
    pub fn endpoint(&self) -> &Arc<EndpointState> {
        &self.state
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> &SocketAddress {
        &self.state.address
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.state.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn in_flight_is_the_number_of_living_leases() {
        let state = Arc::new(EndpointState::new("127.0.0.1:1".parse::<std::net::SocketAddr>().unwrap(), false));
        let (first, second) = (state.lease(), state.lease());
        assert_eq!(state.in_flight(), 2);
        drop(first);
        assert_eq!(state.in_flight(), 1);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _held = second;
            panic!("while a lease is held");
        }));
        assert!(panicked.is_err());
        assert_eq!(state.in_flight(), 0);
    }
}
