//! What is known of a name → the endpoints of its upstream, and what is wrong with it.
//!
//! Of a service (RFC 2782) the hosts of the lowest priority are used while any of them has an address, then those of the next one. Weights
//! become weights of endpoints; a host with several addresses shares its own among them.
//!
//! Pure: who asks says what is known.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use super::resolve::{Known, Question, Record, State};
use crate::config::providers::ServiceName;
use crate::config::{Endpoint, Problem};

/// The most endpoints of one upstream.
pub(super) const ENDPOINTS_MAX: usize = 1_024;
/// The most problems that are told of one upstream: each host of a service may have its own.
const PROBLEMS_MAX: usize = 16;
/// What a host's weight is divided into before its addresses share it.
const PARTS: u64 = 1 << 20;

/// What is known of the name of an upstream.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Reading {
    pub(super) endpoints: BTreeMap<SocketAddr, Endpoint>,
    /// What is wrong: a name that has no address, or that nobody could say anything of.
    pub(super) problems: Vec<Problem>,
    /// Whether a question has not been answered at all yet.
    pub(super) is_pending: bool,
}

/// The question that tells of a name.
pub(super) fn question(name: &ServiceName) -> Question {
    match name {
        ServiceName::Service(name) => Question::Service(name.clone()),
        ServiceName::Host(host) => Question::Host(host.host.clone()),
    }
}

/// All that has to be asked of a name: itself, and the hosts of a service.
pub(super) fn questions(name: &ServiceName, known: impl Fn(&Question) -> Known) -> BTreeSet<Question> {
    let first = question(name);
    let hosts: Vec<Question> = known(&first).records.iter().filter_map(|record| Some(Question::Host(target(record)?.clone()))).collect();
    hosts.into_iter().chain([first]).collect()
}

/// What is known of a name.
pub(super) fn read(name: &ServiceName, known: impl Fn(&Question) -> Known) -> Reading {
    let first = known(&question(name));
    let mut reading = Reading { is_pending: first.state == State::Pending, ..Reading::default() };
    let mut shares = match name {
        ServiceName::Service(_) => shares_of_service(&first, known, &mut reading),
        ServiceName::Host(host) => addresses(&first, host.port).map(|address| (address, PARTS)).collect(),
    };
    // Told before those of its hosts: they follow from it.
    reading.problems.splice(0..0, problem(name, &first));
    let count = shares.len();
    while shares.len() > ENDPOINTS_MAX {
        shares.pop_last();
    }
    if count > ENDPOINTS_MAX {
        reading.problems.insert(0, Problem::error(format!("`{name}` has {count} addresses: the first {ENDPOINTS_MAX} are used")));
    }
    reading.problems.truncate(PROBLEMS_MAX);
    reading.endpoints = endpoints(&shares);
    reading
}

/// Of the lowest priority that has any, the addresses and their shares.
fn shares_of_service(service: &Known, known: impl Fn(&Question) -> Known, reading: &mut Reading) -> BTreeMap<SocketAddr, u64> {
    let mut chosen = (None, BTreeMap::<SocketAddr, u64>::new());
    // Sorted, and so by priority.
    for record in service.records.iter() {
        let Record::Service { priority, weight, port, target } = record else { continue };
        let host = known(&Question::Host(target.clone()));
        reading.is_pending |= host.state == State::Pending;
        reading.problems.extend(host_problem(target, &host));
        let addresses: Vec<SocketAddr> = addresses(&host, *port).collect();
        if addresses.is_empty() || chosen.0.is_some_and(|lowest| lowest < *priority) {
            continue;
        }
        chosen.0 = Some(*priority);
        let share = u64::from(*weight) * PARTS / addresses.len() as u64;
        for address in addresses {
            *chosen.1.entry(address).or_default() += share;
        }
    }
    chosen.1
}

fn target(record: &Record) -> Option<&Arc<str>> {
    match record {
        Record::Service { target, .. } => Some(target),
        Record::Ip(_) => None,
    }
}

fn addresses(host: &Known, port: u16) -> impl Iterator<Item = SocketAddr> {
    host.records.iter().filter_map(move |record| match record {
        Record::Ip(ip) => Some(SocketAddr::new(*ip, port)),
        Record::Service { .. } => None,
    })
}

