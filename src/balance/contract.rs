//! The contract of all policies, and endpoints to test them with.

use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::{Balancer, Candidates, Draw, HashKey, Policy, hash_bytes};
use crate::socket::SocketAddress;

/// Endpoints of these weights, each with an address of its own.
pub(crate) fn endpoints(weights: &[u16]) -> Vec<(SocketAddress, u16)> {
    let address = |number: usize| SocketAddress::from((Ipv4Addr::from_bits(0x0a00_0001 + number as u32).into(), 8080));
    weights.iter().enumerate().map(|(number, weight)| (address(number), *weight)).collect()
}

/// What is known of the endpoints in a test.
pub(crate) struct Fleet {
    pub(crate) eligible: Vec<bool>,
    pub(crate) in_flight: Vec<u32>,
}

impl Fleet {
    pub(crate) fn all(count: usize) -> Self {
        Self { eligible: vec![true; count], in_flight: vec![0; count] }
    }

    pub(crate) fn only(count: usize, eligible: impl IntoIterator<Item = usize>) -> Self {
        let mut fleet = Self { eligible: vec![false; count], in_flight: vec![0; count] };
        eligible.into_iter().for_each(|index| fleet.eligible[index] = true);
        fleet
    }

    pub(crate) fn busy(in_flight: &[u32]) -> Self {
        Self { in_flight: in_flight.to_vec(), ..Self::all(in_flight.len()) }
    }
}

impl Candidates for Fleet {
    fn is_eligible(&self, index: usize) -> bool {
        self.eligible[index]
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.in_flight[index]
    }
}

fn policies() -> [Policy; 4] {
    [Policy::RoundRobin, Policy::Random, Policy::LeastRequest, Policy::Hash(HashKey::ClientIp)]
}

fn draws(count: u64) -> impl Iterator<Item = Draw> {
    let random = |number: u64| hash_bytes(&number.to_be_bytes());
    (0..count).map(move |number| Draw { random: random(number), key: Some(hash_bytes(&number.to_le_bytes())) })
}

/// The share of picks of each endpoint over its share of the eligible weight.
fn check_shares(policy: &Policy, weights: &[u16], fleet: &Fleet, tolerance: f64) {
    const PICKS: u64 = 50_000;
    let balancer = Balancer::new(policy, &endpoints(weights));
    let mut picks = vec![0_u32; weights.len()];
    draws(PICKS).for_each(|draw| picks[balancer.pick(fleet, draw).unwrap()] += 1);
    let weight = |index: usize| if fleet.eligible[index] { f64::from(weights[index]) } else { 0.0 };
    let total: f64 = (0..weights.len()).map(weight).sum();
    for (index, picks) in picks.iter().enumerate() {
        let (share, expected) = (f64::from(*picks) / PICKS as f64, weight(index) / total);
        assert!((share - expected).abs() <= tolerance * expected, "{policy:?} {weights:?}: {index} got {share:.4} of {expected:.4}");
    }
}

#[test]
fn shares_follow_weights() {
    for policy in policies() {
        // 160 points a unit of weight leave each share of a ring about 1/√160 off.
        let tolerance = if matches!(policy, Policy::Hash(_)) { 0.35 } else { 0.06 };
        for weights in [&[1, 1][..], &[5, 1, 1], &[3, 1], &[1, 2, 3, 4], &[10; 10], &[0, 2, 0, 1]] {
            check_shares(&policy, weights, &Fleet::all(weights.len()), tolerance);
        }
    }
}

#[test]
fn shares_follow_weights_when_some_are_down() {
    for policy in policies() {
        let tolerance = if matches!(policy, Policy::Hash(_)) { 0.4 } else { 0.08 };
        check_shares(&policy, &[1; 8], &Fleet::only(8, 0..4), tolerance);
        check_shares(&policy, &[4, 1, 2, 9], &Fleet::only(4, 0..3), tolerance);
    }
}

#[test]
fn a_draw_without_key_follows_weights_too() {
    let policy = Policy::Hash(HashKey::ClientIp);
    let balancer = Balancer::new(&policy, &endpoints(&[3, 1]));
    let first = draws(10_000).filter(|draw| balancer.pick(&Fleet::all(2), Draw { key: None, ..*draw }) == Some(0)).count();
    assert!((7300..7700).contains(&first), "{first}");
}

proptest! {
    /// Eligible ones only, and `Some` if and only if there is one.
    #[test]
    fn picks_one_if_there_is_one(
        entries in prop::collection::vec((prop_oneof![Just(0), 1..10_u16, Just(200)], any::<bool>(), 0..5_u32), 0..40),
        same_address: bool,
        random: u64,
        key: Option<u64>,
    ) {
        let weights: Vec<u16> = entries.iter().map(|(weight, ..)| *weight).collect();
        let mut endpoints = endpoints(&weights);
        if same_address {
            endpoints.iter_mut().for_each(|(address, _)| *address = SocketAddress::from((Ipv4Addr::new(10, 0, 0, 1).into(), 80)));
        }
        let fleet = Fleet {
            eligible: entries.iter().map(|(_, eligible, _)| *eligible).collect(),
            in_flight: entries.iter().map(|(.., in_flight)| *in_flight).collect(),
        };
        let may_be_picked = |index: usize| weights[index] > 0 && fleet.eligible[index];
        let expected = (0..weights.len()).any(may_be_picked);
        for policy in policies() {
            let balancer = Balancer::new(&policy, &endpoints);
            for number in 0..4 {
                let pick = balancer.pick(&fleet, Draw { random: random.wrapping_add(number), key });
                prop_assert_eq!(pick.is_some(), expected, "{:?}", policy);
                prop_assert!(pick.is_none_or(may_be_picked), "{:?} {:?}", policy, pick);
            }
        }
    }
}
