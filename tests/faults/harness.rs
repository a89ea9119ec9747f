//! Rounds of faults and changes, each followed by the question whether the table is right, and whether no request noticed.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nuncio::config::protection::Protection;
use nuncio::config::{Listener, RoutingConfig};
use nuncio::discovery::ProgramProvider;
use nuncio::{Name, Server};

use crate::load::{self, Load};
use crate::rig::{Between, Change, Contents, Rig};
use crate::support::DEADLINE;
use crate::support::http1::Endpoint;
use crate::support::relay::Relay;

/// After the last fault and the last change the table is right within this.
pub const RIGHT_WITHIN: Duration = Duration::from_secs(2);

/// How long a provider is tried, in seconds, unless `FAULT_SECONDS` says otherwise.
const SECONDS_DEFAULT: u64 = 15;

/// Beside `app`, which the load is for, there are upstreams `u0` and so on.
pub const UPSTREAMS: usize = 4;

/// What is said in place of an answer.
const WRONG: &[&[u8]] = &[
    b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 5\r\n\r\noops\n",
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 22\r\n\r\n<html>not here</html>\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 20\r\n\r\n<html>log in</html>\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
    b"\x00\x00\x00\x04\xde\xad\xbe\xef",
    b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x00\x00\x09\x07\x00\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x0bx",
    b"\n",
];

/// Random numbers that a seed repeats (splitmix64).
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Less than `bound`.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).expect("less than a usize")
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }
}

/// A fault between the provider and its store.
#[derive(Debug, Clone, Copy)]
enum RelayFault {
    Cut,
    Stall,
    Slow(usize),
    Truncate(usize),
    Wrong(usize),
}

/// Tries a provider for as long as it shall be.
pub async fn run<R: Rig>() {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap_or_else(|_| panic!("{name} is a number: {text}")));
    let seed = number("FAULT_SEED").unwrap_or_else(|| nuncio::backoff::random() % 1_000_000);
    let length = Duration::from_secs(number("FAULT_SECONDS").unwrap_or(SECONDS_DEFAULT));
    println!("FAULT_SEED={seed}");
    let mut run = Run::<R>::start(seed).await;
    while run.started.elapsed() < length {
        run.round().await;
    }
    run.finish().await;
}

struct Run<R> {
    rig: R,
    relay: Relay,
    server: Server,
    load: Load,
    endpoints: Vec<Endpoint>,
    /// Registered at times, and nobody listens there.
    dead: SocketAddr,
    chance: Chance,
    seed: u64,
    started: Instant,
    rounds: usize,
    slowest: Duration,
}

impl<R: Rig> Run<R> {
    async fn start(seed: u64) -> Self {
        let mut rig = R::start().await;
        let relay = Relay::to(rig.address()).await;
        let (listeners, handle) = ProgramProvider::new(Name::literal("listeners"));
        let mut config = RoutingConfig::default();
        config.listeners.insert(Name::literal("web"), Listener::http("127.0.0.1:0".parse().unwrap()));
        handle.publish(config);
        let endpoints = load::endpoints().await;
        let base = [
            Change::Endpoint { upstream: "app".into(), id: "always".into(), address: endpoints[0].address },
            Change::Route { name: "app".into(), host: "app.test".into(), upstream: "app".into() },
        ];
        for change in base.iter().filter(|change| R::HAS_ROUTES || matches!(change, Change::Endpoint { .. })) {
            rig.write(change).await;
        }
        let provider = rig.provider(relay.address());
        let builder = Server::builder().workers(1).protection(Protection::NONE);
        let server = builder.provider(listeners).provider(provider).start().expect("a server starts");
        let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
        let load = Load::to(server.local_addr(&Name::literal("web")).expect("the listener is open"));
        let chance = Chance(seed);
        let (started, slowest) = (Instant::now(), Duration::ZERO);
        Self { rig, relay, server, load, endpoints, dead, chance, seed, started, rounds: 0, slowest }
    }

    async fn round(&mut self) {
        self.rounds += 1;
        let answered = self.load.answered();
        for _ in 0..=self.chance.below(4) {
            if R::HAS_NETWORK && self.chance.below(2) == 0 {
                self.fault_of_network().await;
            } else {
                self.fault_of_store().await;
            }
        }
        self.relay.mend();
        self.say("all is healed");
        self.write_some().await;
        self.is_right().await;
        let failures = self.load.failures(self.started);
        assert!(failures.is_empty(), "requests failed, seed {}, the faults are above:\n{}", self.seed, failures.join("\n"));
        assert!(self.load.answered() > answered, "no request was answered in this round, seed {}", self.seed);
    }