/// Weights as they are written, if they fit; otherwise in proportion. A weight of 0 among others gets a small share and not none, as it says
/// "very small chance" (RFC 2782), where 0 of ours would drain.
fn endpoints(shares: &BTreeMap<SocketAddr, u64>) -> BTreeMap<SocketAddr, Endpoint> {
    let weight_max = u64::from(Endpoint::WEIGHT_MAX);
    let greatest = shares.values().copied().max().unwrap_or_default();
    let is_plain = |share: &u64| share.is_multiple_of(PARTS) && (1..=weight_max).contains(&(share / PARTS));
    let weight = |share: u64| match greatest {
        0 => 1,
        _ if shares.values().all(is_plain) => share / PARTS,
        _ => (share * weight_max / greatest).max(1),
    };
    let endpoint = |(address, share): (&SocketAddr, &u64)| {
        let weight = u16::try_from(weight(*share)).unwrap_or(Endpoint::WEIGHT_MAX);
        (*address, Endpoint { weight, ..Endpoint::new(*address) })
    };
    shares.iter().map(endpoint).collect()
}

/// What there is to tell of an upstream's own name. Nothing of one that is as it should be.
fn problem(name: &ServiceName, known: &Known) -> Option<Problem> {
    let what = match name {
        ServiceName::Service(_) => "service",
        ServiceName::Host(_) => "host",
    };
    let name = name.name();
    let message = match &known.state {
        State::Found => return None,
        State::Pending => format!("`{name}` has not been looked up yet: no name server has answered"),
        State::Nothing => format!("there is no {what} `{name}`"),
        State::Failed(why) => format!("`{name}` cannot be looked up: {why}"),
    };
    Some(match known.records.len() {
        0 => Problem::error(message).effect("the upstream has no endpoints; it is looked up again"),
        count => Problem::warning(message).effect(format!("its {count} last known records are used; it is looked up again")),
    })
}

