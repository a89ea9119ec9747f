//! Balancers: a pure choice among indices. Nothing here knows what an endpoint is, what time it is, or where randomness comes from.

use serde::{Deserialize, Serialize};

/// How an endpoint is chosen, as it is configured.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Policy {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// Weighted random.
    Random,
    /// The less busy of two, drawn by weight ("power of two choices").
    LeastRequest,
    /// Consistent hash: the same key goes to the same endpoint while that is eligible.
    Hash(HashKey),
}

/// What a consistent hash is taken of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashKey {
    /// The client's address.
    ClientIp,
    /// The value of a header field.
    Header(String),
    /// The value of a cookie.
    Cookie(String),
}

/// What a balancer may know of the endpoints it chooses among.
pub trait Candidates {
    /// Whether the endpoint may get a new request now: alive, and of weight above zero.
    fn is_eligible(&self, index: usize) -> bool;
    /// Requests in flight to the endpoint.
    fn in_flight(&self, index: usize) -> u32;
}

/// What one choice depends on beside the endpoints.
#[derive(Debug, Clone, Copy)]
pub struct Draw {
    /// A fresh random number.
    pub random: u64,
    /// The hash of what the policy's [`HashKey`] names. None when the request does not have it.
    pub key: Option<u64>,
}
