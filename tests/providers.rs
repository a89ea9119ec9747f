//! Several providers at once: the first one that has a name counts, and the others can be named all the same.

mod support;

use std::net::SocketAddr;

use nuncio::config::{Listener, RoutingConfig};
use nuncio::discovery::{ProgramHandle, ProgramProvider};
use nuncio::{Name, Server};
use support::DEADLINE;
use support::http1::{AfterResponse, Connection, Endpoint};

/// An object of the configuration format.
fn object<T: serde::de::DeserializeOwned>(json: serde_json::Value) -> T {
    serde_json::from_value(json).expect("an object as the configuration has it")
}

/// Upstream `web` at `endpoint`, middleware `mark` that says `name`, and these routes: by host, to an upstream with a middleware.
fn config(name: &str, endpoint: SocketAddr, routes: &[(&str, &str, &str)]) -> RoutingConfig {
    let mut config = RoutingConfig::default();
    config.upstreams.insert(Name::literal("web"), object(serde_json::json!({ "endpoints": [endpoint.to_string()] })));
    let mark = serde_json::json!({ "headers": { "request": { "set": { "x-generation": name } } } });
    config.middlewares.insert(Name::literal("mark"), object(mark));
    for (host, upstream, middleware) in routes {
        let rule = format!("Host(`{host}.test`)");
        let route = serde_json::json!({ "match": rule, "upstream": upstream, "middlewares": [middleware] });
        config.routes.insert(Name::new(host).expect("a name"), object(route));
    }
    config
}

struct World {
    server: Server,
    handles: [ProgramHandle; 2],
    endpoints: [Endpoint; 2],
}

impl World {
    async fn start(of_first: &[(&str, &str, &str)], of_second: &[(&str, &str, &str)]) -> Self {
        let endpoints = [Endpoint::start(1, AfterResponse::Keep).await, Endpoint::start(2, AfterResponse::Keep).await];
        let (first, first_handle) = ProgramProvider::new(Name::literal("first"));
        let (second, second_handle) = ProgramProvider::new(Name::literal("second"));
        let mut config_of_first = config("first", endpoints[0].address, of_first);
        config_of_first.listeners.insert(Name::literal("web"), Listener::http("127.0.0.1:0".parse().expect("an address")));
        first_handle.publish(config_of_first);
        second_handle.publish(config("second", endpoints[1].address, of_second));
        let server = Server::builder().workers(1).provider(first).provider(second).start().expect("a server starts");
        tokio::time::timeout(DEADLINE, server.ready()).await.expect("it is ready");
        Self { server, handles: [first_handle, second_handle], endpoints }
    }

    /// Which endpoint answers for a host, and whose middleware it has passed.
    async fn ask(&self, host: &str) -> String {
        let address = self.server.local_addr(&Name::literal("web")).expect("the listener is open");
        let mut connection = Connection::open(address).await.expect("it accepts");
        let answer = connection.exchange(&format!("GET / HTTP/1.1\r\nHost: {host}.test\r\n\r\n")).await.expect("an answer");
        match answer.status() {
            200 => answer.body.replace(&format!(" {host}.test"), ""),
            status => status.to_string(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_that_has_a_name_counts_and_the_others_can_be_named() {
    let of_first = [("a", "web", "mark"), ("b", "web@second", "mark@second"), ("c", "web@first", "mark@first")];
    let of_second = [("d", "web", "mark"), ("e", "web@second", "mark"), ("f", "web@third", "mark"), ("a", "web@second", "mark@second")];
    let world = World::start(&of_first, &of_second).await;
    assert_eq!(world.ask("a").await, "1 first");
    assert_eq!(world.ask("b").await, "2 second");
    assert_eq!(world.ask("c").await, "1 first");
    assert_eq!(world.ask("d").await, "1 first", "a route of one may name an upstream of another");
    assert_eq!(world.ask("e").await, "2 first");
    assert_eq!(world.ask("f").await, "503");
    let problems: Vec<String> = world.server.table().problems.iter().map(|problem| problem.render(false)).collect();
    let has = |text: &str| problems.iter().any(|problem| problem.contains(text));
    assert!(has("there is no upstream `web@third`") && has("used only as `web@second`"), "{problems:#?}");
    assert_eq!(problems.len(), 4, "upstream, middleware and route of the second, and what is missing: {problems:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_first_has_it_no_more_the_next_one_counts() {
    let world = World::start(&[], &[("a", "web", "mark"), ("b", "web@second", "mark@second"), ("c", "web@first", "mark")]).await;
    assert_eq!((world.ask("a").await, world.ask("b").await, world.ask("c").await), ("1 first".into(), "2 second".into(), "1 first".into()));
    let mut generations = world.server.status().generations();
    let before = *generations.borrow();
    let mut left = RoutingConfig::default();
    left.listeners.insert(Name::literal("web"), Listener::http("127.0.0.1:0".parse().expect("an address")));
    world.handles[0].publish(left);
    let published = generations.wait_for(|generation| *generation > before);
    tokio::time::timeout(DEADLINE, published).await.expect("in time").expect("the server runs");
    assert_eq!((world.ask("a").await, world.ask("b").await, world.ask("c").await), ("2 second".into(), "2 second".into(), "503".into()));
    assert_eq!(world.endpoints.len(), 2);
}
