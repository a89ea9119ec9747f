//! A balancer with backups behind it: endpoints that are picked while none of the others is eligible.

use super::{Balancer, Candidates, Draw, Policy};
use crate::socket::SocketAddress;

/// What a choice among tiers has to know of one endpoint.
#[derive(Debug, Clone)]
pub struct Member {
    /// Where it listens.
    pub address: SocketAddress,
    /// Its share relative to the others of its tier.
    pub weight: u16,
    /// Whether it waits behind the others.
    pub is_backup: bool,
}

/// A policy made ready for the endpoints of one upstream, backups apart from the others. Shared by all workers.
#[derive(Debug)]
pub struct Tiers {
    first: Balancer,
    /// None: there are no backups.
    backups: Option<Balancer>,
}

impl Tiers {
    /// Makes `policy` ready for `members`. Picks are indices into this slice.
    #[must_use]
    pub fn new(policy: &Policy, members: &[Member]) -> Self {
        // Those of the other tier have no weight in this one, and so the indices stay.
        let tier = |is_backup: bool| {
            let weight = |member: &Member| if member.is_backup == is_backup { member.weight } else { 0 };
            let endpoints: Vec<_> = members.iter().map(|member| (member.address.clone(), weight(member))).collect();
            Balancer::new(policy, &endpoints)
        };
        Self { first: tier(false), backups: members.iter().any(|member| member.is_backup).then(|| tier(true)) }
    }

    /// Picks one that is eligible and of weight above zero; a backup only if there is no other. None if and only if there are none.
    #[must_use]
    pub fn pick(&self, candidates: &impl Candidates, draw: Draw) -> Option<usize> {
        self.first.pick(candidates, draw).or_else(|| self.backups.as_ref()?.pick(candidates, draw))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::HashKey;
    use crate::balance::contract::Fleet;

    #[test]
    fn backups_serve_while_nobody_else_can() {
        let member =
            |port: u16, weight, is_backup| Member { address: (std::net::Ipv4Addr::LOCALHOST.into(), port).into(), weight, is_backup };
        let members = [member(1, 1, true), member(2, 3, false), member(3, 0, false), member(4, 1, false), member(5, 1, true)];
        for policy in [Policy::RoundRobin, Policy::Random, Policy::LeastRequest, Policy::Hash(HashKey::ClientIp)] {
            let check = |members: &[Member], eligible: &[usize], expected: &[usize]| {
                let tiers = Tiers::new(&policy, members);
                let fleet = Fleet::only(members.len(), eligible.iter().copied());
                let mut picked: Vec<_> =
                    (0..500u64).filter_map(|n| tiers.pick(&fleet, Draw { random: n << 40 | n, key: Some(n << 50 | n) })).collect();
                picked.sort_unstable();
                picked.dedup();
                assert_eq!(picked, expected, "{policy:?} of {eligible:?}");
            };
            check(&members, &[0, 1, 2, 3, 4], &[1, 3]);
            check(&members, &[0, 3, 4], &[3]);
            check(&members, &[0, 2, 4], &[0, 4]);
            check(&members, &[2], &[]);
            check(&[member(1, 1, true)], &[0], &[0]);
            check(&[], &[], &[]);
        }
    }
}
