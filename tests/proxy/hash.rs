//! `balance = { hash = … }`: what is alike goes to one endpoint, and a change of the endpoints moves no more than it must.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use crate::policies::{addresses, three};
use crate::support::*;

/// What requests differ in, and are told apart by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum By {
    /// The address that the connection comes from.
    Source,
    /// The address that a proxy in front of us tells.
    Told,
    Header,
    Cookie,
}

impl By {
    /// A server with this policy.
    async fn start(self, endpoints: &[Endpoint]) -> Proxy {
        let key = match self {
            Self::Source | Self::Told => "\"client_ip\"",
            Self::Header => "{ header = \"X-User\" }",
            Self::Cookie => "{ cookie = \"user\" }",
        };
        let config = to(&addresses(endpoints), &format!("balance = {{ hash = {key} }}"));
        let trusted = if self == Self::Told { "trusted_proxies = [\"127.0.0.0/8\"]\n[routes.web]" } else { "[routes.web]" };
        Proxy::start(&config.replace("[routes.web]", trusted)).await
    }

    /// How many there are. Of loopback's addresses enough to tell; of the others so many that each endpoint has some for certain.
    fn count(self) -> u8 {
        if self == Self::Source { 20 } else { 200 }
    }

    /// A connection of client `number`.
    async fn connect(self, proxy: &Proxy, number: u8) -> Wire {
        let source = if self == Self::Source { number } else { 1 };
        Wire::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, source)), proxy.address()).await
    }

    /// Where a request of client `number` arrives.
    async fn ask(self, client: &mut Wire, number: u8) -> String {
        let field = match self {
            Self::Source => String::new(),
            Self::Told => format!("X-Forwarded-For: 192.0.2.99, 10.9.8.{number}\r\n"),
            Self::Header => format!("X-User: {number}\r\n"),
            Self::Cookie => format!("Cookie: a=b; user={number}; c=d\r\n"),
        };
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{field}\r\n")).await;
        client.response().await.text().to_owned()
    }

    /// The endpoint of each client, which is the same for all of its requests and connections.
    async fn map(self, proxy: &Proxy) -> BTreeMap<u8, String> {
        let mut maps = [BTreeMap::new(), BTreeMap::new()];
        for map in &mut maps {
            let mut client = self.connect(proxy, 1).await;
            for number in 1..=self.count() {
                if self == Self::Source {
                    client = self.connect(proxy, number).await;
                }
                map.insert(number, self.ask(&mut client, number).await);
            }
        }
        let [first, second] = maps;
        assert_eq!(first, second, "{self:?}");
        first
    }
}

/// The clients that are elsewhere than before.
fn moved<'a>(before: &'a BTreeMap<u8, String>, after: &BTreeMap<u8, String>) -> BTreeMap<u8, &'a str> {
    before.iter().filter(|(number, name)| after[*number] != **name).map(|(number, name)| (*number, name.as_str())).collect()
}

async fn check(by: By) {
    let endpoints = three().await;
    let mut proxy = by.start(&endpoints).await;
    let first = by.map(&proxy).await;
    let shares = tally(first.values().cloned());
    match by {
        By::Source => assert!(shares.len() > 1, "{shares:?}"),
        // A third each, give or take what 160 places on the ring of each endpoint leave to chance.
        _ => assert!(shares.len() == 3 && shares.values().all(|share| (25..=120).contains(share)), "{shares:?}"),
    }
    if by == By::Source {
        let seen: std::collections::BTreeSet<String> =
            endpoints.iter().flat_map(Endpoint::requests).filter_map(|it| it.field("x-forwarded-for").map(str::to_owned)).collect();
        assert_eq!(seen.len(), 20, "{seen:?}");
    }
    // Who has the most is removed: its clients move, to all that are left, and nobody else does.
    let gone = shares.iter().max_by_key(|(_, share)| **share).unwrap().0.clone();
    let at = gone.parse::<usize>().unwrap() - 1;
    let mut removed = None;
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| removed = Some(upstream.endpoints.remove(at)))).await;
    let without = by.map(&proxy).await;
    let homeless = moved(&first, &without);
    assert!(homeless.values().all(|name| *name == gone), "{homeless:?}");
    assert_eq!(homeless.len(), shares[&gone]);
    if by != By::Source {
        assert_eq!(tally(homeless.keys().map(|number| without[number].clone())).len(), 2);
    }
    // In another place of the list it takes the same clients back.
    proxy.update(|config| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints.extend(removed.take()))).await;
    assert_eq!(moved(&first, &by.map(&proxy).await), BTreeMap::new());
    // Weight 0 is as good as gone, and another instance comes to the same result.
    let drained = |config: &mut nuncio::RoutingConfig| config.upstreams.values_mut().for_each(|upstream| upstream.endpoints[2].weight = 0);
    proxy.update(drained).await;
    assert_eq!(moved(&without, &by.map(&proxy).await), BTreeMap::new());
    assert_eq!(moved(&first, &by.map(&by.start(&endpoints).await).await), BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_address_of_the_client() {
    check(By::Source).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_the_address_that_a_trusted_proxy_tells() {
    check(By::Told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_header() {
    check(By::Header).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_a_cookie() {
    check(By::Cookie).await;
}

/// What anybody may write is no address.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_nobody_trusted_tells_changes_nothing() {
    let endpoints = three().await;
    let proxy = By::Source.start(&endpoints).await;
    let mut client = proxy.connect().await;
    let mut names = Vec::new();
    for number in 1..=60 {
        client.send(format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 10.9.8.{number}\r\n\r\n")).await;
        names.push(client.response().await.text().to_owned());
    }
    assert_eq!(tally(names).len(), 1);
}

/// Requests without the header or cookie are alike in nothing: they are spread.
#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_key_is_spread() {
    let endpoints = three().await;
    for by in [By::Header, By::Cookie] {
        let proxy = by.start(&endpoints).await;
        let mut client = proxy.connect().await;
        let mut names = Vec::new();
        for number in 0..100 {
            names.push(By::Source.ask(&mut client, number).await);
        }
        assert_eq!(tally(names).len(), 3, "{by:?}");
    }
}