/// The same of a host that a service is on.
fn host_problem(target: &str, host: &Known) -> Option<Problem> {
    let message = match &host.state {
        State::Found => return None,
        State::Pending => format!("`{target}`, where the service is, has not been looked up yet: no name server has answered"),
        State::Nothing => format!("there is no host `{target}`, where the service is said to be"),
        State::Failed(why) => format!("`{target}`, where the service is, cannot be looked up: {why}"),
    };
    let effect = match host.records.len() {
        0 => "the upstream gets no endpoint from it; it is looked up again".into(),
        count => format!("its {count} last known addresses are used; it is looked up again"),
    };
    Some(Problem::warning(message).effect(effect))
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    type World = HashMap<Question, Known>;

    fn ask(world: &World) -> impl Fn(&Question) -> Known + '_ {
        |question| world.get(question).cloned().unwrap_or_default()
    }

    fn found(records: Vec<Record>) -> Known {
        Known { records: records.into(), state: State::Found }
    }

    fn host(world: &mut World, name: &str, ips: &[&str]) {
        let records: Vec<Record> = ips.iter().map(|ip| Record::Ip(ip.parse().unwrap())).collect();
        let known = if records.is_empty() { Known { state: State::Nothing, ..Known::default() } } else { found(records) };
        world.insert(Question::Host(name.into()), known);
    }

    fn service(world: &mut World, records: &[(u16, u16, u16, &str)]) {
        let record = |(priority, weight, port, target): &(u16, u16, u16, &str)| Record::Service {
            priority: *priority,
            weight: *weight,
            port: *port,
            target: (*target).into(),
        };
        let mut records: Vec<Record> = records.iter().map(record).collect();
        records.sort();
        world.insert(Question::Service("_http._tcp.web".into()), found(records));
    }

    fn web() -> ServiceName {
        ServiceName::parse("_http._tcp.web").unwrap()
    }

    fn written(reading: &Reading) -> Vec<String> {
        reading.endpoints.values().map(|endpoint| format!("{}*{}", endpoint.address, endpoint.weight)).collect()
    }

    fn told(reading: &Reading) -> String {
        reading.problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_host_is_its_addresses_with_the_port() {
        let name = ServiceName::parse("tasks.db:5432").unwrap();
        let mut world = World::new();
        let reading = read(&name, ask(&world));
        assert!(reading.is_pending && reading.endpoints.is_empty() && told(&reading).contains("has not been looked up yet"));
        host(&mut world, "tasks.db", &["10.0.0.1", "fd00::1"]);
        let reading = read(&name, ask(&world));
        assert_eq!(written(&reading), ["10.0.0.1:5432*1", "[fd00::1]:5432*1"]);
        assert_eq!((reading.is_pending, told(&reading).as_str()), (false, ""));
        assert_eq!(questions(&name, ask(&world)), [Question::Host("tasks.db".into())].into());
    }

    #[test]
    fn the_lowest_priority_that_has_an_address_is_used() {
        let mut world = World::new();
        service(&mut world, &[(10, 1, 80, "a."), (10, 1, 81, "b."), (20, 1, 82, "c.")]);
        assert_eq!(questions(&web(), ask(&world)).len(), 4);
        assert!(read(&web(), ask(&world)).is_pending, "its hosts were not answered for");
        host(&mut world, "a.", &["10.0.0.1"]);
        host(&mut world, "b.", &[]);
        host(&mut world, "c.", &["10.0.0.3"]);
        let reading = read(&web(), ask(&world));
        assert_eq!(written(&reading), ["10.0.0.1:80*1"]);
        assert!(told(&reading).contains("there is no host `b.`"));
        host(&mut world, "a.", &[]);
        assert_eq!(written(&read(&web(), ask(&world))), ["10.0.0.3:82*1"]);
        host(&mut world, "b.", &["10.0.0.2"]);
        assert_eq!(written(&read(&web(), ask(&world))), ["10.0.0.2:81*1"]);
    }

    #[test]
    fn weights_become_weights() {
        let mut world = World::new();
        host(&mut world, "a.", &["10.0.0.1"]);
        host(&mut world, "b.", &["10.0.0.2"]);
        for (weights, expected) in [
            ((1, 1), (1, 1)),
            ((60, 20), (60, 20)),
            ((1_000, 1), (1_000, 1)),
            ((0, 0), (1, 1)),
            ((0, 5), (1, 1_000)),
            ((u16::MAX, 1), (1_000, 1)),
            ((40_000, 20_000), (1_000, 500)),
        ] {
            service(&mut world, &[(1, weights.0, 80, "a."), (1, weights.1, 80, "b.")]);
            let reading = read(&web(), ask(&world));
            let weights: Vec<u16> = reading.endpoints.values().map(|endpoint| endpoint.weight).collect();
            assert_eq!(weights, [expected.0, expected.1], "{weights:?}");
        }
        // One host in three places of the network is not three times as strong, and one in two records is twice as strong.
        host(&mut world, "a.", &["10.0.0.1", "10.0.0.3"]);
        service(&mut world, &[(1, 10, 80, "a."), (1, 10, 80, "b.")]);
        assert_eq!(written(&read(&web(), ask(&world))), ["10.0.0.1:80*5", "10.0.0.2:80*10", "10.0.0.3:80*5"]);
        host(&mut world, "a.", &["10.0.0.2"]);
        assert_eq!(written(&read(&web(), ask(&world))), ["10.0.0.2:80*20"]);
    }

    #[test]
    fn what_is_wrong_is_told_and_the_last_known_is_used() {
        let mut world = World::new();
        service(&mut world, &[(1, 1, 80, "a.")]);
        host(&mut world, "a.", &["10.0.0.1"]);
        let question = Question::Service("_http._tcp.web".into());
        for (state, expected) in
            [(State::Failed("SERVFAIL".into()), "cannot be looked up: SERVFAIL"), (State::Nothing, "there is no service `_http._tcp.web`")]
        {
            world.get_mut(&question).unwrap().state = state;
            let reading = read(&web(), ask(&world));
            assert_eq!(written(&reading), ["10.0.0.1:80*1"]);
            assert!(told(&reading).contains(expected), "{}", told(&reading));
        }
        world.insert(question, Known { state: State::Nothing, ..Known::default() });
        let reading = read(&web(), ask(&world));
        assert!(reading.endpoints.is_empty() && !reading.is_pending);
    }

    #[test]
    fn an_upstream_has_a_bound() {
        let mut world = World::new();
        let ips: Vec<String> = (0..2_000).map(|at| format!("10.0.{}.{}", at / 250, 1 + at % 250)).collect();
        host(&mut world, "many", &ips.iter().map(String::as_str).collect::<Vec<_>>());
        let reading = read(&ServiceName::parse("many:80").unwrap(), ask(&world));
        assert_eq!(reading.endpoints.len(), ENDPOINTS_MAX);
        assert!(told(&reading).contains("has 2000 addresses"));
    }

    proptest! {
        /// Whatever a name server says: weights stay in bounds, none is drained, and more is never less.
        #[test]
        fn weights_keep_their_order(records in prop::collection::vec((0..3u16, any::<u16>(), 1..4u16, 0..5usize), 1..20)) {
            let names = ["a.", "b.", "c.", "d.", "e."];
            let mut world = World::new();
            for (at, name) in names.iter().enumerate() {
                host(&mut world, name, &["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"][at..=at]);
            }
            let records: Vec<_> = records.into_iter().map(|(priority, weight, port, at)| (priority, weight, port, names[at])).collect();
            service(&mut world, &records);
            let reading = read(&web(), ask(&world));
            let lowest = records.iter().map(|record| record.0).min().unwrap();
            // A record that is there twice is one.
            let used: BTreeSet<_> = records.iter().filter(|record| record.0 == lowest).collect();
            let places: BTreeSet<_> = used.iter().map(|record| (record.2, record.3)).collect();
            prop_assert_eq!(reading.endpoints.len(), places.len());
            prop_assert!(reading.endpoints.values().all(|endpoint| (1..=Endpoint::WEIGHT_MAX).contains(&endpoint.weight)));
        }
    }
}
