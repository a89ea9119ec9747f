//! What one pick costs: each policy, with few endpoints and with many, all of them healthy and half of them down.

#![allow(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;
use std::net::Ipv4Addr;

use criterion::{Criterion, criterion_group, criterion_main};
use nuncio::balance::{Balancer, Candidates, Draw, HashKey, Policy, hash_bytes};
use nuncio::socket::SocketAddress;

struct Fleet(Vec<(bool, u32)>);

impl Candidates for Fleet {
    fn is_eligible(&self, index: usize) -> bool {
        self.0.get(index).is_some_and(|(eligible, _)| *eligible)
    }

    fn in_flight(&self, index: usize) -> u32 {
        self.0.get(index).map_or(0, |(_, in_flight)| *in_flight)
    }
}

fn pick(criterion: &mut Criterion) {
    let policies = [
        ("round_robin", Policy::RoundRobin),
        ("random", Policy::Random),
        ("least_request", Policy::LeastRequest),
        ("hash", Policy::Hash(HashKey::ClientIp)),
    ];
    for (name, policy) in policies {
        let mut group = criterion.benchmark_group(name);
        for count in [10, 1_000, 10_000] {
            let endpoint =
                |number: u32| (SocketAddress::from((Ipv4Addr::from_bits(0x0a00_0001 + number).into(), 80)), 1 + number as u16 % 3);
            let balancer = Balancer::new(&policy, &(0..count).map(endpoint).collect::<Vec<_>>());
            for (state, is_half_down) in [("healthy", false), ("half down", true)] {
                let is_up = |number: u32| !(is_half_down && number.is_multiple_of(2));
                let fleet = Fleet((0..count).map(|number| (is_up(number), number % 7)).collect());
                let mut number = 0_u64;
                group.bench_function(format!("{count} {state}"), |bencher| {
                    bencher.iter(|| {
                        number += 1;
                        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                        black_box(balancer.pick(&fleet, Draw { random, key: Some(random) }))
                    });
                });
            }
        }
        group.finish();
    }
    criterion.bench_function("hash_bytes of an IPv6 address", |bencher| bencher.iter(|| hash_bytes(black_box(&[0x20; 16]))));
}

criterion_group!(benches, pick);
criterion_main!(benches);