    async fn fault_of_network(&mut self) {
        let wrong: Vec<usize> = (0..WRONG.len()).filter(|index| !R::could_say(WRONG[*index])).collect();
        let faults = [
            RelayFault::Cut,
            RelayFault::Stall,
            RelayFault::Slow(1 << (6 + self.chance.below(6))),
            RelayFault::Truncate(1 + self.chance.below(2_000)),
            RelayFault::Wrong(*self.chance.pick(&wrong)),
        ];
        let fault = *self.chance.pick(&faults);
        self.say(&format!("{fault:?}"));
        match fault {
            RelayFault::Cut => self.relay.cut(),
            RelayFault::Stall => self.relay.stall(),
            RelayFault::Slow(bytes) => self.relay.slow(bytes),
            RelayFault::Truncate(bytes) => self.relay.truncate(bytes),
            RelayFault::Wrong(index) => self.relay.answer_instead(WRONG[index]),
        }
        self.write_some().await;
        self.lasts().await;
        self.write_some().await;
        // Else the next one takes its place.
        if self.chance.below(2) == 0 {
            self.relay.mend();
            self.say("mended");
        }
    }

    async fn fault_of_store(&mut self) {
        let fault = *self.chance.pick(self.rig.faults());
        self.say(&format!("{fault:?}"));
        let between = R::between(fault);
        match between {
            Between::AsItIs => {}
            Between::Nothing => self.relay.cut(),
            Between::Silence => self.relay.stall(),
        }
        self.rig.begin(fault).await;
        if fault.can_write() {
            self.write_some().await;
        }
        self.lasts().await;
        self.rig.end(fault).await;
        if between != Between::AsItIs {
            self.relay.mend();
        }
        self.say(&format!("{fault:?} is over"));
        self.write_some().await;
    }

    /// How long a fault lasts: mostly short, at times longer than any heartbeat.
    async fn lasts(&mut self) {
        let millis = match self.chance.below(10) {
            0 => 4_500,
            1..=4 => self.chance.below(50),
            _ => self.chance.below(1_000),
        };
        tokio::time::sleep(Duration::from_millis(millis as u64)).await;
    }

    async fn write_some(&mut self) {
        for _ in 0..self.chance.below(5) {
            let change = self.change();
            self.rig.write(&change).await;
        }
    }

    /// Never of what the load needs.
    fn change(&mut self) -> Change {
        let name = |letter: char, number: usize| format!("{letter}{number}");
        let first = if R::HAS_ROUTES { 0 } else { 3 };
        match first + self.chance.below(8 - first) {
            0 | 1 => {
                let (name, upstream) = (name('r', self.chance.below(8)), name('u', self.chance.below(UPSTREAMS)));
                Change::Route { name, host: format!("h{}.test", self.chance.below(100)), upstream }
            }
            2 => Change::NoRoute { name: name('r', self.chance.below(8)) },
            3 => {
                let address = SocketAddr::from(([127, 0, 0, 1], 1_000 + u16::try_from(self.chance.below(1_000)).unwrap()));
                Change::Endpoint { upstream: name('u', self.chance.below(UPSTREAMS)), id: name('e', self.chance.below(5)), address }
            }
            4 => Change::NoEndpoint { upstream: name('u', self.chance.below(UPSTREAMS)), id: name('e', self.chance.below(5)) },
            5 | 6 => {
                // The last one is dead, and is tried in vain before another one is.
                let index = 1 + self.chance.below(load::LIVING);
                let address = self.endpoints.get(index).map_or(self.dead, |endpoint| endpoint.address);
                Change::Endpoint { upstream: "app".into(), id: name('e', index), address }
            }
            _ => Change::NoEndpoint { upstream: "app".into(), id: name('e', 1 + self.chance.below(load::LIVING)) },
        }
    }

    async fn is_right(&mut self) {
        let since = Instant::now();
        let store = self.rig.read().await;
        let mut generations = self.server.status().generations();
        let server = &self.server;
        let seen = generations.wait_for(|_| Contents::of_table(&server.table()) == store);
        let is_right = tokio::time::timeout_at((since + RIGHT_WITHIN).into(), seen).await.is_ok();
        let took = since.elapsed();
        self.slowest = self.slowest.max(took);
        self.say(&format!("right after {took:?}: {is_right}"));
        assert!(
            is_right,
            "not right within {RIGHT_WITHIN:?}, seed {}, the faults are above\n{}\n{:?}\nproblems: {:?}",
            self.seed,
            Contents::difference(&store, &Contents::of_table(&server.table())),
            server.status().feeds().iter().map(|feed| feed.status()).collect::<Vec<_>>(),
            server.table().problems,
        );
    }

    fn say(&self, what: &str) {
        println!("{:8.3} s: {what}", self.started.elapsed().as_secs_f64());
    }

    async fn finish(mut self) {
        self.load.end().await;
        let failures = self.load.failures(self.started);
        assert!(failures.is_empty(), "requests failed, seed {}, the faults are above:\n{}", self.seed, failures.join("\n"));
        let (rounds, answered, slowest) = (self.rounds, self.load.answered(), self.slowest);
        println!("seed {}: {rounds} rounds, {answered} requests, the table was right after {slowest:?} at most", self.seed);
        assert!(self.server.shutdown().await);
    }
}
