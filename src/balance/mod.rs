//! Balancers: a pure choice among indices. Nothing here knows what an endpoint is, what time it is, or where randomness comes from.
//!
//! | file | concept |
//! |---|---|
//! | [`round_robin`], [`random`], [`least_request`], [`hash`] | the policies |
//! | `schedule` | the order in which smooth weighted round robin serves weights |
//! | `ring` | the points of endpoints that consistent hashing walks |
//! | `alias` | a weighted draw in constant time |
//! | `members` | the indices that may be picked at all, and the search for any eligible one when draws fail |
//! | [`tiers`] | a policy with backups behind it |
//! | `dice` | many random numbers out of the one that a caller gives |
//!
//! Every policy keeps one contract, which the tests below run over all of them: a pick is of weight above zero and eligible; there is
//! one whenever such an endpoint exists; shares follow the weights; and a pick costs the same with ten endpoints as with ten thousand
//! as long as most of them are eligible.

use serde::{Deserialize, Serialize};

mod alias;
mod dice;
pub mod hash;
pub mod least_request;
mod members;
pub mod random;
mod ring;
pub mod round_robin;
mod schedule;
pub mod tiers;

use crate::socket::SocketAddress;
pub use hash::{Hash, hash_bytes};
pub use least_request::LeastRequest;
pub use random::Random;
pub use round_robin::RoundRobin;
pub use tiers::{Member, Tiers};

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

/// A policy made ready for the endpoints of one upstream. Shared by all workers.
#[derive(Debug)]
pub enum Balancer {
    /// Smooth weighted round robin.
    RoundRobin(RoundRobin),
    /// Weighted random.
    Random(Random),
    /// The less busy of two.
    LeastRequest(LeastRequest),
    /// Consistent hash.
    Hash(Hash),
}

impl Balancer {
    /// Makes `policy` ready for `endpoints`: the address and weight of each. Picks are indices into this slice.
    #[must_use]
    pub fn new(policy: &Policy, endpoints: &[(SocketAddress, u16)]) -> Self {
        match policy {
            Policy::RoundRobin => Self::RoundRobin(RoundRobin::new(endpoints)),
            Policy::Random => Self::Random(Random::new(endpoints)),
            Policy::LeastRequest => Self::LeastRequest(LeastRequest::new(endpoints)),
            Policy::Hash(_) => Self::Hash(Hash::new(endpoints)),
        }
    }

    /// Picks one of the endpoints that are eligible and of weight above zero. None if and only if there are none.
    #[must_use]
    pub fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        match self {
            Self::RoundRobin(policy) => policy.pick(candidates, draw),
            Self::Random(policy) => policy.pick(candidates, draw),
            Self::LeastRequest(policy) => policy.pick(candidates, draw),
            Self::Hash(policy) => policy.pick(candidates, draw),
        }
    }
}

/// How many weighted draws look for an eligible endpoint before all of them are searched, whatever their weights. With half of the
/// endpoints eligible one pick in 4 billion gets that far, with a tenth of them one in thirty.
const DRAWS_MAX: usize = 32;

#[cfg(test)]
pub(crate) mod contract;
